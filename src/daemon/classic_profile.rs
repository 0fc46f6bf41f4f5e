//! A profile of the classic layout and where it stands: its keys and counter, and the knocks that it knows again.

use std::collections::VecDeque;
use std::net::IpAddr;

use super::profile_state::ProfileState;
use crate::counter::CounterError;
use crate::layout::classic::Keys;
use crate::layout::receiver::{FAR, Receiver};
use crate::syn::{LoggedSyn, SynFields};

/// How many valid knocks are recognised when they come again.
const MAX_REMEMBERED: usize = 8;

/// A profile of the classic layout.
#[derive(Debug)]
pub(super) struct ClassicProfile {
    pub(super) state: ProfileState,
    pub(super) receiver: Receiver,
    /// The counter from which on its knocks are expected one by one, where what it can ask for is listed.
    pub(super) expected_from: u32,
    remembered: VecDeque<(SynFields, IpAddr)>,
}

/// Who sent a knock that was valid before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SeenBefore {
    /// The same address: a retry, or a packet that the network doubled.
    FromSameAddress,
    /// Another address.
    FromAnother,
}

impl ClassicProfile {
    /// As its counter on disk says.
    pub(super) fn new(
        state: ProfileState,
        keys: Keys,
        error_window: u32,
    ) -> Result<Self, CounterError> {
        let next = state.counter.read()?;
        let receiver = Receiver::new(keys, next, error_window, FAR);
        Ok(Self { state, receiver, expected_from: next, remembered: VecDeque::new() })
    }

    /// Makes it durable that the counter `used` is used, and goes on after it. Where that fails, nothing has changed.
    pub(super) fn accept(&mut self, used: u32, syn: &LoggedSyn<'_>) -> Result<(), CounterError> {
        self.state.use_up(used.into())?;
        self.receiver.accept(used);
        self.remember(syn);
        Ok(())
    }

    /// The sequence numbers of its knocks with `count` counters from `from` on.
    pub(super) fn sequences(&self, from: u32, count: u32) -> Vec<u32> {
        let mut numbers = Vec::new();
        if let Some(requests) = &self.state.requests {
            self.receiver.sequences(requests, from, count, |number| numbers.push(number));
        }
        numbers
    }

    /// Recognises this knock when it comes again.
    pub(super) fn remember(&mut self, syn: &LoggedSyn<'_>) {
        if self.remembered.len() == MAX_REMEMBERED {
            self.remembered.pop_front();
        }
        self.remembered.push_back((syn.fields, syn.source));
    }

    /// Whether this knock was valid lately, and who sends it now.
    pub(super) fn seen_before(&self, syn: &LoggedSyn<'_>) -> Option<SeenBefore> {
        let (_, source) = self.remembered.iter().find(|(fields, _)| *fields == syn.fields)?;
        let is_same = *source == syn.source;
        Some(if is_same { SeenBefore::FromSameAddress } else { SeenBefore::FromAnother })
    }
}
