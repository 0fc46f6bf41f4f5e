//! Limits the work that strangers can cause: to a share of one processor, or to a number of times a second. A limiter
//! never refuses for longer than a second.

use std::time::{Duration, Instant};

/// Unused time is saved for at most this long, and time used in advance is at most this long.
const BURST: Duration = Duration::from_secs(1);

/// Limits one thing. A fresh one has its whole burst.
#[derive(Debug, Default)]
pub(super) struct RateLimiter {
    /// When everything that was taken is paid for; before a burst ago: nothing is owed.
    paid_at: Option<Instant>,
}

impl RateLimiter {
    /// Whether more may be taken at `now`.
    pub(super) fn allows(&self, now: Instant) -> bool {
        self.paid_at.is_none_or(|paid_at| paid_at <= now + BURST)
    }

    /// Takes at `now` what takes `time` to pay for.
    pub(super) fn charge(&mut self, now: Instant, time: Duration) {
        let start = self.paid_at.map_or(now, |paid_at| paid_at.max(now));
        self.paid_at = Some(start + time.min(BURST));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_its_burst_a_limiter_gives_what_time_pays_for() {
        let start = Instant::now();
        let mut limiter = RateLimiter::default();
        let mut taken = 0;
        for tick in 0..10_000 {
            let now = start + Duration::from_millis(tick);
            if limiter.allows(now) {
                limiter.charge(now, Duration::from_millis(500));
                taken += 1;
            }
        }
        assert!((20..=24).contains(&taken), "two a second for ten seconds, and a burst: {taken}");
    }

    #[test]
    fn however_dear_a_thing_is_it_is_to_be_had_once_a_second() {
        let start = Instant::now();
        let mut limiter = RateLimiter::default();
        for second in 0..10 {
            let now = start + Duration::from_secs(second);
            assert!(limiter.allows(now));
            limiter.charge(now, Duration::from_secs(3600));
        }
    }
}
