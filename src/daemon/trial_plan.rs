//! What `--check --try` is asked to try, and what it finds. The trial itself is `crate::trial`, which starts programs and
//! opens sockets: nothing here may. It is handed in by the program's `main`.

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
    /// It is as it should be, or it could not be tried.
    Note(String),
    /// It is not.
    Problem(String),
}

/// Somebody wanted the trial to end before it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interrupted;

/// Tries, and says what is found as it goes.
pub(crate) type RunTrial = fn(&TrialPlan, &mut dyn FnMut(Finding)) -> Result<(), Interrupted>;
