//! A service as config, profiles and command lines write it. Owns the notation, and nothing of what it is for.

use std::fmt;
use std::str::FromStr;

/// One service, or a range of them: `tcp/22`, `udp/51820`, `tcp/8000-8010`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedService {
    /// `tcp` or `udp`.
    pub transport: Transport,
    /// The first port of the range, 1 or more.
    pub first_port: u16,
    /// The last port of the range, included.
    pub last_port: u16,
}

/// What carries a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl NamedService {
    /// One TCP port.
    #[must_use]
    pub fn tcp(port: u16) -> Self {
        Self { transport: Transport::Tcp, first_port: port, last_port: port }
    }

    /// Whether the services of a list have all ports of this one among them.
    #[must_use]
    pub fn is_in(&self, list: &[Self]) -> bool {
        (self.first_port..=self.last_port).all(|port| {
            list.iter().any(|one| {
                one.transport == self.transport && (one.first_port..=one.last_port).contains(&port)
            })
        })
    }

    /// Whether the two have a port in common.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.transport == other.transport
            && self.first_port <= other.last_port
            && other.first_port <= self.last_port
    }
}

impl FromStr for NamedService {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text).ok_or_else(|| {
            format!("{text:?} is no service; write protocol/port or protocol/first-last, like tcp/22 or tcp/8000-8010")
        })
    }
}

fn parse(text: &str) -> Option<NamedService> {
    let (transport, ports) = text.split_once('/')?;
    let transport = match transport {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        _ => return None,
    };
    let port = |digits: &str| {
        digits.parse().ok().filter(|&port: &u16| port != 0 && !digits.starts_with('+'))
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first_port, last_port) = (port(first)?, port(last)?);
    (first_port <= last_port).then_some(NamedService { transport, first_port, last_port })
}

impl fmt::Display for NamedService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match self.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        write!(f, "{transport}/{}", self.first_port)?;
        if self.first_port == self.last_port { Ok(()) } else { write!(f, "-{}", self.last_port) }
    }
}

/// Services as they stand behind `allow =`.
#[must_use]
pub fn listed(services: &[NamedService], between: &str) -> String {
    services.iter().map(ToString::to_string).collect::<Vec<_>>().join(between)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(text: &str) -> NamedService {
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
            assert_eq!(parse(text), None, "{text:?}");
        }
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
            assert_eq!(service(one).overlaps(&service(other)), expected, "{one} {other}");
            assert_eq!(service(other).overlaps(&service(one)), expected, "{one} {other}");
        }
    }
}
