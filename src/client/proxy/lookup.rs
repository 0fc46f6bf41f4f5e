//! Which hosts have a profile. Looked up for each connection, so a new profile needs no restart.
//!
//! A name is a profile's if it is the profile's own name or `address`, as they are written, whatever it resolves to:
//! anybody can make a name that resolves to your server, and put it into a web page. An address is also a profile's if
//! the profile's name resolves to it: a client that names the address means that host.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::spawn_blocking;

use super::resolver::{NameCache, Resolver};
use crate::client::connect::error::ConnectError;
use crate::client::connect::plain::PlainError;
use crate::client::knock::error::KnockError;
use crate::client::knock::knocker::Knocker;
use crate::client::knock::profile_match::{Host, KnownProfile};
use crate::client::knock::route::{self, Family, Route, find_routes};

/// How long a target waits for the resolver to decide whether it is a profile's. After that it counts as not, until the
/// answer comes.
const RESOLVER_TIMEOUT: Duration = Duration::from_secs(2);

/// How to reach a host.
#[derive(Debug)]
pub(super) enum Destination {
    /// Knock with this profile, along these routes.
    Knock(Box<Knocker>, Vec<Route>),
    /// No profile: connect along these routes, at least one.
    Plain(Vec<Route>),
}

/// The profiles, and what their names resolved to lately: only asked where a client names an address.
#[derive(Debug)]
pub(super) struct Lookup {
    profiles: PathBuf,
    resolver: Resolver,
    names: NameCache,
}

/// What the files determine for a host: its profile, or that no profile has its name. Then with all profiles.
type NameMatch = Result<Box<Knocker>, Vec<KnownProfile>>;

impl Lookup {
    /// The profiles in `profiles`, a directory that need not be there yet.
    pub(super) fn new(profiles: PathBuf) -> Self {
        let resolver = Resolver::new(route::resolve);
        Self { profiles, names: NameCache::new(resolver.clone(), RESOLVER_TIMEOUT), resolver }
    }

    /// How to reach `host`. `port` is where a plain connection goes.
    pub(super) async fn find(&self, host: &Host, port: u16) -> Result<Destination, ConnectError> {
        let (dir, wanted) = (self.profiles.clone(), host.clone());
        let profiles = match spawn_blocking(move || find_by_name(&dir, &wanted, port)).await?? {
            Ok(knocker) => {
                let (name, knock_port) = (knocker.address().to_owned(), knocker.port_to_resolve());
                let resolved = self.resolver.resolve(name, knock_port).await;
                let addresses = resolved.map_err(|why| knocker.unresolved(why))?;
                return knock(knocker, &addresses);
            }
            Err(profiles) => profiles,
        };
        let addresses = match host {
            Host::Name(name) => {
                self.resolver.resolve(name.clone(), port).await.map_err(PlainError::Unresolved)?
            }
            Host::Address(wanted) => {
                if let Some((name, address)) = self.find_by_address(&profiles, *wanted).await {
                    let profiles = self.profiles.clone();
                    let loaded = spawn_blocking(move || Knocker::load(&profiles, &name));
                    return knock(Box::new(loaded.await??), &[address]);
                }
                vec![SocketAddr::new(*wanted, port)]
            }
        };
        let found = find_routes(&addresses, Family::Any, None).map_err(PlainError::from)?;
        Ok(Destination::Plain(found.routes))
    }

    /// The name of the one of `profiles` whose name resolves to `wanted`. With the address as the profile has it, because
    /// a client cannot say on which interface a link-local address is.
    async fn find_by_address(
        &self,
        profiles: &[KnownProfile],
        wanted: IpAddr,
    ) -> Option<(String, SocketAddr)> {
        let names: Vec<&str> = profiles.iter().map(KnownProfile::resolved_by).collect();
        let resolved = self.names.resolve(&names).await;
        profiles.iter().zip(resolved).find_map(|(profile, addresses)| {
            let address = addresses.into_iter().find(|address| address.ip() == wanted)?;
            Some((profile.name.clone(), address))
        })
    }
}

/// The profile of `host` by the name or the address that is written in it.
fn find_by_name(profiles: &Path, host: &Host, port: u16) -> Result<NameMatch, KnockError> {
    let mut known = KnownProfile::all(profiles)?;
    // Where a host has several profiles, the one that is for this port.
    known.sort_by_key(|profile| profile.port != Some(port));
    match known.iter().find(|profile| profile.is(host)) {
        Some(ours) => Ok(Ok(Box::new(Knocker::load(profiles, &ours.name)?))),
        None => Ok(Err(known)),
    }
}

fn knock(knocker: Box<Knocker>, addresses: &[SocketAddr]) -> Result<Destination, ConnectError> {
    let routes = knocker.routes(addresses, Family::Any, None)?.routes;
    Ok(Destination::Knock(knocker, routes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::knock::route::RouteError;
    use std::fs;

    fn profiles(all: &[(&str, &str)]) -> (tempfile::TempDir, Lookup) {
        let profiles = tempfile::tempdir().unwrap();
        for (name, more) in all {
            add(profiles.path(), name, more);
        }
        let lookup = Lookup::new(profiles.path().to_owned());
        (profiles, lookup)
    }

    fn add(profiles: &Path, name: &str, more: &str) {
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

    async fn found(lookup: &Lookup, host: &str) -> String {
        match lookup.find(&Host::new(host.into()), 80).await.unwrap() {
            Destination::Knock(knocker, routes) => {
                format!("{} at {}", knocker.profile.name, routes[0].target.ip())
            }
            Destination::Plain(routes) => format!("plain {}", routes[0].target),
        }
    }

    #[tokio::test]
    async fn an_address_is_a_profile_s_by_what_the_profile_s_name_resolves_to() {
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
            assert_eq!(found(&lookup, host).await, expected, "{host}");
        }
    }

    #[tokio::test]
    async fn a_name_is_no_profile_s_whatever_it_resolves_to() {
        let (_dir, lookup) = profiles(&[("work", "address = \"127.0.0.1\"")]);
        assert_eq!(found(&lookup, "127.0.0.1").await, "work at 127.0.0.1");
        // Names of this address, the resolver says: in /etc/hosts, and as inet_aton(3) reads numbers.
        for name in ["localhost", "127.1", "2130706433", "0x7f000001"] {
            let plain = lookup.find(&Host::new(name.into()), 80).await.unwrap();
            assert!(matches!(plain, Destination::Plain(_)), "{name}: {plain:?}");
        }
    }

    #[tokio::test]
    async fn where_the_profiles_cannot_be_read_nobody_is_taken_for_a_stranger() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let lookup = Lookup::new(file.path().to_owned());
        let failure = lookup.find(&Host::new("127.0.0.1".into()), 80).await.unwrap_err();
        assert!(matches!(failure, ConnectError::Knock(KnockError::Profiles(_))), "{failure}");
    }

    #[tokio::test]
    async fn of_a_host_s_profiles_the_one_for_the_port_is_taken() {
        let (_dir, lookup) = profiles(&[
            ("mail", "address = \"127.0.0.9\"\nport = 25"),
            ("web", "address = \"127.0.0.9\"\nport = 80"),
        ]);
        assert_eq!(found(&lookup, "127.0.0.9").await, "web at 127.0.0.9");
        assert_eq!(found(&lookup, "mail").await, "mail at 127.0.0.9");
    }

    #[tokio::test]
    async fn a_profile_that_is_made_later_is_found() {
        let (dir, lookup) = profiles(&[]);
        assert_eq!(found(&lookup, "127.0.0.9").await, "plain 127.0.0.9:80");
        add(dir.path(), "later", "address = \"127.0.0.9\"");
        assert_eq!(found(&lookup, "127.0.0.9").await, "later at 127.0.0.9");
    }

    #[tokio::test]
    async fn a_profile_that_cannot_be_used_is_not_passed_over() {
        let (dir, lookup) = profiles(&[("127.0.0.9", "")]);
        fs::write(dir.path().join("127.0.0.9/counter"), "").unwrap();
        fs::write(dir.path().join("127.0.0.9/cipher.key"), "").unwrap();
        let failure = lookup.find(&Host::new("127.0.0.9".into()), 80).await.unwrap_err();
        assert!(matches!(failure, ConnectError::Knock(KnockError::Profile(_))), "{failure}");
    }

    #[tokio::test]
    async fn profiles_that_do_not_resolve_are_no_obstacle() {
        let (_dir, lookup) = profiles(&[("no-such-host.invalid", "")]);
        assert_eq!(found(&lookup, "127.0.0.9").await, "plain 127.0.0.9:80");
    }

    #[tokio::test]
    async fn a_link_local_address_is_the_profile_s_on_the_profile_s_interface() {
        let (_dir, lookup) = profiles(&[("here", "address = \"fe80::1%lo\"")]);
        // There may be no route to it, but its profile is found, and its interface is known.
        let found = lookup.find(&Host::new("fe80::1".into()), 80).await;
        match found {
            Ok(Destination::Knock(_, routes)) => assert_eq!(routes[0].scope(), 1),
            Err(ConnectError::Knock(KnockError::NoRoute(
                name,
                RouteError::Unreachable(_, why),
            ))) => {
                assert_eq!(name, "fe80::1%lo");
                assert_ne!(why.kind(), std::io::ErrorKind::InvalidInput, "no interface was said");
            }
            other => panic!("{other:?}"),
        }
    }
}
