//! What the command line and root's config say together.

use std::path::{Path, PathBuf};

use nix::unistd::{Pid, geteuid};

use super::cli::DaemonArgs;
use super::config::Config;
use super::error::DaemonError;
use crate::privileged::limits::Limits;
use crate::profile::roots::{NotRoots, roots_alone};

/// Everything that is decided before anything is done.
pub(super) struct Settings {
    pub(super) config_dir: PathBuf,
    pub(super) table: String,
    pub(super) config: Config,
    pub(super) verbose: bool,
    /// Part of a trial: ends when that process does.
    pub(super) trial_of: Option<Pid>,
}

impl Settings {
    /// The command line takes precedence over the config.
    pub(super) fn new(args: &DaemonArgs) -> Result<Self, DaemonError> {
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
        let mut config = Config::load(&config_dir)?;
        if let Some(log) = &args.log {
            config.log.clone_from(log);
        }
        config.firewall = args.firewall.unwrap_or(config.firewall);
        config.user = args.user.clone().or(config.user);
        let table = instance.map_or("knockknock".into(), |name| format!("knockknock-{name}"));
        let trial_of = args.trial_of.map(Pid::from_raw);
        Ok(Self { config_dir, table, config, verbose: args.verbose, trial_of })
    }

    /// What may be granted to any profile, by root's config alone.
    pub(super) fn limits(&self) -> Limits {
        let config = &self.config;
        Limits {
            allow: config.allow.clone(),
            max_seconds: config.delay,
            max_open: config.max_open,
            max_open_per_source: config.max_open_per_source,
            ipv4: config.ipv4,
            ipv6: config.ipv6,
        }
    }
}

/// Of the config directory and the one of the profiles. Each is checked before anything in it is looked at.
pub(super) fn directory_of_root(dir: &Path) -> Result<(), DaemonError> {
    roots_alone(dir).map_err(|error| match error {
        NotRoots::Unreadable(path, why) => DaemonError::ConfigDir(path, why),
        error => error.into(),
    })
}

/// The name becomes part of a table's name, `knockknock-NAME` or `knockknock-NAME.try`.
fn is_instance_name(name: &str) -> bool {
    (1..=12).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}
