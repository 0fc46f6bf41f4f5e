//! From a host's name to the addresses that it can be knocked at, and the local address that a knock comes from.
//!
//! Asks the system's resolver and routing table; sends nothing to the host itself.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs, UdpSocket};

use crate::client::say::reason;

/// Which address families may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Family {
    /// Either or both: as the host has them.
    #[default]
    Any,
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
}

impl Family {
    fn allows(self, address: &SocketAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// A route to a host: what the knock and the connection after it both use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The local address that packets to `target` come from.
    pub source: IpAddr,
    /// The host's address and, where that is link-local, the interface. The port means nothing here.
    pub target: SocketAddr,
}

impl Route {
    /// The index of the interface that a link-local target is on, else 0.
    pub(crate) fn scope(&self) -> u32 {
        match self.target {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(target) => target.scope_id(),
        }
    }

    /// The source as an address to bind to. Where it is link-local, it is meant on the target's interface.
    pub(crate) fn local(&self) -> SocketAddr {
        match self.source {
            IpAddr::V4(source) => SocketAddr::new(source.into(), 0),
            IpAddr::V6(source) => SocketAddrV6::new(source, 0, 0, self.scope()).into(),
        }
    }

    /// `port` of the target.
    pub(crate) fn target_at(&self, port: u16) -> SocketAddr {
        let mut target = self.target;
        target.set_port(port);
        target
    }

    /// The route that the kernel would send a packet to `target` by now. `source`: from this local address only.
    ///
    /// Connects a UDP socket, which sends nothing.
    pub fn find(target: SocketAddr, source: Option<IpAddr>) -> io::Result<Self> {
        let any = match target {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let wanted = Self { source: source.unwrap_or(any), target };
        let socket = UdpSocket::bind(wanted.local())?;
        socket.connect(target)?;
        Ok(Self { source: socket.local_addr()?.ip(), target })
    }
}

/// The addresses of `name` in the order in which a program like ssh tries them (RFC 6724), each once.
///
/// `name` may be a name in any script, an address, or a link-local address with its interface (`fe80::1%eth0`).
/// The addresses have port `port`.
pub(crate) fn resolve(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let mut addresses = Vec::new();
    for address in (ascii_name(name).as_str(), port).to_socket_addrs()? {
        let address = match address {
            // An IPv4 address in IPv6 clothes is reached by IPv4.
            SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some() => {
                SocketAddr::new(v6.ip().to_canonical(), port)
            }
            other => other,
        };
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

/// `name` as the DNS knows it: a name in another script than ASCII becomes `xn--...`. What cannot be a name is
/// left as it is, for the resolver to refuse.
pub(crate) fn ascii_name(name: &str) -> String {
    if name.is_ascii() {
        return name.to_owned();
    }
    idna::domain_to_ascii(name).unwrap_or_else(|_| name.to_owned())
}

/// The routes to a host.
#[derive(Debug, Default)]
pub(crate) struct FoundRoutes {
    /// Those that there are, in the order of the addresses; at least one.
    pub(crate) routes: Vec<Route>,
    /// The addresses that there is no route to, and why.
    pub(crate) unreachable: Vec<(IpAddr, io::Error)>,
}

/// Why there is no route to a host.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RouteError {
    /// The host has no address of a family that may be used.
    #[error("no address of the family that was asked for (-4, -6, --source)")]
    NoneOfThatFamily,
    /// The kernel knows no route to any of its addresses: the first, and why.
    #[error("no route to {0} ({why})", why = reason(.1))]
    Unreachable(IpAddr, io::Error),
}

/// The routes to `addresses`, those of an allowed family that there is a route to, in their order.
///
/// `Any` and a host with both families: the first route is the one that a program like ssh tries first too.
pub(crate) fn find_routes(
    addresses: &[SocketAddr],
    family: Family,
    source: Option<IpAddr>,
) -> Result<FoundRoutes, RouteError> {
    let mut found = FoundRoutes::default();
    for &address in addresses.iter().filter(|address| family.allows(address)) {
        if source.is_some_and(|source| source.is_ipv4() != address.is_ipv4()) {
            continue;
        }
        match Route::find(address, source) {
            Ok(route) => found.routes.push(route),
            Err(why) => found.unreachable.push((address.ip(), why)),
        }
    }
    if !found.routes.is_empty() {
        return Ok(found);
    }
    Err(match found.unreachable.into_iter().next() {
        Some((address, why)) => RouteError::Unreachable(address, why),
        None => RouteError::NoneOfThatFamily,
    })
}

/// The routes to knock along: the first of each family. Nobody knows which of them the connection will take, nor which
/// the server watches: the original's knows IPv4 alone.
pub(crate) fn first_of_each_family(routes: &[Route]) -> Vec<Route> {
    let first = routes.first();
    let other = first.and_then(|first| {
        routes.iter().find(|route| route.target.is_ipv4() != first.target.is_ipv4())
    });
    first.into_iter().chain(other).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn addresses_resolve_to_themselves_and_mapped_ones_to_ipv4() {
        assert_eq!(resolve("192.0.2.1", 7).unwrap(), addresses(&["192.0.2.1:7"]));
        assert_eq!(resolve("2001:db8::1", 7).unwrap(), addresses(&["[2001:db8::1]:7"]));
        assert_eq!(resolve("::ffff:192.0.2.1", 7).unwrap(), addresses(&["192.0.2.1:7"]));
    }

    #[test]
    fn a_link_local_address_keeps_its_interface() {
        let [SocketAddr::V6(address)] = resolve("fe80::1%lo", 7).unwrap()[..] else { panic!() };
        assert_eq!(address.scope_id(), 1, "lo is the first interface");
        assert!(resolve("fe80::1%no-such-one", 7).is_err());
    }

    #[test]
    fn a_name_in_another_script_is_asked_for_in_ascii() {
        assert_eq!(ascii_name("bücher.example"), "xn--bcher-kva.example");
        assert_eq!(ascii_name("BÜCHER.example"), "xn--bcher-kva.example");
        assert_eq!(ascii_name("fe80::1%eth0"), "fe80::1%eth0");
    }

    #[test]
    fn a_route_to_ourselves_comes_from_ourselves() {
        let [target] = addresses(&["127.0.0.1:9"])[..] else { panic!() };
        assert_eq!(Route::find(target, None).unwrap().source, IpAddr::from([127, 0, 0, 1]));
        let source = IpAddr::from([127, 0, 0, 2]);
        assert_eq!(Route::find(target, Some(source)).unwrap().source, source);
        let foreign = IpAddr::from([192, 0, 2, 99]);
        assert!(Route::find(target, Some(foreign)).is_err(), "nobody's address is no source");
    }

    #[test]
    fn families_that_are_not_wanted_are_left_out() {
        let all = addresses(&["127.0.0.1:9", "127.0.0.2:9"]);
        assert_eq!(find_routes(&all, Family::V4, None).unwrap().routes.len(), 2);
        assert!(matches!(find_routes(&all, Family::V6, None), Err(RouteError::NoneOfThatFamily)));
        let source = Some(Ipv6Addr::LOCALHOST.into());
        assert!(matches!(
            find_routes(&all, Family::Any, source),
            Err(RouteError::NoneOfThatFamily)
        ));
    }

    #[test]
    fn each_family_that_a_host_has_is_knocked_at_once() {
        let route = |text: &str| {
            let target: SocketAddr = text.parse().unwrap();
            Route { source: target.ip(), target }
        };
        let all = [route("[::1]:9"), route("[::2]:9"), route("127.0.0.1:9")];
        assert_eq!(first_of_each_family(&all), [all[0], all[2]]);
        assert_eq!(first_of_each_family(&all[1..]), [all[1], all[2]]);
        assert_eq!(first_of_each_family(&all[..2]), [all[0]]);
        assert_eq!(first_of_each_family(&[]), []);
    }

    #[test]
    fn an_address_without_a_route_is_passed_over_where_another_has_one() {
        let all = addresses(&["127.0.0.1:9", "[::1]:9"]);
        let source = Some([127, 0, 0, 1].into());
        assert_eq!(find_routes(&all, Family::Any, source).unwrap().routes.len(), 1);
        // 255.255.255.255 is nobody's: the kernel knows no route there without being told that it is a broadcast.
        let all = addresses(&["255.255.255.255:9", "127.0.0.1:9"]);
        let found = find_routes(&all, Family::Any, None).unwrap();
        assert_eq!(found.routes.len(), 1);
        assert_eq!(found.unreachable[0].0, IpAddr::from([255, 255, 255, 255]));
    }
}
