//! What root's config allows to be granted. Pure: no clock, no file, no network.
//!
//! The daemon checks before it asks the helper, and only logs a refusal: a client asked for too much. The helper checks
//! again, because the daemon reads what strangers send and may have been compromised by one of them: a grant that the
//! helper has to refuse ends the helper.

use std::net::{IpAddr, Ipv4Addr};

use thiserror::Error;

use crate::grant::{Grant, Protocol, Service};

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

/// Why a grant is outside the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OutsideLimits {
    /// Port 0, or a service that `allow` does not list.
    #[error("{0}/{1} is not among the services in `allow`")]
    Service(Protocol, u16),
    /// No time at all, or more than `max_seconds`.
    #[error("{0} seconds is not between 1 and the configured maximum")]
    Seconds(u16),
    /// Not the address of one other host.
    #[error("{0} is not the address of one other host")]
    Address(IpAddr),
    /// An address of a family that is switched off.
    #[error("{0} is of an address family that the config switches off")]
    Family(IpAddr),
    /// A destination that no packet of this address could have: of another family, the address itself, not one host's.
    #[error("{0} is not an address that it could have knocked on")]
    Destination(IpAddr),
}

impl Limits {
    /// Refuses a grant that root's configuration does not allow anyone to make.
    pub fn check(&self, grant: &Grant) -> Result<(), OutsideLimits> {
        let Grant { address, destination, protocol, port, seconds, .. } = *grant;
        let allowed = match &self.allow {
            None => protocol == Protocol::Tcp,
            Some(services) => services.iter().any(|service| service.contains(protocol, port)),
        };
        if port == 0 || !allowed {
            return Err(OutsideLimits::Service(protocol, port));
        }
        if seconds == 0 || seconds > self.max_seconds {
            return Err(OutsideLimits::Seconds(seconds));
        }
        if !is_one_host(address) {
            return Err(OutsideLimits::Address(address));
        }
        if !(if address.is_ipv4() { self.ipv4 } else { self.ipv6 }) {
            return Err(OutsideLimits::Family(address));
        }
        let is_reached = destination != address && destination.is_ipv4() == address.is_ipv4();
        if !is_reached || !is_one_host(destination) {
            return Err(OutsideLimits::Destination(destination));
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grant::Spend;

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

    fn request() -> Grant {
        Grant {
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
        let check = |protocol, port| limits().check(&Grant { protocol, port, ..request() });
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
            assert_eq!(check(protocol, port), Err(OutsideLimits::Service(protocol, port)));
        }
    }

    #[test]
    fn without_a_list_any_tcp_port_but_zero_is_allowed_and_no_udp_port() {
        let limits = Limits { allow: None, ..limits() };
        let check = |protocol, port| limits.check(&Grant { protocol, port, ..request() });
        assert_eq!(check(Protocol::Tcp, 1), Ok(()));
        assert_eq!(check(Protocol::Tcp, 65535), Ok(()));
        assert_eq!(check(Protocol::Tcp, 0), Err(OutsideLimits::Service(Protocol::Tcp, 0)));
        assert_eq!(check(Protocol::Udp, 53), Err(OutsideLimits::Service(Protocol::Udp, 53)));
    }

    #[test]
    fn seconds_are_between_one_and_the_maximum() {
        let check = |seconds| limits().check(&Grant { seconds, ..request() });
        assert_eq!((check(1), check(60)), (Ok(()), Ok(())));
        assert_eq!(
            (check(0), check(61)),
            (Err(OutsideLimits::Seconds(0)), Err(OutsideLimits::Seconds(61)))
        );
    }

    #[test]
    fn an_address_that_is_not_one_other_host_is_refused() {
        let check = |address: &str| {
            let address: IpAddr = address.parse().unwrap();
            let own = if address.is_ipv4() { "192.0.2.1" } else { "2001:db8::1" };
            limits().check(&Grant { address, destination: own.parse().unwrap(), ..request() })
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
            assert_eq!(check(bad), Err(OutsideLimits::Address(bad.parse().unwrap())), "{bad}");
        }
    }

    #[test]
    fn a_destination_is_another_address_of_the_same_family_and_one_hosts() {
        let check = |destination: &str| {
            limits().check(&Grant { destination: destination.parse().unwrap(), ..request() })
        };
        assert_eq!(check("198.51.100.1"), Ok(()));
        for bad in ["192.0.2.7", "2001:db8::1", "127.0.0.1", "224.0.0.1", "0.0.0.0"] {
            assert_eq!(check(bad), Err(OutsideLimits::Destination(bad.parse().unwrap())), "{bad}");
        }
    }

    #[test]
    fn a_family_that_is_switched_off_is_refused() {
        let v6 = Grant {
            address: "2001:db8::7".parse().unwrap(),
            destination: "2001:db8::1".parse().unwrap(),
            ..request()
        };
        assert_eq!(
            Limits { ipv4: false, ..limits() }.check(&request()),
            Err(OutsideLimits::Family(request().address))
        );
        assert_eq!(
            Limits { ipv6: false, ..limits() }.check(&v6),
            Err(OutsideLimits::Family(v6.address))
        );
        assert_eq!(Limits { ipv6: false, ..limits() }.check(&request()), Ok(()));
    }
}
