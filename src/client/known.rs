//! Which profile a host is meant by, however it is written: in another case, with the root's dot, as an address.

#![forbid(unsafe_code)]

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use super::target::ascii_name;
use crate::profile::{self, ProfileConfig};

/// What somebody wants to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A name, for the proxy to resolve.
    Name(String),
    /// An address.
    Address(IpAddr),
}

impl Host {
    /// A name, or an address that was written as one.
    #[must_use]
    pub fn new(name: String) -> Self {
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(&name);
        match bare.parse::<IpAddr>() {
            Ok(address) => Self::Address(address.to_canonical()),
            Err(_) => Self::Name(name),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.escape_debug().fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// A profile as far as finding it goes.
#[derive(Debug)]
pub struct Known {
    /// The name of its directory.
    pub name: String,
    address: Option<String>,
    /// The port that it asks for when nobody names one.
    pub port: Option<u16>,
}

impl Known {
    /// All that there are in `profiles`.
    #[must_use]
    pub fn all(profiles: &Path) -> Vec<Self> {
        let names = profile::names(profiles).unwrap_or_default();
        let known = |name: String| {
            let path = profiles.join(&name).join("config");
            // One that cannot be read is still a profile by its name: using it says what is wrong with it.
            let config = std::fs::read(&path).ok();
            let config = config.and_then(|bytes| ProfileConfig::parse(&bytes, &path).ok());
            match config {
                Some(ProfileConfig { address, port, .. }) => Self { name, address, port },
                None => Self { name, address: None, port: None },
            }
        };
        names.into_iter().map(known).collect()
    }

    /// What the host is resolved by.
    #[must_use]
    pub fn resolved_by(&self) -> &str {
        self.address.as_deref().unwrap_or(&self.name)
    }

    /// Whether `host` is this profile by its name or by its `address`, as they are written.
    #[must_use]
    pub fn is(&self, host: &Host) -> bool {
        let names = [Some(self.name.as_str()), self.address.as_deref()];
        names.into_iter().flatten().any(|name| match host {
            Host::Name(wanted) => plain_name(name) == plain_name(wanted),
            Host::Address(wanted) => name.parse::<IpAddr>().is_ok_and(|ours| ours == *wanted),
        })
    }
}

/// Names are the same in any case, with or without the root's dot, in any script.
fn plain_name(name: &str) -> String {
    let mut name = ascii_name(name).to_ascii_lowercase();
    if name.ends_with('.') {
        name.pop();
    }
    name
}
