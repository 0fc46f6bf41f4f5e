//! Which profile a host is meant by, however it is written: in another case, with the root's dot, as an address.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::route::ascii_name;
use crate::client::say::reason;
use crate::profile;
use crate::profile::config::ProfileConfig;

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

/// The directory of profiles cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProfilesError {
    /// It is not there.
    #[error("{0:?}: no such directory")]
    Missing(PathBuf),
    /// It is there.
    #[error("{0:?}: cannot read the profiles ({why})", why = reason(.1))]
    Unreadable(PathBuf, io::Error),
}

impl ProfilesError {
    /// What to do.
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::Missing(_) => "profiles are made on the server, by knock-genprofile".to_owned(),
            Self::Unreadable(dir, _) => format!("see whose it is: ls -ld {dir:?}"),
        }
    }
}

/// A profile as far as finding it goes.
#[derive(Debug)]
pub(crate) struct KnownProfile {
    /// The name of its directory.
    pub(crate) name: String,
    address: Option<String>,
    /// The port that it asks for when nobody names one.
    pub(crate) port: Option<u16>,
}

impl KnownProfile {
    /// All that there are in `profiles`.
    pub(crate) fn all(profiles: &Path) -> Result<Vec<Self>, ProfilesError> {
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
        Ok(names(profiles)?.into_iter().map(known).collect())
    }

    /// What the host is resolved by.
    pub(crate) fn resolved_by(&self) -> &str {
        self.address.as_deref().unwrap_or(&self.name)
    }

    /// Whether `host` is this profile by its name or by its `address`, as they are written.
    pub(crate) fn is(&self, host: &Host) -> bool {
        let names = [Some(self.name.as_str()), self.address.as_deref()];
        names.into_iter().flatten().any(|name| match host {
            Host::Name(wanted) => plain_name(name) == plain_name(wanted),
            Host::Address(wanted) => name.parse::<IpAddr>().is_ok_and(|ours| ours == *wanted),
        })
    }
}

/// The names of the profiles in `profiles`, sorted. A directory that is not there, or cannot be read, is an error.
pub(crate) fn listed_names(profiles: &Path) -> Result<Vec<String>, ProfilesError> {
    profile::names(profiles).map_err(|why| match why.kind() {
        ErrorKind::NotFound => ProfilesError::Missing(profiles.to_owned()),
        _ => ProfilesError::Unreadable(profiles.to_owned(), why),
    })
}

/// The same, and none where there is no such directory. One that is there but cannot be read is an error: nobody can
/// say then that a host has no profile.
pub(crate) fn names(profiles: &Path) -> Result<Vec<String>, ProfilesError> {
    match listed_names(profiles) {
        Err(ProfilesError::Missing(_)) => Ok(Vec::new()),
        names => names,
    }
}

/// A profile's name is a plain file name: "..", "a/b" and the like would be other directories than a profile's.
pub(crate) fn is_plain_name(host: &str) -> bool {
    Path::new(host).file_name().is_some_and(|name| name == host)
}

/// Changes of one letter between what was typed and what was meant: more than this is another name.
const MAX_SLIPS: usize = 3;

/// The one of `names` that `wanted` was probably meant to be: with a letter or two wrong, or without its domain.
pub(crate) fn nearest<'n>(wanted: &str, names: &'n [String]) -> Option<&'n str> {
    // By the letters that people see and type, not by those of the DNS.
    let letters = |name: &str| name.to_lowercase().trim_end_matches('.').to_owned();
    let wanted = letters(wanted);
    let slips = (wanted.chars().count() / 4).clamp(1, MAX_SLIPS);
    let distance = |name: &str| match letters(name) {
        name if name.split_once('.').is_some_and(|(host, _)| host == wanted) => 0,
        name => strsim::damerau_levenshtein(&name, &wanted),
    };
    let distances = names.iter().map(|name| (distance(name), name.as_str()));
    distances.filter(|(distance, _)| *distance <= slips).min().map(|(_, name)| name)
}

/// Names are the same in any case, with or without the root's dot, in any script.
fn plain_name(name: &str) -> String {
    let mut name = ascii_name(name).to_ascii_lowercase();
    if name.ends_with('.') {
        name.pop();
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_the_profile_that_was_meant_and_another_name_does_not() {
        let names = ["server.example", "web", "db", "bücher.example"].map(str::to_owned);
        for (wanted, meant) in [
            ("servre.example", Some("server.example")),
            ("SERVER.exmaple.", Some("server.example")),
            ("server", Some("server.example")),
            ("wev", Some("web")),
            ("bucher.example", Some("bücher.example")),
            ("dv", Some("db")),
            ("www", None),
            ("elsewhere.test", None),
            ("", None),
        ] {
            assert_eq!(nearest(wanted, &names), meant, "{wanted}");
        }
    }

    #[test]
    fn profiles_that_cannot_be_read_are_not_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(names(&dir.path().join("absent")).unwrap(), [""; 0]);
        // A file in its place: like a directory that may not be read, but for root too.
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let text = names(&file).unwrap_err().to_string();
        assert!(text.contains("file") && text.contains("Not a directory"), "{text}");
        assert!(matches!(KnownProfile::all(&file), Err(ProfilesError::Unreadable(..))));
    }
}
