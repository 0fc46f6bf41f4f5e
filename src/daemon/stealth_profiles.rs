//! All profiles of the stealth layout, and the tags that each has live: found by the tag, whatever their number.

use super::expected_sequences::SequenceChange;
use super::live_tags::{LiveTag, LiveTags};
use super::stealth_profile::{NumberChange, StealthProfile};
use crate::layout::Request;
use crate::layout::reach::LiveReach;
use crate::syn::LoggedSyn;

/// About so many tags are moved at once while all profiles are: some milliseconds, for which a knock has to wait.
const PIECE: usize = 2048;

/// The profiles, each by its place.
#[derive(Debug)]
pub(super) struct StealthProfiles {
    profiles: Vec<StealthProfile>,
    tags: LiveTags,
    reach: LiveReach,
    /// While all profiles are moved to a step: that, and the place of the next one.
    moving: Option<(u64, u32)>,
}

/// What a SYN is to them.
#[derive(Debug)]
pub(super) enum TagMatch<'p> {
    /// A valid knock of this profile: what it asks for, and its number.
    Valid(&'p mut StealthProfile, Request, u64),
    /// It has a tag that is accepted now, and not the MAC that belongs to it.
    WrongMac,
    /// It has no such tag.
    NoTag,
}

impl StealthProfiles {
    /// With no tag live yet.
    pub(super) fn new(profiles: Vec<StealthProfile>) -> Self {
        Self { profiles, tags: LiveTags::default(), reach: LiveReach::FULL, moving: None }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.profiles.is_empty()
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &StealthProfile> {
        self.profiles.iter()
    }

    /// How far the numbers of each reach.
    pub(super) fn reach(&self) -> LiveReach {
        self.reach
    }

    /// Makes all tags live that are to be from `step` on, and gives them back.
    pub(super) fn begin(&mut self, reach: LiveReach, step: u64) -> Vec<u32> {
        self.reach = reach;
        let mut tags = Vec::new();
        for (profile, place) in self.profiles.iter_mut().zip(0..) {
            let numbers = profile.go_on(step, reach).more;
            tags.extend(numbers.into_iter().map(|n| LiveTag {
                tag: profile.tag(n),
                profile: place,
                n,
            }));
        }
        // Sorted it becomes a map in the room that it needs.
        self.tags = tags.into_iter().collect();
        self.tags.all().collect()
    }

    /// Whose knock `syn` is, by its tag. Where that came with a wrong MAC, it is counted.
    pub(super) fn find(&mut self, syn: &LoggedSyn<'_>, step: u64) -> TagMatch<'_> {
        let of = |live: &LiveTag| self.profiles.get(place_of(live.profile));
        let is_accepted =
            |live: &LiveTag| of(live).is_some_and(|profile| profile.accepts(live.n, step));
        let tags: Vec<_> = self.tags.at(syn.fields.seq).filter(is_accepted).collect();
        let found = tags
            .iter()
            .find_map(|live| Some((place_of(live.profile), of(live)?.open(live.n, syn)?, live.n)));
        if let Some((place, request, n)) = found
            && let Some(profile) = self.profiles.get_mut(place)
        {
            return TagMatch::Valid(profile, request, n);
        }
        for live in &tags {
            self.tags.count_wrong(*live);
        }
        if tags.is_empty() { TagMatch::NoTag } else { TagMatch::WrongMac }
    }

    /// After a SYN with this tag: moves on the profile that has used a number of its, and burns what came too often.
    pub(super) fn move_on(&mut self, tag: u32, step: u64) -> SequenceChange {
        let mut change = SequenceChange::default();
        for live in self.tags.at(tag).collect::<Vec<_>>() {
            let Some(profile) = self.profiles.get_mut(place_of(live.profile)) else { continue };
            if self.tags.is_burnt(live) {
                profile.burn(live.n);
                self.tags.remove(live);
                change.gone.push(tag);
            }
            if !profile.is_up_to_date() {
                self.go_on(live.profile, step, &mut change);
            }
        }
        change
    }

    /// Begins to move all profiles to `step`.
    pub(super) fn begin_moving(&mut self, step: u64) {
        self.moving = Some((step, 0));
    }

    /// Whether that is not done yet.
    pub(super) fn are_moving(&self) -> bool {
        self.moving.is_some()
    }

    /// Moves some of them.
    pub(super) fn move_some(&mut self) -> SequenceChange {
        let mut change = SequenceChange::default();
        while let Some((step, next)) = self.moving
            && change.gone.len() + change.more.len() < PIECE
        {
            self.go_on(next, step, &mut change);
            let is_last = self.profiles.len() <= place_of(next) + 1;
            self.moving = (!is_last).then_some((step, next + 1));
        }
        change
    }

    fn go_on(&mut self, place: u32, step: u64, change: &mut SequenceChange) {
        let Some(profile) = self.profiles.get_mut(place_of(place)) else { return };
        let NumberChange { gone, more } = profile.go_on(step, self.reach);
        let live = |n| LiveTag { tag: profile.tag(n), profile: place, n };
        // What was burnt since is gone already.
        let gone = gone.into_iter().map(live).filter(|live| self.tags.remove(*live));
        change.gone.extend(gone.map(|live| live.tag));
        for live in more.into_iter().map(live) {
            self.tags.insert(live);
            change.more.push(live.tag);
        }
    }
}

fn place_of(profile: u32) -> usize {
    usize::try_from(profile).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::counter::Counter;
    use crate::daemon::policy::Policy;
    use crate::daemon::profile_state::ProfileState;
    use crate::grant::Spend;
    use crate::layout::reach::LiveNumbers;
    use crate::layout::stealth::StealthKeys;
    use crate::syn::SynFields;

    /// A step of the year 2026.
    const NOW: u64 = 179_000_000;
    const SHORT: LiveReach = LiveReach { window: 16, skew: 15, ahead: 11 };

    fn keys(place: u8) -> StealthKeys {
        StealthKeys::new(&[place; 32])
    }

    /// A profile that may ask for port 443, and whose default is 22.
    fn profile(dir: &Path, secret: u8, next: u64) -> StealthProfile {
        fs::write(dir.join("counter"), format!("{next:020}\n")).unwrap();
        let counter = Counter::open(dir).unwrap();
        let policy = Policy { default_port: Some(22), allow: None, seconds: 15, spend: Spend::Any };
        let requests = Some(vec![Request(0), Request(443)]);
        let state = ProfileState { name: secret.to_string(), policy, requests, counter };
        StealthProfile::new(state, keys(secret), None, false).unwrap()
    }

    /// Profiles with the secrets 1, 2, 3, …, which all share one file for their counters.
    fn profiles(dir: &Path, nexts: &[u64]) -> StealthProfiles {
        let profiles = nexts.iter().zip(1..).map(|(next, secret)| profile(dir, secret, *next));
        StealthProfiles::new(profiles.collect())
    }

    /// A knock for a port, at port 22.
    fn knock(secret: u8, n: u64, port: u16) -> (u32, String) {
        let fields = keys(secret).seal(n, Request(port), None);
        (fields.tag, format!("020405B40402080A{:08X}0000000001030307", fields.mac))
    }

    fn find(all: &mut StealthProfiles, (tag, options): &(u32, String), step: u64) -> String {
        let syn = LoggedSyn {
            source: [192, 0, 2, 7].into(),
            destination: [192, 0, 2, 1].into(),
            source_port: 2000,
            destination_port: 22,
            fields: SynFields { id: 0, seq: *tag, ack: 0, window: 0 },
            asks_for_ecn: false,
            options_hex: options.as_bytes(),
        };
        match all.find(&syn, step) {
            TagMatch::Valid(profile, request, n) => {
                profile.accept(n).unwrap();
                format!("{} of {}", request.0, profile.state.name)
            }
            TagMatch::WrongMac => "wrong".into(),
            TagMatch::NoTag => "none".into(),
        }
    }

    /// The kernel's set, as it is told.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Told(BTreeMap<u32, u32>);

    impl Told {
        fn of(tags: impl IntoIterator<Item = u32>) -> Self {
            let mut told = Self::default();
            told.change(SequenceChange { gone: vec![], more: tags.into_iter().collect() });
            told
        }

        fn change(&mut self, SequenceChange { gone, more }: SequenceChange) {
            for tag in more {
                *self.0.entry(tag).or_default() += 1;
            }
            for tag in gone {
                let count = self.0.get_mut(&tag).expect("what goes was there");
                *count -= 1;
                if *count == 0 {
                    self.0.remove(&tag);
                }
            }
        }
    }

    #[test]
    fn a_knock_is_found_by_its_tag_and_what_it_asks_for_by_its_mac() {
        let dir = tempfile::tempdir().unwrap();
        let mut all = profiles(dir.path(), &[NOW * 256, 0]);
        all.begin(LiveReach::FULL, NOW);
        for (knock, found) in [
            (knock(1, NOW * 256, 22), "22 of 1"),
            (knock(1, NOW * 256 + 1, 443), "443 of 1"),
            (knock(1, NOW * 256 + 2, 0), "0 of 1"),
            (knock(1, NOW * 256 + 3, 80), "wrong"),
            (knock(1, NOW * 256 + 2, 0), "none"),
            (knock(2, 255, 22), "22 of 2"),
            (knock(2, NOW * 256, 22), "22 of 2"),
            (knock(3, NOW * 256, 22), "none"),
            ((knock(1, NOW * 256 + 3, 22).0, String::new()), "wrong"),
        ] {
            assert_eq!(find(&mut all, &knock, NOW), found);
            all.move_on(knock.0, NOW);
        }
    }

    #[test]
    fn a_live_tag_is_a_knock_only_while_its_number_is_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let mut all = profiles(dir.path(), &[0]);
        all.begin(LiveReach::FULL, NOW);
        let early = knock(1, (NOW + 200) * 256, 22);
        assert_eq!(find(&mut all, &early, NOW + 19), "none");
        assert_eq!(find(&mut all, &knock(1, (NOW - 180) * 256, 22), NOW + 1), "none");
        assert_eq!(find(&mut all, &early, NOW + 20), "22 of 1");
    }

    #[test]
    fn a_number_is_burnt_with_eight_wrong_macs_and_stays_so() {
        let dir = tempfile::tempdir().unwrap();
        let mut all = profiles(dir.path(), &[NOW * 256]);
        let mut told = Told::of(all.begin(LiveReach::FULL, NOW));
        let (good, next) = (knock(1, NOW * 256, 22), knock(1, NOW * 256 + 1, 22));
        for nth in 1..=8 {
            assert!(told.0.contains_key(&good.0), "{nth}");
            assert_eq!(find(&mut all, &(good.0, next.1.clone()), NOW), "wrong");
            told.change(all.move_on(good.0, NOW));
        }
        assert!(!told.0.contains_key(&good.0));
        // Neither a clock that is set nor a move brings it back.
        for step in [NOW + 30, NOW - 30, 0, NOW] {
            all.begin_moving(step);
            while all.are_moving() {
                told.change(all.move_some());
            }
            assert_eq!(find(&mut all, &good, NOW), "none");
        }
        assert_eq!(find(&mut all, &next, NOW), "22 of 1");
    }

    #[test]
    fn who_has_burnt_numbers_without_end_passes_over_the_first_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let mut profile = profile(dir.path(), 1, 0);
        for n in (100..).step_by(2).take(1024) {
            profile.burn(n);
        }
        assert!(profile.accepts(0, 0) && profile.accepts(100, 0));
        profile.burn(10_000);
        assert!(!profile.accepts(100, 0) && profile.accepts(101, 0));
    }

    #[test]
    fn two_with_one_secret_are_both_found() {
        let dir = tempfile::tempdir().unwrap();
        let twins = [profile(dir.path(), 1, NOW * 256), profile(dir.path(), 1, NOW * 256)];
        let mut all = StealthProfiles::new(twins.into());
        let mut told = Told::of(all.begin(LiveReach::FULL, NOW));
        let knock = knock(1, NOW * 256, 22);
        for left in [1, 0] {
            assert_eq!(find(&mut all, &knock, NOW), "22 of 1");
            told.change(all.move_on(knock.0, NOW));
            assert_eq!(told.0.get(&knock.0).copied().unwrap_or(0), left);
        }
        assert_eq!(find(&mut all, &knock, NOW), "none");
    }

    #[test]
    fn all_are_moved_in_pieces_and_a_knock_between_them_is_heard() {
        const COUNT: usize = 20;
        let dir = tempfile::tempdir().unwrap();
        let mut all = profiles(dir.path(), &[0; COUNT]);
        let mut told = Told::of(all.begin(LiveReach::FULL, NOW));
        let later = NOW + 100_000;
        all.begin_moving(later);
        let mut pieces = 0;
        while all.are_moving() {
            let change = all.move_some();
            assert!(change.gone.len() + change.more.len() < PIECE + 2 * 1098);
            told.change(change);
            pieces += 1;
            let numbered = knock(20, pieces, 22);
            assert_eq!(find(&mut all, &numbered, later), "22 of 20");
            told.change(all.move_on(numbered.0, later));
        }
        assert!(pieces >= 10, "{pieces}");
        assert_eq!(told, Told::of(all.tags.all()));
        assert_eq!(told.0.len(), COUNT * 1098);
        assert_eq!(all.move_some(), SequenceChange::default());
    }

    #[test]
    fn whatever_happens_the_tags_are_those_of_the_numbers_at_hand() {
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut below = |limit: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % limit
        };
        let all_cases = std::env::var_os("KNOCKKNOCK_ALL_CASES").is_some();
        let times = if all_cases { 1 } else { 10 };
        for (reach, events) in [(LiveReach::FULL, 50), (SHORT, 300), (LiveReach::LEAST, 300)] {
            let events = events / times;
            let dir = tempfile::tempdir().unwrap();
            let mut all = profiles(dir.path(), &[0, NOW * 256, (NOW + 100) * 256 + 7]);
            let mut told = Told::of(all.begin(reach, NOW));
            let (mut step, mut nexts, mut moved) =
                (NOW, [0, NOW * 256, (NOW + 100) * 256 + 7], [NOW; 3]);
            let mut burnt = vec![];
            for _ in 0..events {
                step = match below(20) {
                    0 => NOW - below(2000),
                    1 => NOW + below(2000),
                    _ => step + below(3),
                };
                let place = usize::try_from(below(3)).unwrap();
                let secret = u8::try_from(place).unwrap() + 1;
                let live = LiveNumbers { next: nexts[place], step: moved[place], reach };
                let numbers: Vec<u64> =
                    live.iter().filter(|n| !burnt.contains(&(place, *n))).collect();
                let n = numbers[usize::try_from(below(numbers.len() as u64)).unwrap() / 8];
                let good = knock(secret, n, 22);
                if below(3) == 0 {
                    all.begin_moving(step);
                    while all.are_moving() {
                        told.change(all.move_some());
                    }
                    moved = [step; 3];
                } else if below(5) == 0 {
                    let times = (0..8).filter(|_| {
                        let found = find(&mut all, &(good.0, String::new()), step);
                        told.change(all.move_on(good.0, step));
                        found == "wrong"
                    });
                    if times.count() == 8 {
                        burnt.push((place, n));
                    }
                } else if find(&mut all, &good, step) != "none" {
                    told.change(all.move_on(good.0, step));
                    (nexts[place], moved[place]) = (n + 1, step);
                }
                let at_hand = (0..3).flat_map(|place: usize| {
                    let live = LiveNumbers { next: nexts[place], step: moved[place], reach };
                    let is_burnt = |n: u64| burnt.contains(&(place, n));
                    let keys = keys(u8::try_from(place).unwrap() + 1);
                    live.iter().filter(|n| !is_burnt(*n)).map(|n| keys.tag(n)).collect::<Vec<_>>()
                });
                let at_hand = Told::of(at_hand);
                assert_eq!(told, at_hand);
                assert_eq!(told, Told::of(all.tags.all()));
            }
        }
    }
}
