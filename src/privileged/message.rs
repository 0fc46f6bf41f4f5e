//! The two messages on the pipes between daemon and helper: fixed arrays of bytes with named offsets.
//!
//! Owns the encoding and nothing else. Decoding takes only what encoding makes: one request has one form in bytes.
//!
//! ```text
//! request, 24 bytes          reply, 8 bytes
//!  0      version (1)         0     version (1)
//!  1      what: 1 = open,     1     status: 0 ready, 1 opened, 2 full, 3 full for this source, 4 failed
//!         2 = end, rest zero
//!  2      family: 4 or 6      2..4  zero
//!  3      protocol: 6 or 17   4..8  errno, for status 4; else zero
//!  4..6   port
//!  6..8   seconds
//!  8..24  address; IPv4 in the first four bytes, the rest zero
//! ```
//!
//! All integers are big-endian.

#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Length of a request in bytes; far below `PIPE_BUF`, so a pipe carries it in one piece.
pub const REQUEST_LEN: usize = 24;
/// Length of a reply in bytes.
pub const REPLY_LEN: usize = 8;

const VERSION: u8 = 1;
const OPEN: u8 = 1;
const END: u8 = 2;
const FAMILY_4: u8 = 4;
const FAMILY_6: u8 = 6;
const ZERO_12: [u8; 12] = [0; 12];

const READY: u8 = 0;
const OPENED: u8 = 1;
const FULL: u8 = 2;
const FULL_FOR_SOURCE: u8 = 3;
const FAILED: u8 = 4;

/// "End, there is nothing wrong": what the daemon sends last, so that a pipe that just ends tells of its death.
pub(super) const LEAVE: [u8; REQUEST_LEN] = {
    let mut bytes = [0; REQUEST_LEN];
    bytes[0] = VERSION;
    bytes[1] = END;
    bytes
};

/// The IP protocol of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// TCP, IP protocol 6.
    Tcp = 6,
    /// UDP, IP protocol 17.
    Udp = 17,
}

/// "Let `address` open one connection to `port` within `seconds` from now."
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who may connect.
    pub address: IpAddr,
    /// The protocol of the service.
    pub protocol: Protocol,
    /// The service's port here, 1 to 65,535.
    pub port: u16,
    /// How long the offer stands, from 1 up to the configured maximum.
    pub seconds: u16,
}

/// What the helper says to a request, and once, unasked, when it is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The helper has dropped its privileges and waits for the first request.
    Ready,
    /// The firewall admits the connection from now on.
    Opened,
    /// As many grants as the limits allow are open. Nothing was changed.
    Full,
    /// As many grants as the limits allow are open for this address. Nothing was changed.
    FullForSource,
    /// The firewall refused, with this `errno`. Nothing was changed.
    Failed(i32),
}

impl Request {
    /// The request as it goes through the pipe.
    #[must_use]
    pub fn encode(&self) -> [u8; REQUEST_LEN] {
        let (family, address) = match self.address {
            IpAddr::V4(v4) => (FAMILY_4, v4_in_16(v4)),
            IpAddr::V6(v6) => (FAMILY_6, v6.octets()),
        };
        let [p0, p1] = self.port.to_be_bytes();
        let [s0, s1] = self.seconds.to_be_bytes();
        let mut bytes = [0; REQUEST_LEN];
        bytes[..8].copy_from_slice(&[VERSION, OPEN, family, self.protocol as u8, p0, p1, s0, s1]);
        bytes[8..].copy_from_slice(&address);
        bytes
    }

    /// The request in `bytes`; `None` for anything that [`Request::encode`] does not make.
    ///
    /// Whether the request is allowed is not decided here but by [`super::Limits::check`].
    #[must_use]
    pub fn decode(bytes: &[u8; REQUEST_LEN]) -> Option<Self> {
        let [VERSION, OPEN, family, protocol, p0, p1, s0, s1, address @ ..] = *bytes else {
            return None;
        };
        let address = match (family, address) {
            (FAMILY_4, [a, b, c, d, rest @ ..]) if rest == ZERO_12 => {
                IpAddr::V4(Ipv4Addr::new(a, b, c, d))
            }
            (FAMILY_6, address) => IpAddr::V6(Ipv6Addr::from(address)),
            _ => return None,
        };
        let protocol = match protocol {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            _ => return None,
        };
        let (port, seconds) = (u16::from_be_bytes([p0, p1]), u16::from_be_bytes([s0, s1]));
        Some(Self { address, protocol, port, seconds })
    }
}

impl Reply {
    /// The reply as it goes through the pipe.
    #[must_use]
    pub fn encode(self) -> [u8; REPLY_LEN] {
        let (status, errno) = match self {
            Self::Ready => (READY, 0),
            Self::Opened => (OPENED, 0),
            Self::Full => (FULL, 0),
            Self::FullForSource => (FULL_FOR_SOURCE, 0),
            Self::Failed(errno) => (FAILED, errno),
        };
        let [e0, e1, e2, e3] = errno.to_be_bytes();
        [VERSION, status, 0, 0, e0, e1, e2, e3]
    }

    /// The reply in `bytes`; `None` for anything that [`Reply::encode`] does not make.
    #[must_use]
    pub fn decode(bytes: &[u8; REPLY_LEN]) -> Option<Self> {
        let [VERSION, status, 0, 0, errno @ ..] = *bytes else { return None };
        match (status, i32::from_be_bytes(errno)) {
            (READY, 0) => Some(Self::Ready),
            (OPENED, 0) => Some(Self::Opened),
            (FULL, 0) => Some(Self::Full),
            (FULL_FOR_SOURCE, 0) => Some(Self::FullForSource),
            (FAILED, errno) => Some(Self::Failed(errno)),
            _ => None,
        }
    }
}

fn v4_in_16(v4: Ipv4Addr) -> [u8; 16] {
    let [a, b, c, d] = v4.octets();
    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: Request = Request {
        address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
        protocol: Protocol::Tcp,
        port: 22,
        seconds: 15,
    };
    const V4_BYTES: [u8; REQUEST_LEN] =
        [1, 1, 4, 6, 0, 22, 0, 15, 192, 0, 2, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    #[test]
    fn a_request_has_these_bytes() {
        assert_eq!(V4.encode(), V4_BYTES);
        let v6 = Request {
            address: "2001:db8::7".parse().unwrap(),
            protocol: Protocol::Udp,
            port: 0x1234,
            seconds: 0x5678,
        };
        let v6_bytes = [
            1, 1, 6, 17, 0x12, 0x34, 0x56, 0x78, 0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            0, 7,
        ];
        assert_eq!(v6.encode(), v6_bytes);
        assert_eq!(Request::decode(&V4_BYTES), Some(V4));
        assert_eq!(Request::decode(&v6_bytes), Some(v6));
    }

    #[test]
    fn a_reply_has_these_bytes() {
        for (reply, bytes) in [
            (Reply::Ready, [1, 0, 0, 0, 0, 0, 0, 0]),
            (Reply::Opened, [1, 1, 0, 0, 0, 0, 0, 0]),
            (Reply::Full, [1, 2, 0, 0, 0, 0, 0, 0]),
            (Reply::FullForSource, [1, 3, 0, 0, 0, 0, 0, 0]),
            (Reply::Failed(23), [1, 4, 0, 0, 0, 0, 0, 23]),
        ] {
            assert_eq!(reply.encode(), bytes);
            assert_eq!(Reply::decode(&bytes), Some(reply));
        }
    }

    #[test]
    fn what_decodes_encodes_to_the_same_bytes_and_the_rest_is_refused() {
        let v6 = Request { address: "2001:db8::7".parse().unwrap(), ..V4 }.encode();
        for good in [V4_BYTES, v6] {
            for at in 0..REQUEST_LEN {
                for value in 0..=u8::MAX {
                    let mut bytes = good;
                    bytes[at] = value;
                    if let Some(request) = Request::decode(&bytes) {
                        assert_eq!(request.encode(), bytes);
                    } else {
                        assert_ne!(bytes, good, "byte {at} = {value}");
                    }
                }
            }
        }
        for at in 0..REPLY_LEN {
            for value in 0..=u8::MAX {
                let mut bytes = Reply::Failed(7).encode();
                bytes[at] = value;
                if let Some(reply) = Reply::decode(&bytes) {
                    assert_eq!(reply.encode(), bytes);
                }
            }
        }
    }

    #[test]
    fn another_version_kind_family_protocol_or_padding_is_refused() {
        for (at, value) in
            [(0, 0), (0, 2), (1, 0), (1, 2), (2, 0), (2, 10), (3, 1), (3, 0), (12, 1), (23, 255)]
        {
            let mut bytes = V4_BYTES;
            bytes[at] = value;
            assert_eq!(Request::decode(&bytes), None, "byte {at} = {value}");
        }
    }
}
