//! What `--check --try` tries, and what it finds. The trial itself is `crate::trial`, which starts programs and opens
//! sockets; `daemon` may do neither, so `main` passes it in.

use std::path::PathBuf;

/// What to try, and with which daemon.
#[derive(Clone, Debug)]
pub(crate) struct TrialPlan {
    /// Where the `config` of the host's own daemon is.
    pub(crate) config_dir: PathBuf,
    /// Its `log`.
    pub(crate) log: String,
    /// Its `firewall`.
    pub(crate) firewall: &'static str,
    /// Its `user`.
    pub(crate) user: Option<String>,
    /// The services.
    pub(crate) services: Vec<Tried>,
    /// Knock ports of the host's own profiles: the trial takes another.
    pub(crate) taken: Vec<u16>,
    /// Whether IPv4 addresses are let in.
    pub(crate) ipv4: bool,
    /// Whether IPv6 addresses are let in.
    pub(crate) ipv6: bool,
}

/// One TCP service to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tried {
    /// Its port as clients see it.
    pub(crate) port: u16,
    /// Whether a knock may open it.
    pub(crate) can_be_opened: bool,
}

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// The service is as it should be, or the trial could not test it.
    Note(String),
    /// The service is not as it should be.
    Problem(String),
}

/// A signal ended the trial before it was complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interrupted;

/// Runs the trial, and reports each finding at once.
pub(crate) type RunTrial = fn(&TrialPlan, &mut dyn FnMut(Finding)) -> Result<(), Interrupted>;
