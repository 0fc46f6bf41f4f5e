//! What `--check --try` is asked to try, and what it finds. The trial itself is `crate::trial`, which starts programs and
//! opens sockets: nothing here may. It is handed in by the program's `main`.

use std::path::PathBuf;

/// What to try, and with which daemon.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where the `config` of the host's own daemon is.
    pub config_dir: PathBuf,
    /// Its `log`.
    pub log: String,
    /// Its `firewall`.
    pub firewall: &'static str,
    /// Its `user`.
    pub user: Option<String>,
    /// The services.
    pub services: Vec<Tried>,
    /// Knock ports of the host's own profiles: the trial takes another.
    pub taken: Vec<u16>,
    /// Whether IPv4 addresses are let in.
    pub ipv4: bool,
    /// Whether IPv6 addresses are let in.
    pub ipv6: bool,
}

/// One TCP service to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Its port as clients see it.
    pub port: u16,
    /// Whether a knock may open it.
    pub can_be_opened: bool,
}

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It is as it should be, or it could not be tried.
    Note(String),
    /// It is not.
    Problem(String),
}

/// Somebody wanted the trial to end before it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

/// Tries, and says what is found as it goes.
pub type Trial = fn(&Plan, &mut dyn FnMut(Finding)) -> Result<(), Interrupted>;
