//! One knock, from a profile's name to the packet: the order in which things happen is the point of this module.
//!
//! A plan is made first: the profile is read, the name resolved, the route looked up. Nothing of that costs a counter.
//! Only then is a counter spent, durably, and the packet sent.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;

use super::ephemeral_ports::{ephemeral_ports, within};
use super::error::KnockError;
use super::kernel_syn::KernelSyn;
use super::packet::{AddressPair, KnockPacket};
use super::profile_match::{self, Host, KnownProfile, is_plain_name};
use super::raw_socket::RawSockets;
use super::route::{self, Family, FoundRoutes, Route, find_routes};
use super::source_port::SourcePort;
use crate::counter::Counter;
use crate::layout::Request;
use crate::layout::classic::{self, SealError};
use crate::layout::keys::{Layout, LayoutKeys};
use crate::layout::stealth::StealthKeys;
use crate::layout::steps::step_of;
use crate::profile::Profile;
use crate::profile::files::ProfileFiles;
use crate::syn::SynFields;

/// A profile that can be knocked with.
#[derive(Debug)]
pub(crate) struct Knocker {
    /// What its files say.
    pub(crate) profile: Profile,
    /// The keys can be read by other users of this machine: worth a warning.
    pub(crate) readable_by_others: bool,
    /// Its directory.
    pub(crate) dir: PathBuf,
    pub(super) counter: Counter,
}

/// One knock that was sent.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    /// The counter that was spent on it.
    pub(crate) counter: u64,
    /// What left.
    pub(crate) packet: KnockPacket,
    /// The route that it went.
    pub(crate) route: Route,
    /// Stealth: what keeps other programs from its source port.
    pub(crate) source_port: Option<Arc<SourcePort>>,
}

impl Sent {
    /// Sends the same packet again, byte for byte: a server that took the first one ignores it. Not in the stealth layout:
    /// it would be the second SYN of one connection, and not as a kernel sends it.
    pub(crate) fn again(&self, raw: &RawSockets) -> Result<(), KnockError> {
        raw.send(&self.packet, self.route.scope())
            .map_err(|why| not_sent(self.counter, &self.route, why))
    }
}

impl Knocker {
    /// The profile of `host` in `profiles`: the directory with exactly that name.
    pub(crate) fn load(profiles: &Path, host: &str) -> Result<Self, KnockError> {
        let dir = profiles.join(host);
        if !is_plain_name(host) || !dir.is_dir() {
            let there_are = profile_match::names(profiles)?;
            let (host, profiles) = (host.to_owned(), profiles.to_owned());
            return Err(KnockError::NoProfile { host, profiles, there_are });
        }
        let files = ProfileFiles::read(&dir)?;
        let readable_by_others = files.readable_by_others();
        let (profile, counter) = files.parse()?;
        Ok(Self { profile, readable_by_others, dir, counter })
    }

    /// The profile for `host`: the one with exactly that name, else one that is for the same host by its name or its
    /// `address`, however they are written; of several, the one for `port`.
    pub(crate) fn find(profiles: &Path, host: &str, port: Option<u16>) -> Result<Self, KnockError> {
        let exactly = Self::load(profiles, host);
        if !matches!(exactly, Err(KnockError::NoProfile { .. })) {
            return exactly;
        }
        let mut known = KnownProfile::all(profiles)?;
        known.sort_by_key(|profile| profile.port != port);
        let wanted = Host::new(host.to_owned());
        match known.into_iter().find(|profile| profile.is(&wanted)) {
            Some(same) => Self::load(profiles, &same.name),
            None => exactly,
        }
    }

    /// What the host is resolved by: the config's `address`, else the profile's name.
    pub(crate) fn address(&self) -> &str {
        self.profile.config.address.as_deref().unwrap_or(&self.profile.name)
    }

    /// The addresses of the host.
    pub(crate) fn resolve(&self) -> Result<Vec<SocketAddr>, KnockError> {
        let name = self.address();
        route::resolve(name, self.port_to_resolve()).map_err(|why| self.unresolved(why))
    }

    /// The port of the addresses that the resolver gives, where nobody reads it.
    pub(crate) fn port_to_resolve(&self) -> u16 {
        self.profile.config.knock_port.unwrap_or_default()
    }

    /// What it means that the resolver has no address.
    pub(crate) fn unresolved(&self, why: std::io::Error) -> KnockError {
        KnockError::Unresolved(self.address().to_owned(), why)
    }

    /// The routes to `addresses` of the host; at least one.
    pub(crate) fn routes(
        &self,
        addresses: &[SocketAddr],
        family: Family,
        source: Option<IpAddr>,
    ) -> Result<FoundRoutes, KnockError> {
        find_routes(addresses, family, source)
            .map_err(|why| KnockError::NoRoute(self.address().to_owned(), why))
    }

    /// The counter on disk: the next knock uses it, or in the stealth layout the clock's number, if that is ahead.
    pub(crate) fn next_counter(&self) -> Result<u64, KnockError> {
        Ok(match self.profile.config.layout {
            Layout::Classic => self.counter.read::<u32>()?.into(),
            Layout::Stealth => self.counter.sender()?.counter,
        })
    }

    /// The port that a knock for `request` goes to.
    pub(super) fn knock_port(&self, request: Request) -> Result<u16, KnockError> {
        let no_port = || KnockError::NoPort(self.profile.name.clone(), self.dir.join("config"));
        self.profile.config.knock_port_for(request).ok_or_else(no_port)
    }

    /// The address that a knock along `route` is good from; `None`: any.
    pub(super) fn bound_to(&self, route: &Route) -> Option<IpAddr> {
        self.profile.config.bind_source.then_some(route.source)
    }

    /// Spends a counter and sends one SYN that asks for `request`.
    pub(crate) fn knock(
        &self,
        raw: &RawSockets,
        route: &Route,
        request: Request,
    ) -> Result<Sent, KnockError> {
        match &self.profile.keys {
            LayoutKeys::Classic(keys) => self.knock_classic(keys, raw, route, request),
            LayoutKeys::Stealth(keys) => self.knock_stealth(keys, raw, route, request),
        }
    }

    /// What the kernel would send is known, and the port taken, before a number is spent.
    fn knock_stealth(
        &self,
        keys: &StealthKeys,
        raw: &RawSockets,
        route: &Route,
        request: Request,
    ) -> Result<Sent, KnockError> {
        let syn = KernelSyn::for_route(route, self.knock_port(request)?)?;
        self.counter.spend_in(step_now(), |number| {
            let (packet, port) = syn.carrying(keys.seal(number, request, self.bound_to(route)));
            let source_port = Some(Arc::new(port));
            send(raw, Sent { counter: number, packet, route: *route, source_port })
        })?
    }

    /// A counter that would give an ID of 0 is spent and passed over: the kernel would fill the ID in. One in 65,536
    /// does, so the loop ends.
    fn knock_classic(
        &self,
        keys: &classic::Keys,
        raw: &RawSockets,
        route: &Route,
        request: Request,
    ) -> Result<Sent, KnockError> {
        loop {
            let sent = self.counter.spend(|counter| match classic::seal(keys, request, counter) {
                Ok(fields) => Some(self.send_classic(raw, route, counter.into(), fields)),
                // `Counter::spend` never gives a spent one: it says so itself.
                Err(SealError::ZeroId | SealError::Spent) => None,
            });
            if let Some(sent) = sent? {
                return sent;
            }
        }
    }

    fn send_classic(
        &self,
        raw: &RawSockets,
        route: &Route,
        counter: u64,
        fields: SynFields,
    ) -> Result<Sent, KnockError> {
        let packet =
            packet(&self.profile, route, fields).map_err(|why| not_sent(counter, route, why))?;
        send(raw, Sent { counter, packet, route: *route, source_port: None })
    }
}

fn send(raw: &RawSockets, knock: Sent) -> Result<Sent, KnockError> {
    raw.send(&knock.packet, knock.route.scope())
        .map_err(|why| not_sent(knock.counter, &knock.route, why))?;
    Ok(knock)
}

fn not_sent(counter: u64, route: &Route, why: Errno) -> KnockError {
    KnockError::NotSent { counter, address: route.target.ip(), why }
}

/// The clock, as the stealth layout reads it. Before 1970 it is 1970: then the counter alone decides.
pub(super) fn step_now() -> u64 {
    step_of(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// The packet that carries `fields` of the classic layout along `route`.
pub(crate) fn packet(
    profile: &Profile,
    route: &Route,
    fields: SynFields,
) -> Result<KnockPacket, Errno> {
    let addresses = AddressPair::new(route.source, route.target.ip()).ok_or(Errno::EAFNOSUPPORT)?;
    let random = getrandom::u64().map_err(|_| Errno::EIO)?;
    let [flow_high, _, high, low, ..] = random.to_be_bytes();
    let source_port = within(&ephemeral_ports(), u16::from_be_bytes([high, low]));
    let knock_port = profile.config.knock_port.unwrap_or_default();
    Ok(KnockPacket::classic(addresses, source_port, knock_port, fields, flow_high))
}

/// The profiles of the person who runs this: `~/.knockknock`.
pub(crate) fn default_profiles() -> Result<PathBuf, KnockError> {
    match std::env::home_dir() {
        Some(home) if !home.as_os_str().is_empty() => Ok(home.join(".knockknock")),
        _ => Err(KnockError::NoHome),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_profile_is_found_by_its_name_in_any_case_and_by_its_address() {
        let config = "[main]\nknock_port = 666\naddress = \"192.0.2.1\"\n";
        let profiles = profiles_with("Server.example", config);
        for host in ["Server.example", "server.EXAMPLE", "server.example.", "192.0.2.1"] {
            let found = Knocker::find(profiles.path(), host, Some(22)).unwrap();
            assert_eq!(found.profile.name, "Server.example", "{host}");
        }
        let failure = Knocker::find(profiles.path(), "192.0.2.2", Some(22)).unwrap_err();
        assert!(matches!(failure, KnockError::NoProfile { .. }), "{failure}");
    }

    fn routes(knocker: &Knocker) -> Result<Vec<Route>, KnockError> {
        Ok(knocker.routes(&knocker.resolve()?, Family::Any, None)?.routes)
    }

    fn profiles_with(name: &str, config: &str) -> tempfile::TempDir {
        let profiles = tempfile::tempdir().unwrap();
        let dir = profiles.path().join(name);
        fs::create_dir(&dir).unwrap();
        for (file, content) in [
            ("cipher.key", "HoCD3Bo5mY7IjLvEwJY9nQ==\n"),
            ("mac.key", "HNFz0K+tNUD67c7/gxNXjg==\n"),
            ("config", config),
            ("counter", "5\n"),
        ] {
            fs::write(dir.join(file), content).unwrap();
        }
        profiles
    }

    #[test]
    fn only_a_plain_name_is_a_profile() {
        let profiles = profiles_with("host", "[main]\nknock_port = 1622\n");
        assert!(Knocker::load(profiles.path(), "host").is_ok());
        let inside = profiles.path().join("host");
        for name in ["", ".", "..", "host/", "/etc", "../x", "nobody", inside.to_str().unwrap()] {
            let failure = Knocker::load(profiles.path(), name).unwrap_err();
            assert!(matches!(failure, KnockError::NoProfile { .. }), "{name:?}: {failure}");
        }
    }

    #[test]
    fn the_config_s_address_comes_before_the_name() {
        let profiles =
            profiles_with("host", "[main]\nknock_port = 1622\naddress = \"127.0.0.9\"\n");
        let knocker = Knocker::load(profiles.path(), "host").unwrap();
        let routes = routes(&knocker).unwrap();
        assert_eq!(routes[0].target, "127.0.0.9:1622".parse().unwrap());
    }

    #[test]
    fn without_a_route_or_a_name_no_counter_is_spent() {
        let config = "[main]\nknock_port = 1622\naddress = \"no-such-host.invalid\"\n";
        let profiles = profiles_with("host", config);
        let knocker = Knocker::load(profiles.path(), "host").unwrap();
        assert!(matches!(routes(&knocker), Err(KnockError::Unresolved(..))));
        assert_eq!(knocker.next_counter().unwrap(), 5);
    }

    #[test]
    fn a_knock_that_cannot_leave_has_spent_its_counter_and_says_so() {
        let profiles = profiles_with("127.0.0.1", "[main]\nknock_port = 1622\n");
        let knocker = Knocker::load(profiles.path(), "127.0.0.1").unwrap();
        let route = routes(&knocker).unwrap()[0];
        // No raw socket of that family: the send fails.
        let raw = RawSockets::default();
        let failure = knocker.knock(&raw, &route, Request(22)).unwrap_err();
        assert!(matches!(failure, KnockError::NotSent { counter: 5, .. }), "{failure}");
        assert_eq!(knocker.next_counter().unwrap(), 6);
    }
}
