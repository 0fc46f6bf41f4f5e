//! Why the daemon does not start, or does not go on. Each says what is wrong and what to do.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::{fmt, io};

use super::config::ConfigError;
use super::sandbox::SandboxError;
use super::log_source::SourceError;
use crate::privileged::{DropError, Ended, FirewallError, HelperGone, Reply, SplitError};
use crate::profile::NotRoots;

/// Why the daemon does not start, or does not go on.
#[derive(Debug)]
pub(super) enum DaemonError {
    /// Not started as root.
    NotRoot,
    /// An `--instance` that cannot be part of a file name and of a table's name.
    BadInstance(String),
    /// The config directory cannot be used.
    ConfigDir(PathBuf, io::Error),
    /// Somebody else than root could change the config directory or the one of the profiles.
    NotRoots(NotRoots),
    /// Another daemon has this config directory.
    Locked(PathBuf),
    /// The config is wrong.
    Config(ConfigError),
    /// There is no user of this name to run as.
    NoUser(String),
    /// The user to run as is root.
    RootUser(String),
    /// The firewall cannot be used.
    Firewall(FirewallError),
    /// The helper did not start.
    NoHelper(SplitError),
    /// Privileges could not be dropped.
    Drop(DropError),
    /// The log cannot be followed.
    Log(SourceError),
    /// No profile can be used: nobody could knock.
    NoProfiles(PathBuf),
    /// The sandbox cannot be closed.
    Sandbox(SandboxError),
    /// The helper did not answer at the start.
    NoAnswer(HelperGone),
    /// The kernel would not log the knocks.
    NotListening(Reply),
    /// The helper ended by itself.
    HelperGone(Ended),
    /// The operating system refused something that it should not refuse.
    System(&'static str, io::Error),
    /// `--check` found this many problems and has told of them.
    Problems(usize),
    /// `--try` was told to end.
    Interrupted,
    /// The trial that this daemon is part of is over.
    TrialIsOver,
}

impl DaemonError {
    /// 2 where the command line is wrong, else 1.
    pub(super) fn exit_code(&self) -> u8 {
        if matches!(self, Self::BadInstance(_)) { 2 } else { 1 }
    }
}

impl fmt::Display for DaemonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRoot => {
                f.write_str("must be started by root, to open the log and the firewall; it goes on as another user")
            }
            Self::BadInstance(name) => {
                write!(f, "--instance {name:?}: a name has 1 to 12 letters, digits, - and _")
            }
            Self::ConfigDir(path, why) => {
                write!(f, "{path:?}: {why}; knock-genprofile makes it with the first profile")
            }
            Self::NotRoots(error) => error.fmt(f),
            Self::Locked(path) => write!(
                f,
                "another knock-daemon runs with {path:?}; stop it first, or give this one its own with --instance"
            ),
            Self::Config(error) => error.fmt(f),
            Self::NoUser(name) => {
                write!(f, "there is no user {name:?} to run as; make one: adduser --system --group --no-create-home {name}")
            }
            Self::RootUser(name) => write!(f, "{name:?} is root; the daemon must run as somebody else"),
            Self::Firewall(error) => error.fmt(f),
            Self::NoHelper(error) => error.fmt(f),
            Self::Drop(error) => error.fmt(f),
            Self::Log(error) => error.fmt(f),
            Self::NoProfiles(path) => {
                write!(f, "{path:?}: no profile to open for; make one: knock-genprofile NAME PORT")
            }
            Self::Sandbox(error) => error.fmt(f),
            Self::NoAnswer(gone) => gone.fmt(f),
            Self::NotListening(Reply::Failed(errno)) => {
                let why = io::Error::from_raw_os_error(*errno);
                write!(f, "the kernel refused to log the knocks: {why}; log_rule = firewall does without")
            }
            Self::NotListening(_) => f.write_str("the kernel's set has no room for the knocks of so many profiles"),
            Self::HelperGone(ended) => {
                write!(f, "the helper has ended ({ended}), and every grant with it; connections that stand go on")
            }
            Self::System(what, why) => write!(f, "{what}: {why}"),
            Self::Interrupted => f.write_str("interrupted; nothing of the trial is left"),
            Self::TrialIsOver => f.write_str("the process that tries is gone"),
            Self::Problems(count) => write!(f, "{count} problem{} found", if *count == 1 { "" } else { "s" }),
        }
    }
}

impl std::error::Error for DaemonError {}
