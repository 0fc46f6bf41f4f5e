//! Which hosts are a profile's. Looked up when a connection is asked for, so a new profile needs no restart.
//!
//! A name is a profile's if it is the profile's own name or `address`, as they are written, whatever it resolves to:
//! anybody can make a name that resolves to your server, and put it into a web page. An address is a profile's also
//! if the profile's name resolves to it: who names the address means that host.
//!
//! Blocks (files, the resolver): run it where that hurts nobody.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::client::knock::error::Failure;
use crate::client::knock::knocker::Knocker;
use crate::client::knock::profile_match::{Host, Known};
use crate::client::knock::route::{self as target, Family, Route};

/// How long the addresses of a profile's name are believed. A target given by its own name is never looked up here.
const BELIEVED: Duration = Duration::from_secs(60);
/// How long it is believed that there are none: a resolver that could not be reached soon can.
const NONE_BELIEVED: Duration = Duration::from_secs(5);
/// How long targets wait for the resolver to tell whether they are a profile's. Then they are not, until it has told.
const PATIENCE: Duration = Duration::from_secs(2);

/// How to reach a host.
#[derive(Debug)]
pub enum Destination {
    /// Knock with this profile, along these ways.
    Knock(Box<Knocker>, Vec<Route>),
    /// Nobody's: connect to these addresses, at least one.
    Plain(Vec<SocketAddr>),
}

/// The profiles, and what their names resolved to lately: only asked where a client names an address.
#[derive(Debug)]
pub struct Lookup {
    profiles: PathBuf,
    names: Arc<Names>,
}

impl Lookup {
    /// The profiles in `profiles`, a directory that need not be there yet.
    #[must_use]
    pub fn new(profiles: PathBuf) -> Self {
        Self {
            profiles,
            names: Arc::new(Names::new(|name| target::resolve(name, 0).unwrap_or_default())),
        }
    }

    /// How to reach `host`. `port` is where a plain connection goes.
    pub fn find(&self, host: &Host, port: u16) -> Result<Destination, Failure> {
        let mut profiles = Known::all(&self.profiles)?;
        // Where a host has several profiles, the one that is for this port.
        profiles.sort_by_key(|profile| profile.port != Some(port));
        if let Some(ours) = profiles.iter().find(|profile| profile.is(host)) {
            let knocker = Knocker::load(&self.profiles, &ours.name)?;
            let routes = knocker.routes(Family::Any, None)?;
            return Ok(Destination::Knock(Box::new(knocker), routes));
        }
        match host {
            Host::Name(name) => target::resolve(name, port)
                .map(Destination::Plain)
                .map_err(|why| Failure::NoAddress(name.clone(), why)),
            Host::Address(address) => self.find_address(*address, port, profiles),
        }
    }

    /// The one of `profiles` whose name resolves to `wanted`.
    fn find_address(
        &self,
        wanted: IpAddr,
        port: u16,
        profiles: Vec<Known>,
    ) -> Result<Destination, Failure> {
        for (profile, addresses) in self.addresses_of(profiles) {
            // The profile's, because a client cannot say on which interface a link-local address is.
            let Some(address) = addresses.into_iter().find(|address| address.ip() == wanted) else {
                continue;
            };
            let knocker = Knocker::load(&self.profiles, &profile.name)?;
            let routes = target::routes(&[address], Family::Any, None)
                .map_err(|why| Failure::NoRoute(profile.name, why))?;
            return Ok(Destination::Knock(Box::new(knocker), routes));
        }
        Ok(Destination::Plain(vec![SocketAddr::new(wanted, port)]))
    }

    /// The addresses of each profile, those that the resolver tells in time. All are asked for at once.
    fn addresses_of(&self, profiles: Vec<Known>) -> Vec<(Known, Vec<SocketAddr>)> {
        let names: Vec<&str> = profiles.iter().map(Known::resolved_by).collect();
        let resolved = self.names.resolve(&names);
        profiles.into_iter().zip(resolved).filter(|(_, addresses)| !addresses.is_empty()).collect()
    }
}

/// What the profiles' names resolve to. Shared with the threads that ask: an answer that comes too late for who wanted
/// it is in time for the next, and a resolver that hangs is waited for once, not by each target anew.
#[derive(Debug)]
struct Names {
    asked: Mutex<HashMap<String, Asked>>,
    news: Condvar,
    resolver: fn(&str) -> Vec<SocketAddr>,
}

/// A question to the resolver, and the answer when there is one.
#[derive(Debug)]
struct Asked {
    when: Instant,
    answer: Option<Vec<SocketAddr>>,
}

impl Asked {
    fn is_over(&self) -> bool {
        let found_none = self.answer.as_ref().is_some_and(Vec::is_empty);
        self.when.elapsed() >= if found_none { NONE_BELIEVED } else { BELIEVED }
    }
}

impl Names {
    fn new(resolver: fn(&str) -> Vec<SocketAddr>) -> Self {
        Self { asked: Mutex::default(), news: Condvar::new(), resolver }
    }

    /// The addresses of each of `names`; none where the resolver knows none or has not told in time.
    fn resolve(self: &Arc<Self>, names: &[&str]) -> Vec<Vec<SocketAddr>> {
        let mut asked = self.asked();
        for &name in names {
            if asked.get(name).is_none_or(Asked::is_over) {
                asked.insert(name.to_owned(), Asked { when: Instant::now(), answer: None });
                let (this, name) = (Arc::clone(self), name.to_owned());
                std::thread::spawn(move || this.ask(&name));
            }
        }
        loop {
            let open = names.iter().filter_map(|name| asked.get(*name));
            let open = open.filter(|asked| asked.answer.is_none());
            let left = open.map(|asked| PATIENCE.saturating_sub(asked.when.elapsed())).max();
            let Some(left) = left.filter(|left| !left.is_zero()) else { break };
            asked = self.news.wait_timeout(asked, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let answer = |name: &&str| asked.get(*name).and_then(|asked| asked.answer.clone());
        names.iter().map(|name| answer(name).unwrap_or_default()).collect()
    }

    fn ask(&self, name: &str) {
        let answer = Some((self.resolver)(name));
        if let Some(asked) = self.asked().get_mut(name) {
            asked.answer = answer;
        }
        self.news.notify_all();
    }

    fn asked(&self) -> MutexGuard<'_, HashMap<String, Asked>> {
        // Nothing is left half-done in it by a thread that dies.
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    fn an_address_is_a_profile_s_by_what_the_profile_s_name_resolves_to() {
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
    fn a_name_is_no_profile_s_whatever_it_resolves_to() {
        let (_dir, lookup) = profiles(&[("work", "address = \"127.0.0.1\"")]);
        assert_eq!(found(&lookup, "127.0.0.1"), "work at 127.0.0.1");
        // Names of this address, the resolver says: in /etc/hosts, and as inet_aton(3) reads numbers.
        for name in ["localhost", "127.1", "2130706433", "0x7f000001"] {
            let plain = lookup.find(&Host::new(name.into()), 80).unwrap();
            assert!(matches!(plain, Destination::Plain(_)), "{name}: {plain:?}");
        }
    }

    #[test]
    fn where_the_profiles_cannot_be_read_nobody_is_taken_for_a_stranger() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let lookup = Lookup::new(file.path().to_owned());
        let failure = lookup.find(&Host::new("127.0.0.1".into()), 80).unwrap_err();
        assert!(matches!(failure, Failure::NoProfiles(..)), "{failure}");
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

    #[test]
    fn a_resolver_that_hangs_is_waited_for_once_and_its_late_answer_is_believed() {
        fn slow(_: &str) -> Vec<SocketAddr> {
            std::thread::sleep(PATIENCE + Duration::from_millis(500));
            vec![SocketAddr::from(([127, 0, 0, 9], 0))]
        }
        let names = Arc::new(Names::new(slow));
        let timed = || {
            let start = Instant::now();
            let answer = names.resolve(&["slow.example"]);
            (answer.concat().len(), start.elapsed())
        };
        let (found, took) = timed();
        assert!(found == 0 && took >= PATIENCE, "{found} {took:?}");
        let (found, took) = timed();
        assert!(found == 0 && took < PATIENCE / 2, "{found} {took:?}");
        while timed().0 == 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_link_local_address_is_the_profile_s_on_the_profile_s_interface() {
        let (_dir, lookup) = profiles(&[("here", "address = \"fe80::1%lo\"")]);
        // There may be no way to it, but it is not taken for nobody's, and its interface is known.
        let found = lookup.find(&Host::new("fe80::1".into()), 80);
        match found {
            Ok(Destination::Knock(_, routes)) => assert_eq!(routes[0].scope(), 1),
            Err(Failure::NoRoute(name, target::NoRoute::Unreachable(_, why))) => {
                assert_eq!(name, "here");
                assert_ne!(why.kind(), std::io::ErrorKind::InvalidInput, "no interface was said");
            }
            other => panic!("{other:?}"),
        }
    }
}
