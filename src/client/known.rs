//! Which profile a host is meant by, however it is written: in another case, with the root's dot, as an address.

#![forbid(unsafe_code)]

use std::fmt;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::Path;

use super::failure::Failure;
use super::target::ascii_name;
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
    pub fn all(profiles: &Path) -> Result<Vec<Self>, Failure> {
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

/// The names of the profiles in `profiles`: none where there is no such directory. One that is there but cannot be read
/// is an error: nobody can say then that a host has no profile.
pub fn names(profiles: &Path) -> Result<Vec<String>, Failure> {
    match profile::names(profiles) {
        Err(why) if why.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        names => names.map_err(|why| Failure::NoProfiles(profiles.to_owned(), why)),
    }
}

/// Changes of one letter between what was typed and what was meant: more than this is another name.
const MOST_SLIPS: usize = 3;

/// The one of `names` that `wanted` was probably meant to be: with a letter or two wrong, or without its domain.
#[must_use]
pub fn nearest<'n>(wanted: &str, names: &'n [String]) -> Option<&'n str> {
    // By the letters that people see and type, not by those of the DNS.
    let letters = |name: &str| name.to_lowercase().trim_end_matches('.').to_owned();
    let wanted = letters(wanted);
    let slips = (wanted.chars().count() / 4).clamp(1, MOST_SLIPS);
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
        assert!(matches!(Known::all(&file), Err(Failure::NoProfiles(..))));
    }
}
