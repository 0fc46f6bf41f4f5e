//! How the room in the kernel's set of expected numbers is shared out between the layouts and their profiles. Pure.

use crate::layout::reach::LiveReach;
use crate::layout::receiver::FAR;
use crate::layout::steps::STEP;
use crate::privileged::firewall::nftables::MAX_EXPECTED;

/// What each profile has of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SetShare {
    /// Stealth: how far each one's numbers reach.
    pub(super) reach: LiveReach,
    /// Classic: how many counters of each whose requests can be listed. 0: their knock ports are logged.
    pub(super) counters: u32,
}

impl SetShare {
    /// What has to do without: as little as is of use.
    pub(super) const LEAST: Self = Self { reach: LiveReach::LEAST, counters: 0 };

    /// What profiles do without, in words.
    pub(super) fn shortage(self) -> impl Iterator<Item = String> {
        let Self { reach, counters } = self;
        let classic = (1..FAR).contains(&counters).then(|| {
            format!(
                "so many profiles share the room for expected knocks that classic ones are heard up to {counters} counters \
                 ahead, not {FAR}"
            )
        });
        let stealth = (reach != LiveReach::FULL).then(|| {
            let LiveReach { window, skew, ahead } = reach;
            format!(
                "so many profiles share the room for expected knocks that stealth ones are heard up to {window} numbers ahead, \
                 not {}, and with {} minutes between the clocks, not {}{}",
                LiveReach::FULL.window,
                skew * STEP / 60,
                LiveReach::FULL.skew * STEP / 60,
                if ahead == LiveReach::FULL.ahead {
                    String::new()
                } else {
                    format!("; the numbers move every {} s", ahead * STEP)
                }
            )
        });
        classic.into_iter().chain(stealth)
    }

    /// For so many stealth profiles, and classic ones with so many requests in all, of which each has a number for each
    /// counter. `None`: there are too many stealth profiles.
    ///
    /// Who needs less than half gets all of it, and the others the rest. Stealth gets the least that is of use before
    /// classic gets anything, because classic can do without: fewer counters than the `window` are of no use to it.
    pub(super) fn of(stealth: usize, requests: usize, window: u32) -> Option<Self> {
        let all = u64::try_from(MAX_EXPECTED).unwrap_or(u64::MAX);
        let [stealth, requests] = [stealth, requests].map(|n| u64::try_from(n).unwrap_or(u64::MAX));
        let [least, full] = [LiveReach::LEAST, LiveReach::FULL]
            .map(|reach| stealth.saturating_mul(reach.numbers()));
        let for_stealth =
            full.min((all / 2).max(all.saturating_sub(requests.saturating_mul(FAR.into()))));
        let for_stealth = for_stealth.max(least);
        let counters =
            all.saturating_sub(for_stealth).checked_div(requests).map_or(FAR, |counters| {
                u32::try_from(counters).map_or(FAR, |counters| counters.min(FAR))
            });
        let (counters, for_stealth) =
            if counters < window { (0, all) } else { (counters, for_stealth) };
        let reach =
            for_stealth.checked_div(stealth).map_or(Some(LiveReach::FULL), LiveReach::within)?;
        (least <= all).then_some(Self { reach, counters })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: u32 = 20;

    /// How many numbers all of them have.
    fn numbers(share: SetShare, stealth: usize, requests: usize) -> usize {
        let each = usize::try_from(share.reach.numbers()).unwrap();
        stealth * each + requests * usize::try_from(share.counters).unwrap()
    }

    #[test]
    fn each_has_all_that_it_can_use_while_there_is_room() {
        for (stealth, requests) in [(0, 0), (1, 1), (910, 0), (0, 244), (455, 122), (900, 2)] {
            let share = SetShare::of(stealth, requests, WINDOW).unwrap();
            assert_eq!(
                share,
                SetShare { reach: LiveReach::FULL, counters: FAR },
                "{stealth} {requests}"
            );
        }
    }

    #[test]
    fn who_needs_less_than_half_gets_it_and_the_others_the_rest() {
        let of = |stealth, requests| {
            let share = SetShare::of(stealth, requests, WINDOW).unwrap();
            (share.reach.numbers(), share.counters)
        };
        assert_eq!(of(0, 1000), (1098, 1000));
        assert_eq!(of(10, 1000), (1098, 989));
        assert_eq!(of(1000, 1000), (498, 500));
        assert_eq!(of(1000, 1), (994, FAR));
        assert_eq!(of(10_000, 1), (98, FAR));
        // Classic needs more than is left, and goes by its knock ports.
        assert_eq!(of(9000, 10_000), (110, 0));
        assert_eq!(of(10, 50_000), (1098, 0));
    }

    #[test]
    fn ten_thousand_stealth_profiles_have_a_share_and_too_many_do_not() {
        let reach = SetShare::of(10_000, 0, WINDOW).unwrap().reach;
        assert_eq!(reach, LiveReach { window: 16, skew: 15, ahead: 11 });
        assert_eq!(SetShare::of(11_111, 1, WINDOW).unwrap().reach, LiveReach::LEAST);
        assert_eq!(SetShare::of(11_112, 0, WINDOW), None);
        assert_eq!(SetShare::of(usize::MAX, usize::MAX, WINDOW), None);
    }

    #[test]
    fn what_is_missing_is_said() {
        let said = |stealth, requests| {
            let share = SetShare::of(stealth, requests, WINDOW).unwrap();
            share.shortage().collect::<Vec<_>>()
        };
        assert_eq!(said(910, 0), Vec::<String>::new());
        assert_eq!(said(10, 50_000), Vec::<String>::new(), "that is said of the knock ports");
        let [classic, stealth] = &said(1000, 1000)[..] else { panic!("{:?}", said(1000, 1000)) };
        assert!(classic.ends_with("up to 500 counters ahead, not 4096"), "{classic}");
        assert!(
            stealth.ends_with(
                "96 numbers ahead, not 256, and with 11 minutes between the clocks, not 30"
            ),
            "{stealth}"
        );
        let [stealth] = &said(10_000, 0)[..] else { panic!("{:?}", said(10_000, 0)) };
        assert!(
            stealth.ends_with("16 numbers ahead, not 256, and with 2 minutes between the clocks, not 30; the numbers move every 110 s"),
            "{stealth}"
        );
    }

    #[test]
    fn no_share_is_more_than_the_set_holds() {
        for stealth in (0..11_112).step_by(97) {
            for requests in [0, 1, 10, 100, 243, 1000, 10_000, 49_000, 1_000_000] {
                for window in [1, 20, 4096] {
                    let share = SetShare::of(stealth, requests, window).unwrap();
                    assert!(numbers(share, stealth, requests) <= MAX_EXPECTED);
                    assert!(share.counters == 0 || share.counters >= window);
                }
            }
        }
    }
}
