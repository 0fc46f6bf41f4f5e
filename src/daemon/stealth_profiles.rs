//! All profiles of the stealth layout, and the tags that each has live: found by the tag, whatever their number.

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

/// Tags that are live no more, and those that are now. Of each as many as there are numbers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct TagChange {
    pub(super) gone: Vec<u32>,
    pub(super) more: Vec<u32>,
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
    pub(super) fn move_on(&mut self, tag: u32, step: u64) -> TagChange {
        let mut change = TagChange::default();
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
    pub(super) fn move_some(&mut self) -> TagChange {
        let mut change = TagChange::default();
        while let Some((step, next)) = self.moving
            && change.gone.len() + change.more.len() < PIECE
        {
            self.go_on(next, step, &mut change);
            let is_last = self.profiles.len() <= place_of(next) + 1;
            self.moving = (!is_last).then_some((step, next + 1));
        }
        change
    }

    fn go_on(&mut self, place: u32, step: u64, change: &mut TagChange) {
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
