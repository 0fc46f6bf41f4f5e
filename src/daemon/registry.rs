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
        let name = |state: &ProfileState| format!("{:?}", state.name);
        let classic = |port| self.classic.get(&port).into_iter().flatten();
        match whom {
            MeantFor::KnockPort(port) => say::some_of(classic(port).map(|one| name(&one.state))),
            MeantFor::Stealth => say::some_of(self.stealth.iter().map(|one| name(&one.state))),
        }
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

#[cfg(test)]
mod tests {
    use std::fs::{self, DirBuilder};
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    use std::path::Path;

    use super::*;

    const LIMITS: Limits = Limits {
        allow: None,
        max_seconds: 60,
        max_open: 10,
        max_open_per_source: 10,
        ipv4: true,
        ipv6: true,
    };

    fn files(dir: &Path, config: &str) -> ProfileFiles {
        let dir = dir.join(format!("{}", dir.read_dir().unwrap().count()));
        DirBuilder::new().mode(0o700).create(&dir).unwrap();
        for (name, content) in [
            ("cipher.key", "BwcHBwcHBwcHBwcHBwcHBw==\n"),
            ("mac.key", "CQkJCQkJCQkJCQkJCQkJCQ==\n"),
            ("secret.key", "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n"),
            ("config", &format!("[main]\n{config}")),
            ("counter", "7\n"),
        ] {
            fs::write(dir.join(name), content).unwrap();
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
        ProfileFiles::read(&dir).unwrap()
    }

    fn registry(configs: &[&str], spend: Spend) -> (ProfileRegistry, Vec<ProfileError>) {
        let dir = tempfile::tempdir().unwrap();
        let files = configs.iter().map(|config| files(dir.path(), config)).collect();
        let defaults = ProfileDefaults { seconds: 15, error_window: 20, spend };
        ProfileRegistry::new(files, &LIMITS, defaults)
    }

    #[test]
    fn lines_are_wanted_about_the_ports_where_knocks_of_either_layout_come() {
        let classic = "knock_port = 666\nallow = tcp/22\n";
        let stealth = "layout = stealth\nallow = tcp/443, tcp/80\nport = 80\n";
        let elsewhere = "layout = stealth\nallow = tcp/25\nknock_port = 53\n";
        let anywhere = "layout = stealth\n";
        for (configs, with_services, ports) in [
            (&[classic][..], false, &[666][..]),
            (&[classic], true, &[22, 666]),
            (&[stealth], false, &[0, 80, 443]),
            (&[stealth, classic], false, &[0, 80, 443, 666]),
            (&[stealth, classic], true, &[0, 22, 80, 443, 666]),
            (&[elsewhere], false, &[25, 53]),
        ] {
            let (registry, broken) = registry(configs, Spend::Any);
            assert!(broken.is_empty(), "{broken:?}");
            let wanted = registry.wanted_ports(with_services);
            let listed: Vec<u16> = (0..=u16::MAX).filter(|port| wanted.contains(*port)).collect();
            assert_eq!(listed, ports, "{configs:?} {with_services}");
        }
        let (registry, _) = registry(&[anywhere, classic], Spend::Any);
        assert_eq!(registry.wanted_ports(false), (0..=u16::MAX).collect());
    }

    #[test]
    fn a_stealth_profile_whose_grants_end_with_a_syn_is_left_out() {
        let (registry, broken) =
            registry(&["layout = stealth\n", "knock_port = 666\n"], Spend::One);
        let [why] = &broken[..] else { panic!("{broken:?}") };
        assert!(why.to_string().contains("a grant must end with a handshake"), "{why}");
        assert!(registry.stealth.is_empty() && !registry.is_empty());
        assert_eq!(registry.names_of(MeantFor::KnockPort(666)), "\"1\"");
    }

    #[test]
    fn those_whom_a_syn_may_have_been_meant_for_are_named_and_of_many_the_first() {
        let (registry, _) = registry(&["layout = stealth\n"; 6], Spend::Any);
        let names = registry.names_of(MeantFor::Stealth);
        assert_eq!(names, "\"0\", \"1\", \"2\", \"3\", \"4\" and others");
        assert_eq!(registry.names_of(MeantFor::KnockPort(666)), "");
        assert_eq!(registry.unlisted(), Vec::<String>::new());
    }
}
