//! What there is to know of a profile, whatever its layout: its name, its counter on disk, and what it may be granted.

use super::policy::Policy;
use crate::counter::{Counter, CounterError};
use crate::layout::Request;

/// A profile that may knock.
#[derive(Debug)]
pub(super) struct ProfileState {
    pub(super) name: String,
    pub(super) policy: Policy,
    /// What it can ask for with success, where that can be listed.
    pub(super) requests: Option<Vec<Request>>,
    pub(super) counter: Counter,
}

impl ProfileState {
    /// Makes it durable that the counter `used` is used up.
    pub(super) fn use_up(&self, used: u64) -> Result<(), CounterError> {
        // No layout has a number that has no next one.
        self.counter.write(used.saturating_add(1))
    }
}
