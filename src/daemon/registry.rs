//! Every profile that may knock, found by its knock port: what a log line costs does not grow with their number.

use std::collections::HashMap;

use super::log_source::port_filter::PortSet;
use super::profile_state::{ProfileDefaults, ProfileState};
use crate::privileged::limits::Limits;
use crate::profile::error::ProfileError;
use crate::profile::files::ProfileFiles;

/// The profiles. Several may share a knock port: the MAC says whose a knock is.
#[derive(Debug, Default)]
pub(super) struct ProfileRegistry {
    ports: HashMap<u16, Vec<ProfileState>>,
}

impl ProfileRegistry {
    /// Parses the profiles and reads their counters. What is broken is left out and returned, so that one broken profile
    /// does not lock everybody out.
    pub(super) fn new(
        files: Vec<ProfileFiles>,
        limits: &Limits,
        defaults: ProfileDefaults,
    ) -> (Self, Vec<ProfileError>) {
        let mut registry = Self { ports: HashMap::with_capacity(files.len()) };
        let mut broken = Vec::new();
        for files in files {
            match ProfileState::new(files, limits, defaults) {
                Ok((port, profile)) => {
                    let profiles = registry.ports.entry(port).or_default();
                    // One is the rule; a vector takes room for four.
                    profiles.reserve_exact(1);
                    profiles.push(profile);
                }
                Err(error) => broken.push(error),
            }
        }
        (registry, broken)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    /// The profiles that knock on `port`. None: it is no knock port.
    pub(super) fn at_mut(&mut self, port: u16) -> Option<&mut [ProfileState]> {
        self.ports.get_mut(&port).map(Vec::as_mut_slice)
    }

    /// The knock ports, each with the profiles that knock on it.
    pub(super) fn ports(&self) -> impl Iterator<Item = (u16, &[ProfileState])> {
        self.ports.iter().map(|(port, profiles)| (*port, profiles.as_slice()))
    }

    /// All of them.
    pub(super) fn profiles(&self) -> impl Iterator<Item = &ProfileState> {
        self.ports.values().flatten()
    }

    /// The names of the profiles that knock on `port`, quoted.
    pub(super) fn names_at(&self, port: u16) -> String {
        let profiles = self.ports.get(&port).into_iter().flatten();
        profiles.map(|profile| format!("{:?}", profile.name)).collect::<Vec<_>>().join(", ")
    }

    /// The names, quoted, of the profiles whose knocks cannot be listed: without `allow`, or with one too wide.
    pub(super) fn unlisted(&self) -> Vec<String> {
        let unlisted = self.profiles().filter(|profile| profile.requests.is_none());
        let mut names: Vec<_> = unlisted.map(|profile| format!("{:?}", profile.name)).collect();
        names.sort_unstable();
        names
    }

    /// The ports that lines may be about: those of knocks, and `with_services` those where somebody may connect.
    pub(super) fn wanted_ports(&self, with_services: bool) -> PortSet {
        let mut wanted: PortSet = self.ports.keys().copied().collect();
        if with_services {
            let listed: Option<Vec<_>> = self.profiles().map(|p| p.requests.as_deref()).collect();
            match listed {
                Some(requests) => {
                    requests.into_iter().flatten().for_each(|request| wanted.insert(request.0));
                }
                // Somebody may connect to any port.
                None => return (0..=u16::MAX).collect(),
            }
        }
        wanted
    }
}
