//! Which numbers of a profile with the stealth layout a receiver keeps at hand: those that it accepts now or will accept in
//! the next minutes. Fewer, where many profiles share a limited room.

use std::ops::Range;

use super::steps::{BY_CLOCK, MAX_SKEW, NUMBERS, WINDOW};

/// How far a profile's numbers reach. Those that are accepted and not at hand are not heard: a knock that is further
/// ahead, or a clock that is further off, waits until the clock gives a number that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveReach {
    /// How many numbers from the next one on.
    pub window: u64,
    /// How many steps the two clocks may differ.
    pub skew: u64,
    /// How many steps beyond that: for so long it is enough, until it is moved.
    pub ahead: u64,
}

impl LiveReach {
    /// Everything that is accepted, and what will be within ten minutes.
    pub const FULL: Self = Self { window: WINDOW, skew: MAX_SKEW, ahead: 60 };
    /// With less a profile is of no use: five minutes of clock in all, moved once a minute.
    pub const LEAST: Self = Self { window: 16, skew: 15, ahead: 6 };

    /// The longest with at most so many numbers of each profile. `None`: not even [`LiveReach::LEAST`].
    ///
    /// First the window and the clocks' difference get shorter, both alike; then it is moved more often.
    #[must_use]
    pub fn within(numbers: u64) -> Option<Self> {
        let short = Self { ahead: Self::FULL.ahead, ..Self::LEAST };
        if let Some(more) = numbers.checked_sub(short.numbers()) {
            let whole = Self::FULL.numbers() - short.numbers();
            let part = |least, full| least + (full - least) * more.min(whole) / whole;
            let window = part(short.window, Self::FULL.window);
            return Some(Self { window, skew: part(short.skew, Self::FULL.skew), ..short });
        }
        let without = Self { ahead: 0, ..Self::LEAST };
        let ahead = numbers.checked_sub(without.numbers())? / BY_CLOCK;
        (ahead >= Self::LEAST.ahead).then_some(Self { ahead, ..Self::LEAST })
    }

    /// How many numbers a profile has at the most.
    #[must_use]
    pub fn numbers(self) -> u64 {
        self.window + BY_CLOCK * (2 * self.skew + 1 + self.ahead)
    }
}

/// A profile's numbers at hand, from a step on and for as many more as the reach is ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveNumbers {
    /// The first number that has not been used or passed over.
    pub next: u64,
    /// The step from which on they are enough.
    pub step: u64,
    /// How far they reach.
    pub reach: LiveReach,
}

impl LiveNumbers {
    /// No number at all.
    pub const NONE: Self =
        Self { next: u64::MAX, step: 0, reach: LiveReach { window: 0, skew: 0, ahead: 0 } };

    /// Each once, in order.
    pub fn iter(self) -> impl Iterator<Item = u64> {
        let after = self.window().end;
        let by_clock = self.steps().flat_map(|step| {
            (0..BY_CLOCK).map(move |nth| step.saturating_mul(NUMBERS).saturating_add(nth))
        });
        self.window().chain(by_clock.filter(move |n| *n >= after && self.has(*n)))
    }

    /// Whether this is one.
    #[must_use]
    pub fn has(self, n: u64) -> bool {
        self.window().contains(&n)
            || n >= self.next && n % NUMBERS < BY_CLOCK && self.steps().contains(&(n / NUMBERS))
    }

    fn window(self) -> Range<u64> {
        self.next..self.next.saturating_add(self.reach.window)
    }

    fn steps(self) -> Range<u64> {
        let LiveReach { skew, ahead, .. } = self.reach;
        self.step.saturating_sub(skew)..self.step.saturating_add(skew + 1 + ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::steps::StealthReceiver;

    const NOW: u64 = 179_000_000;

    #[test]
    fn the_fewer_numbers_there_are_the_shorter_is_the_reach() {
        for (numbers, window, skew, ahead) in [
            (u64::MAX, 256, 180, 60),
            (1098, 256, 180, 60),
            (1097, 255, 179, 60),
            (500, 96, 70, 60),
            (198, 16, 15, 60),
            (197, 16, 15, 59),
            (100, 16, 15, 11),
            (90, 16, 15, 6),
        ] {
            let reach = LiveReach { window, skew, ahead };
            assert_eq!(LiveReach::within(numbers), Some(reach), "{numbers}");
        }
        assert_eq!(LiveReach::within(89), None);
        assert_eq!(LiveReach::within(0), None);
        for numbers in 90..1200 {
            let has = LiveReach::within(numbers).unwrap().numbers();
            assert!(has <= numbers && has + 6 > numbers.min(1098), "{numbers}: {has}");
        }
    }

    /// Where the next number is: at the clock, behind it, ahead of it.
    const NEXT: [u64; 6] =
        [0, NOW * 256 - 300, NOW * 256, NOW * 256 + 1, NOW * 256 + 257, (NOW + 500) * 256];

    #[test]
    fn what_is_at_hand_is_listed_once_and_in_order_and_nothing_else_is() {
        for reach in [LiveReach::FULL, LiveReach::LEAST] {
            for next in NEXT {
                let live = LiveNumbers { next, step: NOW, reach };
                let listed: Vec<u64> = live.iter().collect();
                assert!(listed.is_sorted_by(|one, other| one < other));
                assert!(u64::try_from(listed.len()).unwrap() <= reach.numbers());
                let around = (NOW - 200) * 256..(NOW + 260) * 256;
                let has = |n: &u64| live.has(*n);
                let all: Vec<u64> = around
                    .chain(0..300)
                    .chain((NOW + 500) * 256..(NOW + 502) * 256)
                    .filter(has)
                    .collect();
                assert_eq!(all.len(), listed.len());
                assert!(all.iter().all(|n| listed.binary_search(n).is_ok()));
            }
        }
    }

    #[test]
    fn what_is_accepted_is_at_hand_for_ten_minutes() {
        let all_cases = std::env::var_os("KNOCKKNOCK_ALL_CASES").is_some();
        for next in NEXT.into_iter().step_by(if all_cases { 1 } else { 4 }) {
            let (live, receiver) =
                (LiveNumbers { next, step: NOW, reach: LiveReach::FULL }, StealthReceiver { next });
            let around = (NOW - 182) * 256..(NOW + 250) * 256;
            for n in around.chain(next.saturating_sub(2)..next + 260) {
                let is_accepted = (NOW..=NOW + 60).any(|step| receiver.accepts(n, step));
                assert_eq!(live.has(n), is_accepted, "{n}");
            }
        }
    }

    #[test]
    fn the_last_numbers_do_not_overflow() {
        for step in [0, 1, u64::MAX / 256, u64::MAX / 10, u64::MAX] {
            let live = LiveNumbers { next: u64::MAX - 5, step, reach: LiveReach::FULL };
            assert_eq!(
                live.iter().collect::<Vec<_>>(),
                (u64::MAX - 5..u64::MAX).collect::<Vec<_>>()
            );
        }
        let live = LiveNumbers { next: 0, step: u64::MAX, reach: LiveReach::FULL };
        assert_eq!(live.iter().count(), 256);
    }

    #[test]
    fn none_is_none() {
        assert_eq!(LiveNumbers::NONE.iter().count(), 0);
        assert!([0, 1, 256, u64::MAX - 1, u64::MAX].iter().all(|n| !LiveNumbers::NONE.has(*n)));
    }
}
