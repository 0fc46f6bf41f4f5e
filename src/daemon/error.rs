//! Why the daemon does not start, or has to exit. Each error names what is wrong and what to do.

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;
use thiserror::Error;

use super::config::ConfigError;
use super::helper_handle::{Ended, HelperGone, NotReady};
use super::log_source::error::SourceError;
use super::sandbox::SandboxError;
use crate::privileged::drop_privileges::DropError;
use crate::privileged::firewall::FirewallError;
use crate::privileged::message::Reply;
use crate::profile::roots::NotRoots;

/// Why the daemon does not start, or does not go on.
#[derive(Debug, Error)]
pub(super) enum DaemonError {
    /// Not started as root.
    #[error(
        "not started by root\nfix: start it as root, to open the log and the firewall; it then runs as another user"
    )]
    NotRoot,
    /// An `--instance` that cannot be part of a file name and of a table's name.
    #[error("invalid --instance {0:?}\nfix: use 1 to 12 letters, digits, - and _")]
    BadInstance(String),
    /// The config directory cannot be used.
    #[error("{0:?}: {1}\nfix: knock-genprofile makes it with the first profile")]
    ConfigDir(PathBuf, #[source] io::Error),
    /// Somebody else than root could change the config directory or the one of the profiles.
    #[error(transparent)]
    NotRoots(#[from] NotRoots),
    /// Another daemon has this config directory.
    #[error(
        "another knock-daemon runs with {0:?}\nfix: stop it first, or give this one its own with --instance"
    )]
    Locked(PathBuf),
    /// The config is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no user of this name to run as.
    #[error("there is no user {0:?} to run as\nfix: adduser --system --group --no-create-home {0}")]
    NoUser(String),
    /// The user to run as is root.
    #[error("the user to run as, {0:?}, is root\nfix: choose another with --user")]
    RootUser(String),
    /// The firewall cannot be used.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// The helper did not start.
    #[error("cannot start the helper: {}", .0.desc())]
    NoHelper(#[source] Errno),
    /// It started, and cannot do its work.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// Privileges could not be dropped.
    #[error(transparent)]
    Drop(#[from] DropError),
    /// The log cannot be followed.
    #[error(transparent)]
    Log(#[from] SourceError),
    /// No profile can be used, so no knock could be valid.
    #[error("{0:?}: no profile to open for\nfix: make one: knock-genprofile NAME")]
    NoProfiles(PathBuf),
    /// The sandbox cannot be closed.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The helper does not answer.
    #[error(transparent)]
    Helper(#[from] HelperGone),
    /// The kernel would not log the knocks.
    #[error("{}", not_listening(*.0))]
    NotListening(Reply),
    /// Not even a few numbers of each stealth profile have room in the kernel's set.
    #[error(
        "{0} stealth profiles are more than the kernel's set has room for\n\
         fix: use fewer, spread them over several daemons with --instance, or set log_rule = firewall"
    )]
    TooManyStealth(usize),
    /// The helper ended by itself.
    #[error("the helper has ended ({0}): all grants revoked; connections that stand go on")]
    HelperEnded(Ended),
    /// A system call failed that should not fail.
    #[error("{0}: {1}")]
    System(&'static str, #[source] io::Error),
    /// `--check` found this many problems and has reported them.
    #[error("{count} problem{s} found", count = .0, s = if *.0 == 1 { "" } else { "s" })]
    Problems(usize),
    /// `--try` was told to end.
    #[error("interrupted; nothing of the trial is left")]
    Interrupted,
    /// The trial that this daemon is part of is over.
    #[error("the process that tries is gone")]
    TrialIsOver,
}

impl DaemonError {
    /// 2 where the command line is wrong, else 1.
    pub(super) fn exit_code(&self) -> u8 {
        if matches!(self, Self::BadInstance(_)) { 2 } else { 1 }
    }
}

fn not_listening(reply: Reply) -> String {
    let Reply::Failed(errno) = reply else {
        return "the kernel's set has no room for the knocks of so many profiles".into();
    };
    let why = io::Error::from_raw_os_error(errno);
    format!("the kernel refused to log the knocks: {why}\nfix: log_rule = firewall does without")
}
