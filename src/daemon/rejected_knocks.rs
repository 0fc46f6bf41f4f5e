//! Wrong knocks: counted, and told of at most once a minute per knock port, whatever the rate at which they come.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The least time between two lines about one knock port.
const PERIOD: Duration = Duration::from_secs(60);

/// How many addresses are remembered between two lines. Beyond, only their number of knocks counts.
const MAX_SOURCES: usize = 16;

/// The wrong knocks on one knock port since the last line about them.
#[derive(Debug, Default)]
pub(super) struct RejectedKnocks {
    tally: RejectedTally,
    quiet_until: Option<Instant>,
}

/// What is wrong with a knock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It was valid once: its counter has been used or passed over.
    Replayed,
    /// It is nobody's.
    NoKeyFits,
}

/// What a line about wrong knocks says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RejectedTally {
    total: u64,
    replayed: u64,
    sources: BTreeMap<IpAddr, u64>,
}

impl RejectedKnocks {
    /// Counts one. The first after a quiet minute is told of at once.
    pub(super) fn count(&mut self, source: IpAddr, kind: Kind, now: Instant) -> Option<RejectedTally> {
        self.tally.total += 1;
        self.tally.replayed += u64::from(kind == Kind::Replayed);
        if self.tally.sources.len() < MAX_SOURCES || self.tally.sources.contains_key(&source) {
            *self.tally.sources.entry(source).or_default() += 1;
        }
        self.due(now)
    }

    /// What there is to tell, if a minute has passed since the last line.
    pub(super) fn due(&mut self, now: Instant) -> Option<RejectedTally> {
        if self.tally.total == 0 || self.quiet_until.is_some_and(|until| now < until) {
            return None;
        }
        self.quiet_until = Some(now + PERIOD);
        Some(std::mem::take(&mut self.tally))
    }

    /// When there will be something to tell, if nothing more happens. None while nothing is pending, so that an idle
    /// daemon has no timer.
    #[must_use]
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.quiet_until.filter(|_| self.tally.total > 0)
    }
}

impl fmt::Display for RejectedTally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} wrong knock{}", self.total, if self.total == 1 { "" } else { "s" })?;
        if self.replayed > 0 {
            write!(f, " ({} replayed)", self.replayed)?;
        }
        f.write_str(" from ")?;
        for (nth, (source, count)) in self.sources.iter().enumerate() {
            write!(f, "{}{source}", if nth == 0 { "" } else { ", " })?;
            if *count > 1 {
                write!(f, " ({count})")?;
            }
        }
        if self.sources.values().sum::<u64>() < self.total {
            f.write_str(" and others")?;
        }
        match self.replayed {
            0 => f.write_str(": no key fits: wrong profile, or altered on the way"),
            all if all == self.total => Ok(()),
            _ => f.write_str(": no key fits the others: wrong profile, or altered on the way"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn the_first_is_told_at_once_and_the_rest_of_the_minute_in_one_line() {
        let start = Instant::now();
        let mut wrong = RejectedKnocks::default();
        let first = wrong.count(address(1), Kind::NoKeyFits, start).unwrap();
        assert_eq!(
            first.to_string(),
            "1 wrong knock from 192.0.2.1: no key fits: wrong profile, or altered on the way"
        );
        assert_eq!(wrong.next_due(), None, "nothing is pending, so nothing wakes the daemon");

        assert_eq!(wrong.count(address(1), Kind::Replayed, start + Duration::from_secs(1)), None);
        assert_eq!(wrong.count(address(1), Kind::Replayed, start + Duration::from_secs(2)), None);
        assert_eq!(wrong.count(address(2), Kind::Replayed, start + Duration::from_secs(3)), None);
        assert_eq!(wrong.next_due(), Some(start + PERIOD));
        let rest = wrong.due(start + PERIOD).unwrap();
        assert_eq!(rest.to_string(), "3 wrong knocks (3 replayed) from 192.0.2.1 (2), 192.0.2.2");
        assert_eq!(wrong.due(start + 2 * PERIOD), None);
    }

    #[test]
    fn memory_does_not_grow_with_the_number_of_sources() {
        let start = Instant::now();
        let mut wrong = RejectedKnocks::default();
        wrong.count(address(0), Kind::Replayed, start);
        for last in 0..=255 {
            wrong.count(address(last), Kind::Replayed, start);
        }
        let tally = wrong.due(start + PERIOD).unwrap();
        assert_eq!(tally.sources.len(), MAX_SOURCES);
        assert!(tally.to_string().starts_with("256 wrong knocks (256 replayed) from "), "{tally}");
        assert!(tally.to_string().ends_with(" and others"), "{tally}");
    }
}
