//! What failed attempts at a connection show: how long an answer takes, and whether the port opened although nothing
//! listens there.

use std::io;
use std::time::Duration;

use nix::errno::Errno;

/// An answer that takes longer is one to a SYN that the kernel has sent again (after a second): the first had none.
const AT_ONCE: Duration = Duration::from_millis(900);

/// The answers to the attempts of one race.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// The last answer.
    pub(super) last: Option<Errno>,
    /// The shortest time to an answer.
    pub(super) round_trip: Duration,
    /// Whether the first attempt, or a later one, was refused at once.
    first: bool,
    later: bool,
}

impl Refusals {
    /// Records that attempt `nth`, from 0, failed with `why` after `took`.
    pub(super) fn record(&mut self, nth: u32, took: Duration, why: &io::Error) {
        if self.last.is_none() || took < self.round_trip {
            self.round_trip = took;
        }
        let why = why.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
        if why == Errno::ECONNREFUSED && took < AT_ONCE {
            self.first |= nth == 0;
            self.later |= nth > 0;
        }
        self.last = Some(why);
    }

    /// The first attempt had no answer, and a later one was refused at once.
    pub(super) fn after_silence(&self) -> bool {
        self.later && !self.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_at_once_counts_where_the_first_attempt_had_none() {
        let quick = Duration::from_millis(20);
        let late = Duration::from_millis(1020);
        let refused = io::Error::from_raw_os_error(Errno::ECONNREFUSED as i32);
        let unreachable = io::Error::from_raw_os_error(Errno::EHOSTUNREACH as i32);
        for (told, after_silence) in [
            (&[(0, quick, &refused), (1, quick, &refused)][..], false),
            (&[(1, quick, &refused)], true),
            (&[(1, quick, &refused), (0, late, &refused)], true),
            (&[(1, late, &refused)], false),
            (&[(1, quick, &unreachable)], false),
        ] {
            let mut refusals = Refusals::default();
            for (nth, took, why) in told {
                refusals.record(*nth, *took, why);
            }
            assert_eq!(refusals.after_silence(), after_silence, "{told:?}");
            let shortest = told.iter().map(|(_, took, _)| *took).min().unwrap();
            assert_eq!(refusals.round_trip, shortest);
        }
    }
}
