//! Knocks that were not valid: counted, and reported at most once a minute per knock port, and of all stealth profiles
//! together, whatever the rate at which they come.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::syn::{LoggedSyn, SynFields};

/// The least time between two reports about one knock port.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// How many addresses are remembered between two reports. Beyond, only their number of knocks counts.
const MAX_SOURCES: usize = 16;

/// Whom a SYN that is no valid knock may have been meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum MeantFor {
    /// The classic profiles with this knock port.
    KnockPort(u16),
    /// A stealth profile: where there are many, chance alone finds a live tag of one or the other.
    Stealth,
}

/// The rejected knocks that have not been reported, by whom they were meant for.
#[derive(Debug, Default)]
pub(super) struct RejectedKnocks {
    meant: HashMap<MeantFor, RejectedAlike>,
    /// Those with something to report, so that the cost of a wake-up does not grow with the number of profiles.
    pending: BTreeSet<MeantFor>,
}

/// The rejected knocks that were meant alike since the last report about them.
#[derive(Debug, Default)]
struct RejectedAlike {
    report: RejectedReport,
    quiet_until: Option<Instant>,
    /// The last one: a knock that our table and another firewall both log counts once.
    last: Option<(SynFields, IpAddr, u16)>,
}

/// Why a knock is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RejectReason {
    /// It was valid once: its counter has been used or passed over.
    Replayed,
    /// No profile's keys match.
    NoKeyMatches,
}

/// What a report about rejected knocks says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RejectedReport {
    total: u64,
    replayed: u64,
    sources: BTreeMap<IpAddr, u64>,
}

/// Whether a counted knock is reported.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Counted {
    /// This is to be reported now.
    Report(RejectedReport),
    /// It is reported later.
    Pending,
    /// It is the previous knock, logged again.
    Duplicate,
}

impl RejectedKnocks {
    /// Counts one. The first after a quiet minute is reported at once.
    pub(super) fn count(
        &mut self,
        syn: &LoggedSyn<'_>,
        whom: MeantFor,
        reason: RejectReason,
        now: Instant,
    ) -> Counted {
        let alike = self.meant.entry(whom).or_default();
        let this = Some((syn.fields, syn.source, syn.source_port));
        if std::mem::replace(&mut alike.last, this) == this {
            return Counted::Duplicate;
        }
        self.pending.insert(whom);
        alike.count(syn.source, reason, now).map_or(Counted::Pending, Counted::Report)
    }

    /// The reports that are due, and whom they are about.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(MeantFor, RejectedReport)> {
        let mut due = Vec::new();
        self.pending.retain(|whom| {
            let Some(alike) = self.meant.get_mut(whom) else { return false };
            due.extend(alike.due(now).map(|report| (*whom, report)));
            alike.next_due().is_some()
        });
        due
    }

    /// When [`RejectedKnocks::due`] will next have something to report. None while nothing is pending, so that an idle
    /// daemon has no timer.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.pending.iter().filter_map(|whom| self.meant.get(whom)?.next_due()).min()
    }
}

impl RejectedAlike {
    fn count(
        &mut self,
        source: IpAddr,
        reason: RejectReason,
        now: Instant,
    ) -> Option<RejectedReport> {
        let report = &mut self.report;
        report.total += 1;
        report.replayed += u64::from(reason == RejectReason::Replayed);
        if report.sources.len() < MAX_SOURCES || report.sources.contains_key(&source) {
            *report.sources.entry(source).or_default() += 1;
        }
        self.due(now)
    }

    fn due(&mut self, now: Instant) -> Option<RejectedReport> {
        if self.report.total == 0 || self.quiet_until.is_some_and(|until| now < until) {
            return None;
        }
        self.quiet_until = Some(now + REPORT_INTERVAL);
        Some(std::mem::take(&mut self.report))
    }

    fn next_due(&self) -> Option<Instant> {
        self.quiet_until.filter(|_| self.report.total > 0)
    }
}

impl fmt::Display for RejectedReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} invalid knock{}", self.total, if self.total == 1 { "" } else { "s" })?;
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
            0 => f.write_str(": no key matches (another profile, or altered in transit)"),
            all if all == self.total => Ok(()),
            _ => {
                f.write_str(": no key matches the others (another profile, or altered in transit)")
            }
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
    fn the_first_is_reported_at_once_and_the_rest_of_the_minute_in_one_line() {
        let start = Instant::now();
        let mut rejected = RejectedAlike::default();
        let first = rejected.count(address(1), RejectReason::NoKeyMatches, start).unwrap();
        assert_eq!(
            first.to_string(),
            "1 invalid knock from 192.0.2.1: no key matches (another profile, or altered in transit)"
        );
        assert_eq!(rejected.next_due(), None, "nothing is pending, so nothing wakes the daemon");

        for (host, after) in [(1, 1), (1, 2), (2, 3)] {
            let now = start + Duration::from_secs(after);
            assert_eq!(rejected.count(address(host), RejectReason::Replayed, now), None);
        }
        assert_eq!(rejected.next_due(), Some(start + REPORT_INTERVAL));
        let rest = rejected.due(start + REPORT_INTERVAL).unwrap();
        assert_eq!(rest.to_string(), "3 invalid knocks (3 replayed) from 192.0.2.1 (2), 192.0.2.2");
        assert_eq!(rejected.due(start + 2 * REPORT_INTERVAL), None);
    }

    #[test]
    fn memory_does_not_grow_with_the_number_of_sources() {
        let start = Instant::now();
        let mut rejected = RejectedAlike::default();
        rejected.count(address(0), RejectReason::Replayed, start);
        for last in 0..=255 {
            rejected.count(address(last), RejectReason::Replayed, start);
        }
        let report = rejected.due(start + REPORT_INTERVAL).unwrap();
        assert_eq!(report.sources.len(), MAX_SOURCES);
        assert!(
            report.to_string().starts_with("256 invalid knocks (256 replayed) from "),
            "{report}"
        );
        assert!(report.to_string().ends_with(" and others"), "{report}");
    }

    #[test]
    fn a_knock_that_two_firewalls_log_counts_once_and_each_port_has_a_report_of_its_own() {
        let start = Instant::now();
        let mut rejected = RejectedKnocks::default();
        let syn = |destination_port, seq| LoggedSyn {
            source: address(1),
            destination: address(2),
            source_port: 2000,
            destination_port,
            fields: SynFields { id: 1, seq, ack: 0, window: 0 },
            asks_for_ecn: false,
            options_hex: b"",
        };
        let mut count = |port, seq| {
            let whom = if port == 22 { MeantFor::Stealth } else { MeantFor::KnockPort(port) };
            rejected.count(&syn(port, seq), whom, RejectReason::NoKeyMatches, start)
        };
        assert!(matches!(count(666, 1), Counted::Report(_)));
        assert_eq!(count(666, 1), Counted::Duplicate);
        assert_eq!(count(666, 2), Counted::Pending);
        assert!(matches!(count(667, 2), Counted::Report(_)));
        assert!(matches!(count(22, 2), Counted::Report(_)));
        assert_eq!(rejected.next_due(), Some(start + REPORT_INTERVAL));
        let due = rejected.due(start + REPORT_INTERVAL);
        assert_eq!(
            due.iter().map(|(whom, report)| (*whom, report.total)).collect::<Vec<_>>(),
            [(MeantFor::KnockPort(666), 1)]
        );
        assert_eq!(rejected.next_due(), None);
    }
}
