//! Which number the next knock has, and which numbers are accepted: a counter and a clock, whichever is ahead
//! (`docs/protocol.md`, "Counter or clock").
//!
//! Each ten seconds of Unix time, a step, have 256 numbers. So knocks that were lost, and state that was lost or restored,
//! keep nobody out while the clocks agree within half an hour; without a clock the counter alone goes on.

/// Numbers of a step.
pub const NUMBERS: u64 = 256;
/// A step's length, in seconds.
pub const STEP: u64 = 10;
/// How many steps the two clocks may differ: half an hour.
pub const MAX_SKEW: u64 = 180;
/// A knock that is no further ahead than this is accepted without a look at the clock.
pub const WINDOW: u64 = 256;
/// So many of a step's numbers are accepted by the clock.
pub const BY_CLOCK: u64 = 2;

/// The step of a time, in seconds since 1970-01-01 00:00 UTC.
#[must_use]
pub fn step_of(unix: u64) -> u64 {
    unix / STEP
}

fn first_of(step: u64) -> u64 {
    step.saturating_mul(NUMBERS)
}

/// Where a sender stands. All of it is durable before a knock leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StealthSender {
    /// The first number that has not been used.
    pub counter: u64,
    /// The same of those that the clock alone gave, while the counter was far ahead of it.
    pub by_clock: u64,
    /// Whether it is the clock's turn then.
    pub clock_is_next: bool,
}

impl StealthSender {
    /// The number of a knock in `step`, which is used up by this. `None`: there are no more.
    pub fn next(&mut self, step: u64) -> Option<u64> {
        let by_clock = first_of(step).max(self.by_clock);
        // One of the two is wrong, and nothing here tells which: the counter, if the clock was ahead for a while and the
        // server has not followed; the clock, if it was set back. So they take turns.
        if self.counter > first_of(step.saturating_add(MAX_SKEW)) {
            let is_clocks_turn = self.clock_is_next;
            self.clock_is_next = !is_clocks_turn;
            if is_clocks_turn {
                self.by_clock = by_clock.checked_add(1)?;
                return Some(by_clock);
            }
        }
        let n = self.counter.max(first_of(step));
        self.counter = n.checked_add(1)?;
        Some(n)
    }
}

/// Where a receiver stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StealthReceiver {
    /// The first number that has not been used or passed over. Durable before a knock opens anything.
    pub next: u64,
}

impl StealthReceiver {
    /// Whether a knock with the number `n` is accepted in `step`.
    #[must_use]
    pub fn accepts(&self, n: u64, step: u64) -> bool {
        n >= self.next
            && (n < self.next.saturating_add(WINDOW)
                || n % NUMBERS < BY_CLOCK && (n / NUMBERS).abs_diff(step) <= MAX_SKEW)
    }

    /// `n` has been used: neither it nor one before it is accepted from here on.
    pub fn accept(&mut self, n: u64) {
        self.next = self.next.max(n.saturating_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 179_000_000;

    #[test]
    fn a_step_is_ten_seconds_of_unix_time() {
        for (seconds, step) in
            [(0, 0), (9, 0), (10, 1), (1_790_000_009, NOW), (1_790_000_010, NOW + 1)]
        {
            assert_eq!(step_of(seconds), step);
        }
    }

    #[test]
    fn the_counter_goes_on_where_it_is_ahead_and_else_the_clock_does() {
        let mut sender = StealthSender::default();
        assert_eq!(sender.next(NOW), Some(NOW * 256));
        assert_eq!(sender.next(NOW), Some(NOW * 256 + 1));
        assert_eq!(
            sender.next(NOW - 5),
            Some(NOW * 256 + 2),
            "a clock that goes back a little changes nothing"
        );
        assert_eq!(sender.next(NOW + 1), Some(NOW * 256 + 256));
        // No clock: the machine has come up in 1970.
        let mut sender = StealthSender { counter: 17, ..StealthSender::default() };
        assert_eq!((0..3).map(|_| sender.next(0)).collect::<Vec<_>>(), [17, 18, 19].map(Some));
    }

    #[test]
    fn where_the_counter_is_far_ahead_of_the_clock_both_are_tried_in_turn() {
        let far = (NOW + MAX_SKEW) * 256 + 1;
        let mut sender = StealthSender { counter: far, ..StealthSender::default() };
        let sent: Vec<_> = (0..4).filter_map(|_| sender.next(NOW)).collect();
        assert_eq!(sent, [far, NOW * 256, far + 1, NOW * 256 + 1]);
        // One less is within the half hour.
        let mut sender = StealthSender { counter: far - 1, ..StealthSender::default() };
        assert_eq!([sender.next(NOW), sender.next(NOW)], [Some(far - 1), Some(far)]);
    }

    #[test]
    fn the_last_numbers_do_not_overflow() {
        let mut sender = StealthSender { counter: u64::MAX - 1, by_clock: 0, clock_is_next: false };
        assert_eq!(sender.next(NOW), Some(u64::MAX - 1));
        let mut sender = StealthSender { counter: u64::MAX, ..StealthSender::default() };
        assert_eq!(sender.next(u64::MAX / 256), None);
        let mut receiver = StealthReceiver { next: u64::MAX - 1 };
        assert!(receiver.accepts(u64::MAX - 1, NOW) && !receiver.accepts(u64::MAX, NOW));
        receiver.accept(u64::MAX - 1);
        assert_eq!(receiver.next, u64::MAX);
        assert!(!receiver.accepts(u64::MAX, u64::MAX / 256));
    }

    #[test]
    fn half_an_hour_is_the_border_on_both_sides() {
        let receiver = StealthReceiver { next: 0 };
        for (step, accepted) in
            [(NOW - 181, false), (NOW - 180, true), (NOW + 180, true), (NOW + 181, false)]
        {
            for nth in [0, 1] {
                assert_eq!(receiver.accepts(step * 256 + nth, NOW), accepted, "{step}");
            }
            assert!(!receiver.accepts(step * 256 + 2, NOW));
        }
    }
}
