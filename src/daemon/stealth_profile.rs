//! A profile of the stealth layout and where it stands: its keys and counter, its numbers at hand, and those that are burnt.

use std::collections::BTreeSet;

use super::profile_state::ProfileState;
use crate::counter::CounterError;
use crate::layout::Request;
use crate::layout::reach::{LiveNumbers, LiveReach};
use crate::layout::stealth::StealthKeys;
use crate::layout::steps::StealthReceiver;
use crate::syn::LoggedSyn;

/// How many burnt numbers are remembered.
const MAX_BURNT: usize = 1024;

/// A profile of the stealth layout.
#[derive(Debug)]
pub(super) struct StealthProfile {
    pub(super) state: ProfileState,
    /// Where its knocks go, if not to the port that they ask for.
    pub(super) knock_port: Option<u16>,
    keys: StealthKeys,
    /// Whether a knock is good from the address alone that it was made for.
    is_bound: bool,
    receiver: StealthReceiver,
    /// The numbers whose tags are live.
    live: LiveNumbers,
    /// Those that are not, though they would be: they came too often with a wrong MAC.
    burnt: BTreeSet<u64>,
}

/// The numbers that are live no more, and those that are now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct NumberChange {
    pub(super) gone: Vec<u64>,
    pub(super) more: Vec<u64>,
}

impl StealthProfile {
    /// As its counter on disk says. No number is live yet.
    pub(super) fn new(
        state: ProfileState,
        keys: StealthKeys,
        knock_port: Option<u16>,
        is_bound: bool,
    ) -> Result<Self, CounterError> {
        let next = state.counter.read()?;
        let receiver = StealthReceiver { next };
        let (live, burnt) = (LiveNumbers::NONE, BTreeSet::new());
        Ok(Self { state, knock_port, keys, is_bound, receiver, live, burnt })
    }

    /// Whether a knock with the number `n` is accepted in `step`.
    pub(super) fn accepts(&self, n: u64, step: u64) -> bool {
        self.receiver.accepts(n, step)
    }

    /// What the knock `syn` with the number `n` asks for. Nearly always that is the port it came to.
    pub(super) fn open(&self, n: u64, syn: &LoggedSyn<'_>) -> Option<Request> {
        let listed = self.state.requests.iter().flatten().copied();
        let requests = [syn.destination_port, 0].map(Request).into_iter().chain(listed);
        let bound_to = self.is_bound.then_some(syn.source);
        self.keys.open(n, requests, bound_to, syn.timestamp()?)
    }

    /// Makes it durable that the number `used` is used, and goes on after it. Where that fails, nothing has changed.
    pub(super) fn accept(&mut self, used: u64) -> Result<(), CounterError> {
        self.state.use_up(used)?;
        self.pass(used);
        Ok(())
    }

    /// `n` is never live again: somebody guesses at its MAC.
    ///
    /// Of more than can be remembered, the first is passed over with all before it.
    pub(super) fn burn(&mut self, n: u64) {
        self.burnt.insert(n);
        if self.burnt.len() > MAX_BURNT
            && let Some(first) = self.burnt.pop_first()
        {
            self.pass(first);
        }
    }

    fn pass(&mut self, used: u64) {
        self.receiver.accept(used);
        self.burnt = self.burnt.split_off(&self.receiver.next);
    }

    /// Whether its live numbers are those that it should have since it last used one.
    pub(super) fn is_up_to_date(&self) -> bool {
        self.live.next == self.receiver.next
    }

    /// Has those numbers live that are to be from `step` on. The change.
    pub(super) fn go_on(&mut self, step: u64, reach: LiveReach) -> NumberChange {
        let old = self.live;
        self.live = LiveNumbers { next: self.receiver.next, step, reach };
        let without = |one: LiveNumbers, other: LiveNumbers| {
            let is_new = |n: &u64| !other.has(*n) && !self.burnt.contains(n);
            one.iter().filter(is_new).collect()
        };
        NumberChange { gone: without(old, self.live), more: without(self.live, old) }
    }

    /// The tag of its number `n`.
    pub(super) fn tag(&self, n: u64) -> u32 {
        self.keys.tag(n)
    }
}
