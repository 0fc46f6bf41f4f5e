//! Every profile that may knock, found by its knock port or by the tags of its knocks: what a log line costs does not grow
//! with their number.

use std::collections::HashMap;

use super::classic_profile::ClassicProfile;
use super::error::DaemonError;
use super::log_source::port_filter::PortSet;
use super::policy::{Policy, ProfileDefaults};
use super::profile_state::ProfileState;
use super::rejected_knocks::MeantFor;
use super::say;
use super::set_share::SetShare;
use super::stealth_profile::StealthProfile;
use super::stealth_profiles::StealthProfiles;
use crate::grant::Spend;
use crate::layout::keys::LayoutKeys;
use crate::privileged::limits::Limits;
use crate::profile::error::ProfileError;
use crate::profile::files::ProfileFiles;

/// The profiles.
#[derive(Debug)]
pub(super) struct ProfileRegistry {
    /// By knock port. Several may share one: the MAC says whose a knock is.
    pub(super) classic: HashMap<u16, Vec<ClassicProfile>>,
    /// By tag.
    pub(super) stealth: StealthProfiles,
}

impl ProfileRegistry {
    /// Parses the profiles and reads their counters. What is broken is left out and returned, so that one broken profile
    /// does not lock everybody out.
    pub(super) fn new(
        files: Vec<ProfileFiles>,
        limits: &Limits,
        defaults: ProfileDefaults,
    ) -> (Self, Vec<ProfileError>) {
        let mut classic: HashMap<u16, Vec<ClassicProfile>> = HashMap::new();
        let (mut stealth, mut broken) = (Vec::new(), Vec::new());
        for files in files {
            match LoadedProfile::new(files, limits, defaults) {
                Ok(LoadedProfile::Classic(port, profile)) => {
                    let profiles = classic.entry(port).or_default();
                    // One is the rule; a vector takes room for four.
                    profiles.reserve_exact(1);
                    profiles.push(profile);
                }
                Ok(LoadedProfile::Stealth(profile)) => stealth.push(profile),
                Err(error) => broken.push(error),
            }
        }
        (Self { classic, stealth: StealthProfiles::new(stealth) }, broken)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.classic.is_empty() && self.stealth.is_empty()
    }

    /// How the room in the kernel's set is shared out between them.
    pub(super) fn share(&self, window: u32) -> Result<SetShare, DaemonError> {
        let stealth = self.stealth.iter().len();
        let requests = self.classic().flat_map(|one| &one.state.requests).map(Vec::len).sum();
        SetShare::of(stealth, requests, window).ok_or(DaemonError::TooManyStealth(stealth))
    }

    /// Those of the classic layout.
    pub(super) fn classic(&self) -> impl Iterator<Item = &ClassicProfile> {
        self.classic.values().flatten()
    }

    /// The names, quoted, of those whom a SYN may have been meant for.
    pub(super) fn names_of(&self, whom: MeantFor) -> String {
        let states: Vec<_> = match whom {
            MeantFor::KnockPort(port) => {
                self.classic.get(&port).into_iter().flatten().map(|one| &one.state).collect()
            }
            MeantFor::Stealth => self.stealth.iter().map(|one| &one.state).collect(),
        };
        let names: Vec<_> = states.into_iter().map(|state| format!("{:?}", state.name)).collect();
        say::some_of(&names)
    }

    /// The names, quoted, of the profiles whose knocks cannot be listed: classic, and without `allow`, or with one too wide.
    pub(super) fn unlisted(&self) -> Vec<String> {
        let unlisted = self.classic().filter(|profile| profile.state.requests.is_none());
        let mut names: Vec<_> = unlisted.map(|one| format!("{:?}", one.state.name)).collect();
        names.sort_unstable();
        names
    }

    /// The ports that lines may be about: those of knocks, and `with_services` those where somebody may connect.
    pub(super) fn wanted_ports(&self, with_services: bool) -> PortSet {
        let mut wanted: PortSet = self.classic.keys().copied().collect();
        let knocked_at = self.stealth.iter().filter_map(|profile| profile.knock_port);
        knocked_at.for_each(|port| wanted.insert(port));
        // A stealth knock is for the port that it asks for.
        let with_requests = self.stealth.iter().map(|profile| &profile.state);
        let connected_to = self.classic().filter(|_| with_services).map(|profile| &profile.state);
        let listed: Option<Vec<_>> =
            with_requests.chain(connected_to).map(|state| state.requests.as_deref()).collect();
        match listed {
            Some(requests) => {
                requests.into_iter().flatten().for_each(|request| wanted.insert(request.0));
                wanted
            }
            // That may be any.
            None => (0..=u16::MAX).collect(),
        }
    }
}

/// A profile of either layout.
enum LoadedProfile {
    /// With its knock port.
    Classic(u16, ClassicProfile),
    Stealth(StealthProfile),
}

impl LoadedProfile {
    fn new(
        files: ProfileFiles,
        limits: &Limits,
        defaults: ProfileDefaults,
    ) -> Result<Self, ProfileError> {
        let config_path = files.dir().join("config");
        let wrong = |why| ProfileError::BadConfig(config_path.clone(), why);
        let (profile, counter) = files.parse()?;
        let policy = Policy::new(&profile.config, defaults).map_err(wrong)?;
        let requests = policy.requests(limits);
        let (name, knock_port) = (profile.name, profile.config.knock_port);
        let state = ProfileState { name, policy, requests, counter };
        match (profile.keys, knock_port) {
            (LayoutKeys::Classic(keys), Some(port)) => {
                let profile = ClassicProfile::new(state, keys, defaults.error_window)?;
                Ok(Self::Classic(port, profile))
            }
            (LayoutKeys::Classic(_), None) => Err(wrong("knock_port is missing".into())),
            // The knock itself is a SYN to the port that it opens: it would be the one that the grant is for.
            (LayoutKeys::Stealth(_), _) if defaults.spend != Spend::Any => Err(wrong(
                "a grant must end with a handshake for layout = stealth\n\
                 fix: spend = handshake and firewall = conntrack in the server's config, or a profile of the classic layout"
                    .into(),
            )),
            (LayoutKeys::Stealth(keys), _) => {
                let is_bound = profile.config.bind_source;
                Ok(Self::Stealth(StealthProfile::new(state, keys, knock_port, is_bound)?))
            }
        }
    }
}
