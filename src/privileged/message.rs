//! The messages on the two pipes between daemon and helper: fixed arrays of bytes with named offsets.
//!
//! Owns the encoding and nothing else. Decoding accepts only what encoding produces: each message has one encoding.
//!
//! ```text
//! request, 512 bytes                                    reply, 8 bytes
//!  0      version (2)                                    0     version (2)
//!  1      what: 1 open, 2 end, 3 close, 4 expect,        1     status: 0 ready, 1 opened, 2 full,
//!               5 forget, 6 knock ports, 7 unguard               3 full for this source, 4 failed, 5 done,
//!                                                                6 not our address, 7 our own address
//! open, close                                            2..4  zero
//!  2      family: 4 or 6                                 4..8  errno, for status 4; else zero
//!  3      protocol: 6 or 17
//!  4..6   port
//!  6..8   seconds
//!  8      spend: 1 one connection, 2 any number
//!  9      the destination's family: 4 or 6
//! 16..32  address; IPv4 in the first four bytes, the rest zero
//! 32..48  destination, likewise
//! expect, forget, knock ports
//!  2..4   how many numbers, 0 to 127
//!  4..    the numbers, four bytes each
//! ```
//!
//! All integers are big-endian; what is not named is zero.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::grant::{Grant, Protocol, Spend};

/// Length of a request in bytes; below `PIPE_BUF`, so a pipe carries it in one piece.
pub const REQUEST_LEN: usize = 512;
/// Length of a reply in bytes.
pub const REPLY_LEN: usize = 8;
/// How many numbers a request carries at most.
pub const MAX_NUMBERS: usize = (REQUEST_LEN - HEADER_LEN) / 4;

const HEADER_LEN: usize = 4;
const VERSION: u8 = 2;
const OPEN: u8 = 1;
const END: u8 = 2;
const CLOSE: u8 = 3;
const EXPECT: u8 = 4;
const FORGET: u8 = 5;
const KNOCK_PORTS: u8 = 6;
const UNGUARD: u8 = 7;
const FAMILY_4: u8 = 4;
const FAMILY_6: u8 = 6;

const READY: u8 = 0;
const OPENED: u8 = 1;
const FULL: u8 = 2;
const FULL_FOR_SOURCE: u8 = 3;
const FAILED: u8 = 4;
const DONE: u8 = 5;
const NOT_OURS: u8 = 6;
const OURS: u8 = 7;

/// What the daemon asks of the helper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Open, or renew what is open already.
    Open(Grant),
    /// Close what was opened; its time does not matter.
    Close(Grant),
    /// Log SYNs with these sequence numbers; at most [`MAX_NUMBERS`].
    Expect(Vec<u32>),
    /// Log them no longer.
    Forget(Vec<u32>),
    /// Log SYNs with an acknowledgement number to these ports.
    KnockPorts(Vec<u16>),
    /// Drop our copy of the guard.
    Unguard,
    /// End without an error: the last message, so that end of file without it means that the daemon died.
    End,
}

/// The helper's answer to a request; also sent once, without a request, when the helper is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The helper has dropped its privileges and waits for the first request.
    Ready,
    /// The firewall admits the connection from now on.
    Opened,
    /// As many grants as the limits allow are open, or as many numbers expected. Nothing was changed.
    Full,
    /// As many grants as the limits allow are open for this address. Nothing was changed.
    FullForSource,
    /// The kernel refused, with this `errno`. Nothing was opened.
    Failed(i32),
    /// Closed, expected, forgotten, dropped.
    Done,
    /// The destination is not an address of this host now. Nothing was changed.
    NotOurs,
    /// The address that was to be let in is one of this host. Nothing was changed.
    Ours,
}

impl Message {
    /// The message as it goes through the pipe. Numbers beyond [`MAX_NUMBERS`] are left out.
    #[must_use]
    pub fn encode(&self) -> [u8; REQUEST_LEN] {
        let mut bytes = [0; REQUEST_LEN];
        let kind = match self {
            Self::Open(grant) | Self::Close(grant) => {
                grant.encode(&mut bytes);
                if matches!(self, Self::Open(_)) { OPEN } else { CLOSE }
            }
            Self::Expect(numbers) => numbers_into(&mut bytes, EXPECT, numbers.iter().copied()),
            Self::Forget(numbers) => numbers_into(&mut bytes, FORGET, numbers.iter().copied()),
            Self::KnockPorts(ports) => {
                numbers_into(&mut bytes, KNOCK_PORTS, ports.iter().map(|&port| port.into()))
            }
            Self::Unguard => UNGUARD,
            Self::End => END,
        };
        [bytes[0], bytes[1]] = [VERSION, kind];
        bytes
    }

    /// The message in `bytes`; `None` for anything that [`Message::encode`] does not make.
    ///
    /// Whether it is allowed is not decided here but by [`super::limits::Limits::check`].
    #[must_use]
    pub fn decode(bytes: &[u8; REQUEST_LEN]) -> Option<Self> {
        let [VERSION, kind, ..] = *bytes else { return None };
        let message = match kind {
            OPEN => Self::Open(Grant::decode(bytes)?),
            CLOSE => Self::Close(Grant::decode(bytes)?),
            EXPECT => Self::Expect(numbers_in(bytes)),
            FORGET => Self::Forget(numbers_in(bytes)),
            KNOCK_PORTS => {
                let ports: Result<_, _> =
                    numbers_in(bytes).into_iter().map(u16::try_from).collect();
                Self::KnockPorts(ports.ok()?)
            }
            UNGUARD => Self::Unguard,
            END => Self::End,
            _ => return None,
        };
        // Whatever was not looked at is zero, or this is not what `encode` made.
        (message.encode() == *bytes).then_some(message)
    }
}

/// The bytes of a grant within a message: see the table above.
impl Grant {
    fn encode(&self, bytes: &mut [u8; REQUEST_LEN]) {
        let (family, address) = in_16(self.address);
        let (destination_family, destination) = in_16(self.destination);
        let [p0, p1] = self.port.to_be_bytes();
        let [s0, s1] = self.seconds.to_be_bytes();
        let services = [family, self.protocol as u8, p0, p1, s0, s1];
        bytes[2..8].copy_from_slice(&services);
        bytes[8..10].copy_from_slice(&[self.spend as u8, destination_family]);
        bytes[16..32].copy_from_slice(&address);
        bytes[32..48].copy_from_slice(&destination);
    }

    fn decode(bytes: &[u8; REQUEST_LEN]) -> Option<Self> {
        let [_, _, family, protocol, p0, p1, s0, s1, spend, destination_family, ..] = *bytes;
        let protocol = match protocol {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            _ => return None,
        };
        let spend = match spend {
            1 => Spend::One,
            2 => Spend::Any,
            _ => return None,
        };
        Some(Self {
            address: address_in(family, bytes[16..32].try_into().ok()?)?,
            destination: address_in(destination_family, bytes[32..48].try_into().ok()?)?,
            protocol,
            port: u16::from_be_bytes([p0, p1]),
            seconds: u16::from_be_bytes([s0, s1]),
            spend,
        })
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
            Self::Done => (DONE, 0),
            Self::NotOurs => (NOT_OURS, 0),
            Self::Ours => (OURS, 0),
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
            (DONE, 0) => Some(Self::Done),
            (NOT_OURS, 0) => Some(Self::NotOurs),
            (OURS, 0) => Some(Self::Ours),
            _ => None,
        }
    }
}

fn in_16(address: IpAddr) -> (u8, [u8; 16]) {
    match address {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            (FAMILY_4, bytes)
        }
        IpAddr::V6(v6) => (FAMILY_6, v6.octets()),
    }
}

/// What follows an IPv4 address is not looked at here: encoding again shows it.
fn address_in(family: u8, bytes: [u8; 16]) -> Option<IpAddr> {
    let [a, b, c, d, ..] = bytes;
    match family {
        FAMILY_4 => Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d))),
        FAMILY_6 => Some(IpAddr::V6(Ipv6Addr::from(bytes))),
        _ => None,
    }
}

/// Puts numbers and how many they are into a message of this `kind`.
fn numbers_into(bytes: &mut [u8; REQUEST_LEN], kind: u8, numbers: impl Iterator<Item = u32>) -> u8 {
    let mut count = 0_u16;
    for (place, number) in bytes[HEADER_LEN..].as_chunks_mut::<4>().0.iter_mut().zip(numbers) {
        *place = number.to_be_bytes();
        count += 1;
    }
    bytes[2..4].copy_from_slice(&count.to_be_bytes());
    kind
}

fn numbers_in(bytes: &[u8; REQUEST_LEN]) -> Vec<u32> {
    let count = u16::from_be_bytes([bytes[2], bytes[3]]);
    let numbers =
        bytes[HEADER_LEN..].as_chunks::<4>().0.iter().map(|four| u32::from_be_bytes(*four));
    numbers.take(count.into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: Grant = Grant {
        address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
        destination: IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
        protocol: Protocol::Tcp,
        port: 22,
        seconds: 15,
        spend: Spend::Any,
    };

    /// The message that begins like this and has zeros after it.
    fn padded(bytes: &[u8]) -> [u8; REQUEST_LEN] {
        let mut padded = [0; REQUEST_LEN];
        padded[..bytes.len()].copy_from_slice(bytes);
        padded
    }

    fn samples() -> Vec<(Message, [u8; REQUEST_LEN])> {
        let v6 = Grant {
            address: "2001:db8::7".parse().unwrap(),
            destination: "2001:db8::1".parse().unwrap(),
            protocol: Protocol::Udp,
            port: 0x1234,
            seconds: 0x5678,
            spend: Spend::One,
        };
        let v4_bytes = [
            &[2, 1, 4, 6, 0, 22, 0, 15, 2, 4, 0, 0, 0, 0, 0, 0, 192, 0, 2, 7][..],
            &[0; 12],
            &[198, 51, 100, 1],
        ];
        let v6_bytes = [
            [2, 3, 6, 17, 0x12, 0x34, 0x56, 0x78, 1, 6, 0, 0, 0, 0, 0, 0],
            [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7],
            [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        ];
        let full = [&[2, 5, 0, 127][..], &[0, 0, 0, 9].repeat(127)];
        vec![
            (Message::Open(V4), padded(&v4_bytes.concat())),
            (Message::Close(v6), padded(&v6_bytes.concat())),
            (
                Message::Expect(vec![0x0102_0304, u32::MAX]),
                padded(&[2, 4, 0, 2, 1, 2, 3, 4, 255, 255, 255, 255]),
            ),
            (Message::Forget(vec![9; MAX_NUMBERS]), padded(&full.concat())),
            (
                Message::KnockPorts(vec![666, 65_535]),
                padded(&[2, 6, 0, 2, 0, 0, 2, 154, 0, 0, 255, 255]),
            ),
            (Message::Expect(vec![]), padded(&[2, 4])),
            (Message::Unguard, padded(&[2, 7])),
            (Message::End, padded(&[2, 2])),
        ]
    }

    #[test]
    fn a_message_has_these_bytes() {
        for (message, bytes) in samples() {
            assert_eq!(message.encode(), bytes, "{message:?}");
            assert_eq!(Message::decode(&bytes), Some(message));
        }
    }

    #[test]
    fn a_reply_has_these_bytes() {
        for (reply, bytes) in [
            (Reply::Ready, [2, 0, 0, 0, 0, 0, 0, 0]),
            (Reply::Opened, [2, 1, 0, 0, 0, 0, 0, 0]),
            (Reply::Full, [2, 2, 0, 0, 0, 0, 0, 0]),
            (Reply::FullForSource, [2, 3, 0, 0, 0, 0, 0, 0]),
            (Reply::Failed(23), [2, 4, 0, 0, 0, 0, 0, 23]),
            (Reply::Done, [2, 5, 0, 0, 0, 0, 0, 0]),
            (Reply::NotOurs, [2, 6, 0, 0, 0, 0, 0, 0]),
            (Reply::Ours, [2, 7, 0, 0, 0, 0, 0, 0]),
        ] {
            assert_eq!(reply.encode(), bytes);
            assert_eq!(Reply::decode(&bytes), Some(reply));
        }
    }

    #[test]
    fn what_decodes_encodes_to_the_same_bytes_and_the_rest_is_refused() {
        // Behind the fields, every 51st value of a byte, or all where this is set, as scripts/test.sh sets it.
        let all = std::env::var_os("KNOCKKNOCK_ALL_CASES").is_some();
        for (_, good) in samples() {
            for at in 0..REQUEST_LEN {
                for value in (0..=u8::MAX).step_by(if all || at < 48 { 1 } else { 51 }) {
                    let mut bytes = good;
                    bytes[at] = value;
                    if let Some(message) = Message::decode(&bytes) {
                        assert_eq!(message.encode(), bytes);
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
    fn another_version_kind_family_protocol_spend_count_or_padding_is_refused() {
        let refused = |good: [u8; REQUEST_LEN], changes: &[(usize, u8)]| {
            for &(at, value) in changes {
                let mut bytes = good;
                bytes[at] = value;
                assert_eq!(Message::decode(&bytes), None, "byte {at} = {value}");
            }
        };
        let open = Message::Open(V4).encode();
        refused(
            open,
            &[(0, 1), (0, 3), (1, 0), (1, 2), (1, 7), (1, 8), (2, 0), (2, 10), (3, 1), (3, 0)],
        );
        refused(
            open,
            &[(8, 0), (8, 3), (9, 0), (9, 5), (10, 1), (20, 1), (31, 1), (36, 1), (48, 1)],
        );
        refused(open, &[(511, 255)]);
        refused(Message::End.encode(), &[(1, 8), (2, 1), (511, 1)]);
        refused(Message::Unguard.encode(), &[(1, 8), (2, 1), (511, 1)]);
        let expect = Message::Expect(vec![1]).encode();
        refused(expect, &[(2, 1), (3, 0), (3, 128), (8, 1), (511, 1)]);
        refused(Message::KnockPorts(vec![666]).encode(), &[(4, 1), (5, 1)]);
    }

    #[test]
    fn numbers_beyond_the_last_place_are_left_out() {
        let sent = Message::Expect((0..200).collect()).encode();
        assert_eq!(Message::decode(&sent), Some(Message::Expect((0..127).collect())));
    }
}
