//! A profile and where it stands: its keys and counter, and what it may be granted.

use std::collections::VecDeque;
use std::net::IpAddr;

use super::policy::Policy;
use crate::counter::{Counter, CounterError};
use crate::grant::{NotAService, Service, Spend};
use crate::layout::Request;
use crate::layout::keys::LayoutKeys;
use crate::layout::receiver::{FAR, Receiver};
use crate::privileged::limits::Limits;
use crate::profile::error::ProfileError;
use crate::profile::files::ProfileFiles;
use crate::syn::{LoggedSyn, SynFields};

/// How many valid knocks are recognised when they come again.
const MAX_REMEMBERED: usize = 8;

/// What the config says for all profiles.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProfileDefaults {
    /// How long a grant lasts, in seconds.
    pub(super) seconds: u16,
    /// How many counters ahead are tried.
    pub(super) error_window: u32,
    /// What uses a grant for TCP up, beside its time.
    pub(super) spend: Spend,
}

/// A profile that may knock.
#[derive(Debug)]
pub(super) struct ProfileState {
    pub(super) name: String,
    pub(super) receiver: Receiver,
    pub(super) policy: Policy,
    /// What it can ask for with success, where that can be listed: its knocks are expected one by one.
    pub(super) requests: Option<Vec<Request>>,
    /// The counter from which on its knocks are expected.
    pub(super) expected_from: u32,
    counter: Counter,
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

impl ProfileState {
    /// The knock port of the profile in `files`, and the profile.
    pub(super) fn new(
        files: ProfileFiles,
        limits: &Limits,
        defaults: ProfileDefaults,
    ) -> Result<(u16, Self), ProfileError> {
        let config_path = files.dir().join("config");
        let (profile, counter) = files.parse()?;
        let allow = profile.config.allow.as_deref().map(services).transpose();
        let allow = allow
            .map_err(|why| ProfileError::BadConfig(config_path.clone(), format!("allow: {why}")))?;
        let ProfileDefaults { seconds, spend, error_window } = defaults;
        let policy = Policy { default_port: profile.config.port, allow, seconds, spend };
        let (LayoutKeys::Classic(keys), Some(knock_port)) =
            (profile.keys, profile.config.knock_port)
        else {
            let why = "the stealth layout is not served yet";
            return Err(ProfileError::BadConfig(config_path, why.into()));
        };
        let next = counter.read()?;
        let state = Self {
            name: profile.name,
            receiver: Receiver::new(keys, next, error_window, FAR),
            requests: policy.requests(limits),
            expected_from: next,
            policy,
            counter,
            remembered: VecDeque::new(),
        };
        Ok((knock_port, state))
    }

    /// Makes it durable that the counter `used` is used, and goes on after it. Where that fails, nothing has changed.
    pub(super) fn accept(&mut self, used: u32) -> Result<(), CounterError> {
        // A used counter is below `SPENT`, so there is a next one.
        self.counter.write(used + 1)?;
        self.receiver.accept(used);
        Ok(())
    }

    /// The sequence numbers of its knocks with `count` counters from `from` on.
    pub(super) fn sequences(&self, from: u32, count: u32) -> Vec<u32> {
        let mut numbers = Vec::new();
        if let Some(requests) = &self.requests {
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

fn services(texts: &[String]) -> Result<Vec<Service>, NotAService> {
    texts.iter().map(|text| text.parse()).collect()
}
