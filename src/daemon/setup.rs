//! Everything that the command line and root's config decide, and what is made of it at start.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use nix::unistd::{Pid, User, geteuid};

use super::cli::Args;
use super::config::{Config, FirewallKind, LogRule, SpendOn};
use super::authorize::{Authorizer, FirewallFeatures};
use super::error::DaemonError;
use super::profile_state::ProfileDefaults;
use super::say;
use super::log_source::{Choice, Opened};
use crate::privileged::{BackEnd, Firewall, FirewallError, Ids, Limits, LogRules, Spend};
use crate::profile::{self, NotRoots, ProfileError, ProfileFiles};

const DEFAULT_USER: &str = "knockknock";
const FALLBACK_USER: &str = "nobody";

/// How many SYNs to the knock ports of profiles without `allow` are logged in a second, and at once.
const KNOCK_PORT_LINES: u32 = 200;
const KNOCK_PORT_BURST: u32 = 200;

/// What the command line and the config say together.
pub(super) struct Setup {
    pub(super) config_dir: PathBuf,
    pub(super) table: String,
    pub(super) config: Config,
    pub(super) verbose: bool,
    /// Part of a trial: ends when that process does.
    pub(super) trial_of: Option<Pid>,
}

impl Setup {
    /// The command line goes before the config.
    pub(super) fn new(args: &Args) -> Result<Self, DaemonError> {
        if !geteuid().is_root() {
            return Err(DaemonError::NotRoot);
        }
        let instance = args.instance.as_deref();
        if let Some(name) = instance
            && !is_instance_name(name)
        {
            return Err(DaemonError::BadInstance(name.to_owned()));
        }
        let default_dir = || {
            instance.map_or("/etc/knockknock.d".into(), |name| {
                format!("/etc/knockknock-{name}.d").into()
            })
        };
        let config_dir = args.config_dir.clone().unwrap_or_else(default_dir);
        directory_of_root(&config_dir)?;
        let mut config = Config::load(&config_dir).map_err(DaemonError::Config)?;
        if let Some(log) = &args.log {
            config.log.clone_from(log);
        }
        config.firewall = args.firewall.unwrap_or(config.firewall);
        config.user = args.user.clone().or(config.user);
        let table = instance.map_or("knockknock".into(), |name| format!("knockknock-{name}"));
        let trial_of = args.trial_of.map(Pid::from_raw);
        Ok(Self { config_dir, table, config, verbose: args.verbose, trial_of })
    }

    /// Whom to run as.
    pub(super) fn user(&self) -> Result<Ids, DaemonError> {
        let find = |name: &str| {
            User::from_name(name).map_err(|why| DaemonError::System("cannot look users up", why.into()))
        };
        let user = if let Some(name) = &self.config.user {
            find(name)?.ok_or_else(|| DaemonError::NoUser(name.clone()))?
        } else if let Some(user) = find(DEFAULT_USER)? {
            user
        } else {
            say::event(format_args!(
                "there is no user {DEFAULT_USER:?}; goes on as {FALLBACK_USER:?}, and whatever else runs as that could \
                 end it; better: adduser --system --group --no-create-home {DEFAULT_USER}"
            ));
            find(FALLBACK_USER)?.ok_or_else(|| DaemonError::NoUser(DEFAULT_USER.into()))?
        };
        if user.uid.is_root() {
            return Err(DaemonError::RootUser(user.name));
        }
        Ok(Ids { uid: user.uid, gid: user.gid, groups: Vec::new() })
    }

    /// What anybody may be granted, by root's word alone.
    pub(super) fn limits(&self) -> Limits {
        let config = &self.config;
        Limits {
            allow: config
                .allow
                .as_ref()
                .map(|services| services.iter().map(|text| text.0).collect()),
            max_seconds: config.delay,
            max_open: config.max_open,
            max_open_per_source: config.max_open_per_source,
            ipv4: config.ipv4,
            ipv6: config.ipv6,
        }
    }

    /// The firewall, ready to be handed to the helper.
    pub(super) fn firewall(&self, log: &LogRules) -> Result<Firewall, DaemonError> {
        let create = |back_end| Firewall::create(&self.table, back_end, log, self.config.max_open);
        match self.config.firewall {
            FirewallKind::Conntrack => create(BackEnd::Conntrack),
            FirewallKind::Nftables => create(BackEnd::Nftables),
            FirewallKind::Auto => match create(BackEnd::Conntrack) {
                Err(error @ FirewallError::NoConntrackHelper) => {
                    say::event(format_args!("goes on with firewall = \"nftables\": {error}"));
                    create(BackEnd::Nftables)
                }
                created => created,
            },
        }
        .map_err(DaemonError::Firewall)
    }

    /// What `firewall` can do for us, and the config lets it.
    pub(super) fn means(&self, firewall: &Firewall) -> FirewallFeatures {
        let has_table = firewall.has_table();
        FirewallFeatures {
            logs: has_table && self.config.log_rule == LogRule::Own,
            tells: has_table && firewall.conntrack_helpers().is_some(),
        }
    }

    /// What our table logs. The prefixes are another's at each start: another daemon's lines are never taken for ours.
    pub(super) fn log_rules() -> Result<LogRules, DaemonError> {
        // Its first 8 digits are random.
        let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid")
            .map_err(|why| DaemonError::System("cannot read a random number from /proc", why))?;
        let tag = uuid.get(..8).unwrap_or_default();
        Ok(LogRules {
            knock_prefix: format!("KNOCK {tag} "),
            came_in_prefix: format!("KNOCK-IN {tag} "),
            per_second: KNOCK_PORT_LINES,
            burst: KNOCK_PORT_BURST,
        })
    }

    /// Makes the firewall's part and takes it away again, beside a daemon that may be running. No instance's name has a dot
    /// in it, so it is nobody's.
    pub(super) fn trial_firewall(&self) -> Result<Firewall, DaemonError> {
        Self {
            table: format!("{}.try", self.table),
            config: self.config.clone(),
            config_dir: PathBuf::new(),
            ..*self
        }
        .firewall(&Self::log_rules()?)
    }

    /// The log, opened.
    pub(super) fn source(&self) -> Result<Opened, DaemonError> {
        let Ok(choice) = self.config.log.parse::<Choice>();
        Opened::open(&choice).map_err(DaemonError::Log)
    }

    /// The profiles' files, opened and read. One that cannot be read is told of and left out: it must not lock the
    /// others' owners out. Says how many those are.
    pub(super) fn profiles(&self) -> Result<(Vec<ProfileFiles>, usize), DaemonError> {
        let dir = self.config_dir.join("profiles");
        directory_of_root(&dir)?;
        let names = profile::names(&dir).map_err(|why| DaemonError::ConfigDir(dir.clone(), why))?;
        let mut profiles = Vec::with_capacity(names.len());
        let mut unreadable = 0;
        for name in names {
            match ProfileFiles::read_of_root(&dir.join(name)) {
                Ok(files) => profiles.push(files),
                Err(error) => {
                    unreadable += 1;
                    left_out(&error);
                }
            }
        }
        Ok((profiles, unreadable))
    }

    /// The door with every profile that is sound, and how many were left out.
    pub(super) fn door(
        &self,
        files: Vec<ProfileFiles>,
        limits: Limits,
        means: FirewallFeatures,
    ) -> Result<(Authorizer, usize), DaemonError> {
        for files in files.iter().filter(|files| files.readable_by_others()) {
            say::event(format_args!(
                "{0:?}: others may read the keys; run: chmod -R go-rwx {0:?}",
                files.dir()
            ));
        }
        if self.config.allow.is_none()
            && let Some(said) = what_is_open(&files)
        {
            say::event(said);
        }
        let Config { delay, error_window, max_open_per_profile, spend, .. } = self.config;
        // Without somebody who tells, nothing would ever shut the door behind a handshake.
        let spend =
            if means.tells && spend == SpendOn::Handshake { Spend::Any } else { Spend::One };
        let rules = ProfileDefaults { seconds: delay, error_window, max_open_per_profile, spend };
        let (door, broken) = Authorizer::new(files, limits, rules, means);
        for error in &broken {
            left_out(error);
        }
        if door.is_empty() {
            return Err(DaemonError::NoProfiles(self.config_dir.join("profiles")));
        }
        Ok((door, broken.len()))
    }
}

/// Of the config directory and the one of the profiles. Each is checked before anything in it is looked at.
fn directory_of_root(dir: &Path) -> Result<(), DaemonError> {
    profile::roots_alone(dir).map_err(|error| match error {
        NotRoots::Unreadable(path, why) => DaemonError::ConfigDir(path, why),
        error => DaemonError::NotRoots(error),
    })
}

/// What can be asked for where the config has no `allow`: nobody finds out by an intruder that theirs was lost. None:
/// there is nobody to ask.
fn what_is_open(files: &[ProfileFiles]) -> Option<String> {
    /// More than these would hide what the line says.
    const NAMED: usize = 5;
    let profiles: Vec<_> = files.iter().filter_map(|files| files.profile().ok()).collect();
    let names = profiles.iter().filter(|profile| profile.config.allow.is_none());
    let names: Vec<_> = names.map(|profile| format!("{:?}", profile.name)).collect();
    let shown = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    let others = match names.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    if profiles.is_empty() {
        None
    } else if names.is_empty() {
        Some("config names no `allow`: each profile can ask for what its own `allow` names".into())
    } else if names.len() == profiles.len() {
        Some(format!(
            "config names no `allow`: any TCP port can be asked for (profiles {shown}{others})"
        ))
    } else {
        Some(format!(
            "config names no `allow`: any TCP port can be asked for by the profiles without their own ({shown}{others})"
        ))
    }
}

fn left_out(error: &ProfileError) {
    say::event(format_args!("a profile is left out: {error}"));
}

/// The name becomes part of a table's name, `knockknock-NAME` or `knockknock-NAME.try`.
fn is_instance_name(name: &str) -> bool {
    (1..=12).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}
