//! What root's configuration allows anyone to be granted. Pure: no clock, no file, no network.
//!
//! The daemon asks [`Limits::check`] before it asks the helper, and only logs a refusal: a client asked for too much.
//! The helper checks again, because the daemon reads what strangers wrote and may have been taken over by one of them.
//! A request that the helper has to refuse therefore ends the helper.

#![forbid(unsafe_code)]

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use super::{Protocol, Request};

/// One service, or a range of them: `tcp/22`, `udp/60000-61000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// The service's protocol.
    pub protocol: Protocol,
    /// The first port of the range, 1 or more.
    pub first_port: u16,
    /// The last port of the range, included.
    pub last_port: u16,
}

/// The limits that the helper is started with. Nothing that arrives later can widen them.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The services that may be opened; `None`: any TCP port, as with the original.
    pub allow: Option<Vec<Service>>,
    /// The longest time that a grant may stand, in seconds.
    pub max_seconds: u16,
    /// How many grants may be open at once.
    pub max_open: usize,
    /// How many grants may be open at once for one address.
    pub max_open_per_source: usize,
    /// Whether IPv4 addresses may be let in.
    pub ipv4: bool,
    /// Whether IPv6 addresses may be let in.
    pub ipv6: bool,
}

/// Why a request is outside the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Port 0, or a service that `allow` does not list.
    Service(Protocol, u16),
    /// No time at all, or more than `max_seconds`.
    Seconds(u16),
    /// Not the address of one other host.
    Address(IpAddr),
    /// An address of a family that is switched off.
    Family(IpAddr),
    /// A destination that no packet of this address could have: of another family, the address itself, not one host's.
    Destination(IpAddr),
}

impl Limits {
    /// Refuses a request that root's configuration does not allow anyone to make.
    pub fn check(&self, request: &Request) -> Result<(), Refusal> {
        let Request { address, destination, protocol, port, seconds, .. } = *request;
        let allowed = match &self.allow {
            None => protocol == Protocol::Tcp,
            Some(services) => services.iter().any(|service| service.contains(protocol, port)),
        };
        if port == 0 || !allowed {
            return Err(Refusal::Service(protocol, port));
        }
        if seconds == 0 || seconds > self.max_seconds {
            return Err(Refusal::Seconds(seconds));
        }
        if !is_one_host(address) {
            return Err(Refusal::Address(address));
        }
        if !(if address.is_ipv4() { self.ipv4 } else { self.ipv6 }) {
            return Err(Refusal::Family(address));
        }
        let is_reached = destination != address && destination.is_ipv4() == address.is_ipv4();
        if !is_reached || !is_one_host(destination) {
            return Err(Refusal::Destination(destination));
        }
        Ok(())
    }
}

impl Service {
    /// Whether this service, or range of services, has `port` of `protocol` in it.
    #[must_use]
    pub fn contains(&self, protocol: Protocol, port: u16) -> bool {
        self.protocol == protocol && (self.first_port..=self.last_port).contains(&port)
    }
}

/// Whether `address` can be the source of a packet from one other host.
fn is_one_host(address: IpAddr) -> bool {
    let special = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    let family = match address {
        IpAddr::V4(v4) => v4.octets()[0] == 0 || v4 == Ipv4Addr::BROADCAST,
        // On the wire these are IPv4; in a log line they can only be forged.
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_some(),
    };
    !special && !family
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(protocol, port) => {
                write!(f, "{protocol}/{port} is not among the services in `allow`")
            }
            Self::Seconds(seconds) => {
                write!(f, "{seconds} seconds is not between 1 and the configured maximum")
            }
            Self::Address(address) => write!(f, "{address} is not the address of one other host"),
            Self::Family(address) => {
                write!(f, "{address} is of an address family that the config switches off")
            }
            Self::Destination(address) => {
                write!(f, "{address} is no address that it could have knocked on")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Spend;
    use super::*;

    fn limits() -> Limits {
        let ssh = Service { protocol: Protocol::Tcp, first_port: 22, last_port: 22 };
        let mosh = Service { protocol: Protocol::Udp, first_port: 60000, last_port: 61000 };
        Limits {
            allow: Some(vec![ssh, mosh]),
            max_seconds: 60,
            max_open: 10,
            max_open_per_source: 2,
            ipv4: true,
            ipv6: true,
        }
    }

    fn request() -> Request {
        Request {
            address: "192.0.2.7".parse().unwrap(),
            destination: "192.0.2.1".parse().unwrap(),
            protocol: Protocol::Tcp,
            port: 22,
            seconds: 15,
            spend: Spend::Any,
        }
    }

    #[test]
    fn services_are_a_protocol_and_a_range_with_both_ends() {
        let check = |protocol, port| limits().check(&Request { protocol, port, ..request() });
        assert_eq!(check(Protocol::Tcp, 22), Ok(()));
        assert_eq!(check(Protocol::Udp, 60000), Ok(()));
        assert_eq!(check(Protocol::Udp, 61000), Ok(()));
        for (protocol, port) in [
            (Protocol::Udp, 22),
            (Protocol::Tcp, 23),
            (Protocol::Udp, 61001),
            (Protocol::Tcp, 60000),
            (Protocol::Tcp, 0),
        ] {
            assert_eq!(check(protocol, port), Err(Refusal::Service(protocol, port)));
        }
    }

    #[test]
    fn without_a_list_any_tcp_port_but_zero_is_allowed_and_no_udp_port() {
        let limits = Limits { allow: None, ..limits() };
        let check = |protocol, port| limits.check(&Request { protocol, port, ..request() });
        assert_eq!(check(Protocol::Tcp, 1), Ok(()));
        assert_eq!(check(Protocol::Tcp, 65535), Ok(()));
        assert_eq!(check(Protocol::Tcp, 0), Err(Refusal::Service(Protocol::Tcp, 0)));
        assert_eq!(check(Protocol::Udp, 53), Err(Refusal::Service(Protocol::Udp, 53)));
    }

    #[test]
    fn seconds_are_between_one_and_the_maximum() {
        let check = |seconds| limits().check(&Request { seconds, ..request() });
        assert_eq!((check(1), check(60)), (Ok(()), Ok(())));
        assert_eq!((check(0), check(61)), (Err(Refusal::Seconds(0)), Err(Refusal::Seconds(61))));
    }

    #[test]
    fn an_address_that_is_not_one_other_host_is_refused() {
        let check = |address: &str| {
            let address: IpAddr = address.parse().unwrap();
            let own = if address.is_ipv4() { "192.0.2.1" } else { "2001:db8::1" };
            limits().check(&Request { address, destination: own.parse().unwrap(), ..request() })
        };
        for good in ["192.0.2.7", "10.0.0.1", "2001:db8::7", "fe80::7"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "ff02::1",
            "::ffff:192.0.2.7",
        ] {
            assert_eq!(check(bad), Err(Refusal::Address(bad.parse().unwrap())), "{bad}");
        }
    }

    #[test]
    fn a_destination_is_another_address_of_the_same_family_and_one_hosts() {
        let check = |destination: &str| {
            limits().check(&Request { destination: destination.parse().unwrap(), ..request() })
        };
        assert_eq!(check("198.51.100.1"), Ok(()));
        for bad in ["192.0.2.7", "2001:db8::1", "127.0.0.1", "224.0.0.1", "0.0.0.0"] {
            assert_eq!(check(bad), Err(Refusal::Destination(bad.parse().unwrap())), "{bad}");
        }
    }

    #[test]
    fn a_family_that_is_switched_off_is_refused() {
        let v6 = Request {
            address: "2001:db8::7".parse().unwrap(),
            destination: "2001:db8::1".parse().unwrap(),
            ..request()
        };
        assert_eq!(
            Limits { ipv4: false, ..limits() }.check(&request()),
            Err(Refusal::Family(request().address))
        );
        assert_eq!(Limits { ipv6: false, ..limits() }.check(&v6), Err(Refusal::Family(v6.address)));
        assert_eq!(Limits { ipv6: false, ..limits() }.check(&request()), Ok(()));
    }
}
