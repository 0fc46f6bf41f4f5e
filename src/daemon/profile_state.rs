//! A profile and where it stands: its keys and counter, what it may have, and what it has open.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::net::IpAddr;

use super::config::ServiceText;
use super::policy::Policy;
use crate::counter::{Counter, CounterError};
use crate::layout::Request;
use crate::layout::receiver::{FAR, Receiver};
use crate::privileged::{Grants, Limits, Service, Spend};
use crate::profile::{ProfileError, ProfileFiles};
use crate::syn::{LoggedSyn, SynFields};

/// How many understood knocks are recognised when they come again.
const HEARD: usize = 8;

/// What of the config every profile has in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProfileDefaults {
    /// How long a grant lasts, in seconds.
    pub(super) seconds: u16,
    /// How many counters ahead are tried.
    pub(super) error_window: u32,
    /// How many grants one profile may have open at once.
    pub(super) max_open_per_profile: usize,
    /// What uses a grant for TCP up, beside its time.
    pub(super) spend: Spend,
}

/// A profile that may knock.
#[derive(Debug)]
pub(super) struct ProfileState {
    pub(super) name: String,
    pub(super) receiver: Receiver,
    pub(super) policy: Policy,
    /// What is open for it, within the profile's own quota.
    pub(super) grants: Grants,
    /// What it can ask for with success, where that can be listed: its knocks are expected one by one.
    pub(super) requests: Option<Vec<Request>>,
    /// The counter from which on its knocks are expected.
    pub(super) expected_from: u32,
    counter: Counter,
    heard: VecDeque<(SynFields, IpAddr)>,
}

/// A knock that was understood before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// From the same address: a retry, or a packet that the network doubled.
    Repeated,
    /// From another address.
    Replayed,
}

impl ProfileState {
    /// The knock port of the profile in `files`, and the profile.
    pub(super) fn new(
        files: ProfileFiles,
        limits: &Limits,
        rules: ProfileDefaults,
    ) -> Result<(u16, Self), ProfileError> {
        let config_path = files.dir().join("config");
        let (profile, counter) = files.parse()?;
        let allow = profile.config.allow.map(services).transpose();
        let allow =
            allow.map_err(|why| ProfileError::BadConfig(config_path, format!("allow: {why}")))?;
        let ProfileDefaults { seconds, spend, .. } = rules;
        let policy = Policy { default_port: profile.config.port, allow, seconds, spend };
        let next = counter.read()?;
        let guest = Self {
            name: profile.name,
            receiver: Receiver::new(profile.keys, next, rules.error_window, FAR),
            requests: policy.requests(limits),
            expected_from: next,
            policy,
            grants: Grants::new(rules.max_open_per_profile, rules.max_open_per_profile),
            counter,
            heard: VecDeque::new(),
        };
        Ok((profile.config.knock_port, guest))
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
    pub(super) fn hear(&mut self, syn: &LoggedSyn<'_>) {
        if self.heard.len() == HEARD {
            self.heard.pop_front();
        }
        self.heard.push_back((syn.fields, syn.source));
    }

    /// Whether this knock was heard lately, and from whom.
    pub(super) fn has_heard(&self, syn: &LoggedSyn<'_>) -> Option<Again> {
        let (_, source) = self.heard.iter().find(|(fields, _)| *fields == syn.fields)?;
        Some(if *source == syn.source { Again::Repeated } else { Again::Replayed })
    }
}

fn services(texts: Vec<String>) -> Result<Vec<Service>, String> {
    texts.into_iter().map(|text| ServiceText::try_from(text).map(|service| service.0)).collect()
}
