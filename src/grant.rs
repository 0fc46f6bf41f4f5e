//! What is granted: a service, as config, profiles and command lines name it, and the grant of it to one address. Only
//! data and its notation, for config, policy, the pipe to the helper, and the firewall.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use thiserror::Error;

/// The IP protocol of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// TCP, IP protocol 6.
    Tcp = 6,
    /// UDP, IP protocol 17.
    Udp = 17,
}

/// What ends a grant before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Spend {
    /// The first packet of one connection. Whoever knows the client's address can send that packet.
    One = 1,
    /// Nothing: any number of connections, until it is closed.
    Any = 2,
}

/// `address` may connect to `port` of `destination` within `seconds` from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Who may connect.
    pub address: IpAddr,
    /// To which address of this host.
    pub destination: IpAddr,
    /// The protocol of the service.
    pub protocol: Protocol,
    /// The service's port as the client sees it, 1 to 65,535.
    pub port: u16,
    /// How long the grant lasts, from 1 up to the configured maximum.
    pub seconds: u16,
    /// How many connections it is for.
    pub spend: Spend,
}

/// One service, or a range of them: `tcp/22`, `udp/51820`, `tcp/8000-8010`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// The service's protocol.
    pub protocol: Protocol,
    /// The first port of the range, 1 or more.
    pub first_port: u16,
    /// The last port of the range, included.
    pub last_port: u16,
}

/// A text that names no service.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} is not a service\nfix: write protocol/port or protocol/first-last, like tcp/22 or tcp/8000-8010"
)]
pub struct NotAService(String);

impl Grant {
    /// Whether both admit the same connections: granting the one again renews the other.
    #[must_use]
    pub(crate) fn is_for_the_same(&self, other: &Self) -> bool {
        (self.address, self.destination, self.protocol, self.port)
            == (other.address, other.destination, other.protocol, other.port)
    }
}

impl Service {
    /// One TCP port.
    #[must_use]
    pub(crate) fn tcp(port: u16) -> Self {
        Self { protocol: Protocol::Tcp, first_port: port, last_port: port }
    }

    /// Whether this service, or range of services, has `port` of `protocol` in it.
    #[must_use]
    pub fn contains(&self, protocol: Protocol, port: u16) -> bool {
        self.protocol == protocol && (self.first_port..=self.last_port).contains(&port)
    }

    /// Whether the services of a list have all ports of this one among them.
    #[must_use]
    pub(crate) fn is_in(self, list: &[Self]) -> bool {
        (self.first_port..=self.last_port)
            .all(|port| list.iter().any(|one| one.contains(self.protocol, port)))
    }

    /// Whether the two have a port in common.
    #[must_use]
    pub(crate) fn overlaps(self, other: Self) -> bool {
        self.protocol == other.protocol
            && self.first_port <= other.last_port
            && other.first_port <= self.last_port
    }
}

impl FromStr for Service {
    type Err = NotAService;

    fn from_str(text: &str) -> Result<Self, NotAService> {
        let parse = || {
            let (protocol, ports) = text.split_once('/')?;
            let protocol = match protocol {
                "tcp" => Protocol::Tcp,
                "udp" => Protocol::Udp,
                _ => return None,
            };
            let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
            let (first_port, last_port) = (port(first)?, port(last)?);
            (first_port <= last_port).then_some(Self { protocol, first_port, last_port })
        };
        parse().ok_or_else(|| NotAService(text.to_owned()))
    }
}

fn port(digits: &str) -> Option<u16> {
    digits.parse().ok().filter(|port| *port != 0 && !digits.starts_with('+'))
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, first_port, last_port } = self;
        write!(f, "{protocol}/{first_port}")?;
        if first_port == last_port { Ok(()) } else { write!(f, "-{last_port}") }
    }
}

/// Services as they stand behind `allow =`.
#[must_use]
pub(crate) fn listed(services: &[Service], between: &str) -> String {
    services.iter().map(ToString::to_string).collect::<Vec<_>>().join(between)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(text: &str) -> Service {
        text.parse().unwrap()
    }

    #[test]
    fn services_are_written_as_they_are_read_and_nonsense_is_refused() {
        for text in ["tcp/22", "udp/51820", "tcp/8000-8010", "udp/1-65535"] {
            assert_eq!(service(text).to_string(), text);
        }
        for text in [
            "",
            "22",
            "tcp",
            "tcp/",
            "tcp/0",
            "tcp/65536",
            "tcp/2-1",
            "tcp/+2",
            "icmp/1",
            "tcp/1-2-3",
        ] {
            assert_eq!(text.parse::<Service>(), Err(NotAService(text.into())), "{text:?}");
        }
    }

    #[test]
    fn a_list_has_its_services_in_order() {
        assert_eq!(listed(&["udp/53", "tcp/80-90"].map(service), ", "), "udp/53, tcp/80-90");
        assert_eq!(listed(&[], ", "), "");
    }

    #[test]
    fn a_range_is_in_a_list_where_each_of_its_ports_is() {
        let list = ["tcp/22", "tcp/80-90", "tcp/91-100", "udp/53"].map(service);
        for inside in ["tcp/22", "tcp/80-100", "tcp/90-91", "udp/53"] {
            assert!(service(inside).is_in(&list), "{inside}");
        }
        for outside in ["tcp/23", "tcp/79-80", "tcp/100-101", "udp/22", "tcp/53"] {
            assert!(!service(outside).is_in(&list), "{outside}");
        }
        for (one, other, expected) in [
            ("tcp/22", "tcp/20-22", true),
            ("tcp/22", "tcp/22-30", true),
            ("tcp/22", "tcp/23-30", false),
            ("tcp/22", "udp/22", false),
        ] {
            assert_eq!(service(one).overlaps(service(other)), expected, "{one} {other}");
            assert_eq!(service(other).overlaps(service(one)), expected, "{one} {other}");
        }
    }
}
