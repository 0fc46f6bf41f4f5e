//! Which hosts are a profile's. Looked up when a connection is asked for, so a new profile needs no restart.
//!
//! Blocks (files, the resolver): run it where that hurts nobody.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::client::failure::Failure;
use crate::client::knock::Knocker;
use crate::client::target::{self, Family, Route, ascii_name};
use crate::profile::{self, ProfileConfig};

/// How long the addresses of a profile's name are believed. A target given by its own name is never looked up here.
const BELIEVED: Duration = Duration::from_secs(60);
/// How long a target waits for the resolver to tell whether it is a profile's. Then it is not.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a SOCKS client wants to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A name, for the proxy to resolve.
    Name(String),
    /// An address.
    Address(IpAddr),
}

impl Host {
    /// A name, or an address that a client sent as a name.
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

/// How to reach a host.
#[derive(Debug)]
pub enum Destination {
    /// Knock with this profile, along these ways.
    Knock(Knocker, Vec<Route>),
    /// Nobody's: connect to these addresses, at least one.
    Plain(Vec<SocketAddr>),
}

/// The profiles and what their names resolved to lately.
#[derive(Debug)]
pub struct Lookup {
    profiles: PathBuf,
    resolved: Mutex<HashMap<String, (Instant, Vec<IpAddr>)>>,
}

impl Lookup {
    /// The profiles in `profiles`, a directory that need not be there yet.
    #[must_use]
    pub fn new(profiles: PathBuf) -> Self {
        Self { profiles, resolved: Mutex::default() }
    }

    /// How to reach `host`. `port` is where a plain connection goes.
    pub fn find(&self, host: &Host, port: u16) -> Result<Destination, Failure> {
        let mut profiles = self.profiles();
        // Where a host has several profiles, the one that is for this port.
        profiles.sort_by_key(|profile| profile.port != Some(port));
        let by_name = profiles.iter().find(|profile| profile.is(host));
        if let Some(ours) = by_name {
            let knocker = Knocker::load(&self.profiles, &ours.name)?;
            let routes = knocker.routes(Family::Any, None)?;
            return Ok(Destination::Knock(knocker, routes));
        }
        let addresses = match host {
            Host::Address(address) => vec![SocketAddr::new(*address, port)],
            Host::Name(name) => {
                target::resolve(name, port).map_err(|why| Failure::Unresolved(name.clone(), why))?
            }
        };
        for (profile, theirs) in self.addresses_of(profiles) {
            let ours = |address: &&SocketAddr| theirs.contains(&address.ip());
            let shared: Vec<SocketAddr> = addresses.iter().filter(ours).copied().collect();
            if !shared.is_empty() {
                let knocker = Knocker::load(&self.profiles, &profile.name)?;
                let routes = target::routes(&shared, Family::Any, None)
                    .map_err(|why| Failure::NoRoute(profile.name, why))?;
                return Ok(Destination::Knock(knocker, routes));
            }
        }
        Ok(Destination::Plain(addresses))
    }

    fn profiles(&self) -> Vec<Known> {
        let names = profile::names(&self.profiles).unwrap_or_default();
        let known = |name: String| {
            let path = self.profiles.join(&name).join("config");
            // One that cannot be read is still a profile by its name: using it says what is wrong with it.
            let config = std::fs::read(&path).ok();
            let config = config.and_then(|bytes| ProfileConfig::parse(&bytes, &path).ok());
            match config {
                Some(ProfileConfig { address, port, .. }) => Known { name, address, port },
                None => Known { name, address: None, port: None },
            }
        };
        names.into_iter().map(known).collect()
    }

    /// The addresses of each profile, those that the resolver tells in time. All are asked for at once.
    fn addresses_of(&self, profiles: Vec<Known>) -> Vec<(Known, Vec<IpAddr>)> {
        let (sender, answers) = mpsc::channel();
        let mut asked = 0;
        for profile in &profiles {
            let name = profile.resolved_by().to_owned();
            if self.lately(&name).is_none() {
                let sender = sender.clone();
                asked += 1;
                std::thread::spawn(move || {
                    let resolved = target::resolve(&name, 0).unwrap_or_default();
                    let addresses = resolved.iter().map(SocketAddr::ip).collect::<Vec<_>>();
                    let _ = sender.send((name, addresses));
                });
            }
        }
        let until = Instant::now() + PATIENCE;
        for _ in 0..asked {
            let left = until.saturating_duration_since(Instant::now());
            let Ok((name, addresses)) = answers.recv_timeout(left) else { break };
            self.cache().insert(name, (Instant::now(), addresses));
        }
        profiles
            .into_iter()
            .filter_map(|profile| Some((self.lately(profile.resolved_by())?, profile)))
            .map(|(addresses, profile)| (profile, addresses))
            .collect()
    }

    fn lately(&self, name: &str) -> Option<Vec<IpAddr>> {
        let cache = self.cache();
        let (when, addresses) = cache.get(name)?;
        (when.elapsed() < BELIEVED).then(|| addresses.clone())
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Instant, Vec<IpAddr>)>> {
        // Nothing is left half-done in it by a thread that dies.
        self.resolved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A profile as far as finding it goes.
#[derive(Debug)]
struct Known {
    name: String,
    address: Option<String>,
    /// The port that it asks for when nobody names one.
    port: Option<u16>,
}

impl Known {
    fn resolved_by(&self) -> &str {
        self.address.as_deref().unwrap_or(&self.name)
    }

    /// Whether `host` is this profile by its name or by its `address`, as they are written.
    fn is(&self, host: &Host) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn profiles(all: &[(&str, &str)]) -> (tempfile::TempDir, Lookup) {
        let profiles = tempfile::tempdir().unwrap();
        for (name, more) in all {
            add(profiles.path(), name, more);
        }
        let lookup = Lookup::new(profiles.path().to_owned());
        (profiles, lookup)
    }

    fn add(profiles: &std::path::Path, name: &str, more: &str) {
        let dir = profiles.join(name);
        fs::create_dir(&dir).unwrap();
        for (file, content) in [
            ("cipher.key", "HoCD3Bo5mY7IjLvEwJY9nQ==\n"),
            ("mac.key", "HNFz0K+tNUD67c7/gxNXjg==\n"),
            ("config", &format!("[main]\nknock_port = 1622\n{more}\n")),
            ("counter", "5\n"),
        ] {
            fs::write(dir.join(file), content).unwrap();
        }
    }

    fn found(lookup: &Lookup, host: &str) -> String {
        match lookup.find(&Host::new(host.into()), 80).unwrap() {
            Destination::Knock(knocker, routes) => {
                format!("{} at {}", knocker.profile.name, routes[0].target.ip())
            }
            Destination::Plain(addresses) => format!("plain {}", addresses[0]),
        }
    }

    #[test]
    fn a_host_is_a_profile_s_by_name_by_address_and_by_what_the_name_resolves_to() {
        let (_dir, lookup) = profiles(&[
            ("work", "address = \"127.0.0.9\""),
            ("127.0.0.8", ""),
            ("localhost", ""),
            ("bücher.example", "address = \"127.0.0.7\""),
        ]);
        for (host, expected) in [
            ("work", "work at 127.0.0.9"),
            ("WORK.", "work at 127.0.0.9"),
            ("127.0.0.9", "work at 127.0.0.9"),
            ("127.0.0.8", "127.0.0.8 at 127.0.0.8"),
            ("::ffff:127.0.0.8", "127.0.0.8 at 127.0.0.8"),
            ("127.0.0.1", "localhost at 127.0.0.1"),
            ("xn--bcher-kva.example", "bücher.example at 127.0.0.7"),
            ("127.0.0.3", "plain 127.0.0.3:80"),
        ] {
            assert_eq!(found(&lookup, host), expected, "{host}");
        }
    }

    #[test]
    fn of_a_host_s_profiles_the_one_for_the_port_is_taken() {
        let (_dir, lookup) = profiles(&[
            ("mail", "address = \"127.0.0.9\"\nport = 25"),
            ("web", "address = \"127.0.0.9\"\nport = 80"),
        ]);
        assert_eq!(found(&lookup, "127.0.0.9"), "web at 127.0.0.9");
        assert_eq!(found(&lookup, "mail"), "mail at 127.0.0.9");
    }

    #[test]
    fn a_profile_that_is_made_later_is_found() {
        let (dir, lookup) = profiles(&[]);
        assert_eq!(found(&lookup, "127.0.0.9"), "plain 127.0.0.9:80");
        add(dir.path(), "later", "address = \"127.0.0.9\"");
        assert_eq!(found(&lookup, "127.0.0.9"), "later at 127.0.0.9");
    }

    #[test]
    fn a_profile_that_cannot_be_used_is_not_passed_over() {
        let (dir, lookup) = profiles(&[("127.0.0.9", "")]);
        fs::write(dir.path().join("127.0.0.9/counter"), "").unwrap();
        fs::write(dir.path().join("127.0.0.9/cipher.key"), "").unwrap();
        let failure = lookup.find(&Host::new("127.0.0.9".into()), 80).unwrap_err();
        assert!(matches!(failure, Failure::Profile(_)), "{failure}");
    }

    #[test]
    fn profiles_that_do_not_resolve_are_no_obstacle() {
        let (_dir, lookup) = profiles(&[("no-such-host.invalid", "")]);
        assert_eq!(found(&lookup, "127.0.0.9"), "plain 127.0.0.9:80");
    }
}
