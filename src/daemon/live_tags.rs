//! The tags of all knocks with the stealth layout that may come: whose each is, and which number it has. A SYN that has none
//! of them costs one look-up, however many profiles there are.

use std::collections::BTreeMap;

/// A number whose tag came so often with a wrong MAC is burnt: who holds a knock that was not delivered has so many guesses.
const TOO_OFTEN: u8 = 8;

/// One number of one profile. Two may have the same tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LiveTag {
    /// What the knock has as its sequence number.
    pub tag: u32,
    /// Whose it is, by its place among the profiles.
    pub profile: u32,
    /// The number.
    pub n: u64,
}

/// All of them, each with how often it came with a wrong MAC.
#[derive(Debug, Default)]
pub struct LiveTags(BTreeMap<LiveTag, u8>);

impl LiveTags {
    /// Whose a tag may be.
    pub fn at(&self, tag: u32) -> impl Iterator<Item = LiveTag> {
        let first = LiveTag { tag, profile: 0, n: 0 };
        let last = LiveTag { tag, profile: u32::MAX, n: u64::MAX };
        self.0.range(first..=last).map(|(live, _)| *live)
    }

    /// All of them, in order; twice what two numbers have.
    pub fn all(&self) -> impl Iterator<Item = u32> {
        self.0.keys().map(|live| live.tag)
    }

    /// Puts one in.
    pub fn insert(&mut self, live: LiveTag) {
        self.0.insert(live, 0);
    }

    /// Takes one out. Whether it was there.
    pub fn remove(&mut self, live: LiveTag) -> bool {
        self.0.remove(&live).is_some()
    }

    /// It came with a wrong MAC.
    pub fn count_wrong(&mut self, live: LiveTag) {
        if let Some(times) = self.0.get_mut(&live) {
            *times = times.saturating_add(1);
        }
    }

    /// Whether it has come so too often.
    #[must_use]
    pub fn is_burnt(&self, live: LiveTag) -> bool {
        self.0.get(&live).is_some_and(|times| *times >= TOO_OFTEN)
    }
}

impl FromIterator<LiveTag> for LiveTags {
    fn from_iter<I: IntoIterator<Item = LiveTag>>(tags: I) -> Self {
        Self(tags.into_iter().map(|live| (live, 0)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(tag: u32, profile: u32, n: u64) -> LiveTag {
        LiveTag { tag, profile, n }
    }

    fn at(tags: &LiveTags, tag: u32) -> Vec<(u32, u64)> {
        tags.at(tag).map(|live| (live.profile, live.n)).collect()
    }

    #[test]
    fn a_tag_is_found_with_everybody_whose_it_may_be() {
        let mut tags: LiveTags =
            [live(7, 2, 9), live(7, 1, u64::MAX), live(8, 0, 0)].into_iter().collect();
        tags.insert(live(u32::MAX, u32::MAX, u64::MAX));
        tags.insert(live(7, 2, 10));
        assert_eq!(at(&tags, 7), [(1, u64::MAX), (2, 9), (2, 10)]);
        assert_eq!(at(&tags, 8), [(0, 0)]);
        assert_eq!(at(&tags, u32::MAX), [(u32::MAX, u64::MAX)]);
        assert!(tags.remove(live(7, 2, 9)) && !tags.remove(live(7, 2, 9)));
        assert!(!tags.remove(live(8, 1, 0)));
        assert_eq!((at(&tags, 7), at(&tags, 8)), (vec![(1, u64::MAX), (2, 10)], vec![(0, 0)]));
        assert_eq!((at(&tags, 0), at(&tags, 6), at(&tags, 9)), (vec![], vec![], vec![]));
    }

    #[test]
    fn the_eighth_wrong_mac_burns_a_number_and_no_other() {
        let mut tags: LiveTags = [live(7, 1, 1), live(7, 1, 2)].into_iter().collect();
        for _ in 1..8 {
            tags.count_wrong(live(7, 1, 1));
            assert!(!tags.is_burnt(live(7, 1, 1)));
        }
        tags.count_wrong(live(7, 1, 1));
        assert!(tags.is_burnt(live(7, 1, 1)) && !tags.is_burnt(live(7, 1, 2)));
        for _ in 0..300 {
            tags.count_wrong(live(7, 1, 1));
            tags.count_wrong(live(1, 1, 1));
        }
        assert!(tags.is_burnt(live(7, 1, 1)) && !tags.is_burnt(live(1, 1, 1)));
    }
}
