//! What reaches the process that holds a privilege: 512 bytes at a time, here from a daemon that has been taken over.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use knockknock::grant::{Grant, Protocol, Service};
use knockknock::privileged::grants::Grants;
use knockknock::privileged::limits::Limits;
use knockknock::privileged::message::{MAX_NUMBERS, Message, REPLY_LEN, REQUEST_LEN, Reply};

use super::input::Input;

/// The bytes as limits and then messages, each after some time. Says whether something was granted.
pub(crate) fn holds(bytes: &[u8]) -> bool {
    let mut input = Input(bytes);
    let limits = limits(&mut input);
    let mut grants = Grants::new(limits.max_open, limits.max_open_per_source);
    let mut open = BTreeMap::new();
    let mut now = Instant::now();
    let mut granted = false;
    while !input.is_empty() {
        now += Duration::from_secs(input.u8().into());
        let message: [u8; REQUEST_LEN] = input.array();
        reply(&message);
        let request = match decoded(&message) {
            Some(Message::Open(request)) => request,
            Some(Message::Close(request)) => {
                grants.forget(&request);
                open.remove(&key(&request));
                continue;
            }
            _ => continue,
        };
        let checked = limits.check(&request);
        assert_eq!(checked.is_ok(), is_within(&limits, &message), "{checked:?} of {message:?}");
        if checked.is_ok() {
            granted |= grant(&mut grants, &mut open, &limits, &request, now);
        }
    }
    granted
}

/// Some limits, among them such as no config makes: nothing may depend on their making sense.
fn limits(input: &mut Input<'_>) -> Limits {
    let [flags, max_open, max_open_per_source, services] = input.array();
    let max_seconds = input.u16();
    let service = |input: &mut Input<'_>| Service {
        protocol: if input.u8().is_multiple_of(2) { Protocol::Tcp } else { Protocol::Udp },
        first_port: input.u16(),
        last_port: input.u16(),
    };
    let services = (0..services % 4).map(|_| service(input)).collect();
    Limits {
        allow: (flags & 1 == 0).then_some(services),
        max_seconds,
        max_open: usize::from(max_open % 8),
        max_open_per_source: usize::from(max_open_per_source % 4),
        ipv4: flags & 2 == 0,
        ipv6: flags & 4 == 0,
    }
}

/// The message decoded. It has one form in bytes, and this is what the form is.
fn decoded(bytes: &[u8; REQUEST_LEN]) -> Option<Message> {
    let count = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
    let is_address = |family: u8, at: usize| {
        family == 6 || family == 4 && bytes[at + 4..at + 16].iter().all(|byte| *byte == 0)
    };
    let ends_at = |end: usize| bytes[end..].iter().all(|byte| *byte == 0);
    let is_one = bytes[0] == 2
        && match bytes[1] {
            1 | 3 => {
                (bytes[3] == 6 || bytes[3] == 17)
                    && (bytes[8] == 1 || bytes[8] == 2)
                    && bytes[10..16] == [0; 6]
                    && is_address(bytes[2], 16)
                    && is_address(bytes[9], 32)
                    && ends_at(48)
            }
            2 | 7 => ends_at(2),
            kind @ 4..=6 => {
                let ports = (0..count.min(MAX_NUMBERS)).map(|nth| &bytes[4 + 4 * nth..6 + 4 * nth]);
                count <= MAX_NUMBERS
                    && ends_at(4 + 4 * count)
                    && (kind < 6 || ports.into_iter().all(|high| high == [0; 2]))
            }
            _ => false,
        };
    let message = Message::decode(bytes);
    assert_eq!(message.is_some(), is_one, "{bytes:?}");
    let message = message?;
    assert_eq!(message.encode(), *bytes);
    Some(message)
}

/// What arrives the other way has one form too.
fn reply(message: &[u8; REQUEST_LEN]) {
    for bytes in message.as_chunks::<REPLY_LEN>().0 {
        if let Some(reply) = Reply::decode(bytes) {
            assert_eq!(reply.encode(), *bytes);
        }
    }
}

/// The limits said a second time, from the bytes of the message: nothing of the decoding is taken on trust.
fn is_within(limits: &Limits, message: &[u8; REQUEST_LEN]) -> bool {
    let [_, _, family, protocol, p0, p1, s0, s1, _, destination_family, ..] = *message;
    let bytes = |at: usize| <[u8; 16]>::try_from(&message[at..at + 16]).unwrap();
    let (port, seconds) = (u16::from_be_bytes([p0, p1]), u16::from_be_bytes([s0, s1]));
    let tcp = protocol == 6;
    let listed = match &limits.allow {
        None => tcp,
        Some(services) => services.iter().any(|service| {
            (service.protocol == Protocol::Tcp) == tcp
                && port >= service.first_port
                && port <= service.last_port
        }),
    };
    let one_host = |family: u8, address: [u8; 16]| {
        if family == 4 {
            // 0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/4, 255.255.255.255
            address[0] != 0
                && address[0] != 127
                && address[0] & 0xf0 != 0xe0
                && address[..4] != [255; 4]
        } else {
            // ::/127, ff00::/8, ::ffff:0:0/96
            let number = u128::from_be_bytes(address);
            number > 1 && address[0] != 0xff && number >> 32 != 0xffff
        }
    };
    listed
        && port > 0
        && seconds > 0
        && seconds <= limits.max_seconds
        && (if family == 4 { limits.ipv4 } else { limits.ipv6 })
        && one_host(family, bytes(16))
        && destination_family == family
        && one_host(family, bytes(32))
        && bytes(16) != bytes(32)
}

type Key = (IpAddr, IpAddr, Protocol, u16);

fn key(request: &Grant) -> Key {
    (request.address, request.destination, request.protocol, request.port)
}

/// Asks for room as the helper does, and keeps a record of its own of what is open: till when, by address and service.
fn grant(
    grants: &mut Grants,
    open: &mut BTreeMap<Key, Instant>,
    limits: &Limits,
    request: &Grant,
    now: Instant,
) -> bool {
    open.retain(|_, end| *end > now);
    let of_source = |open: &BTreeMap<Key, Instant>| {
        open.keys().filter(|(address, ..)| network(*address) == network(request.address)).count()
    };
    let key = key(request);
    match grants.room_for(request, now) {
        Ok(()) => {
            grants.record(request, now);
            open.insert(key, now + Duration::from_secs(request.seconds.into()));
            assert!(open.len() <= limits.max_open, "{open:?}");
            assert!(of_source(open) <= limits.max_open_per_source, "{open:?}");
            true
        }
        Err(full) => {
            assert!(!open.contains_key(&key), "what is open can be renewed");
            match full {
                Reply::Full => assert_eq!(open.len(), limits.max_open),
                Reply::FullForSource => assert_eq!(of_source(open), limits.max_open_per_source),
                other => panic!("{other:?} is no reason"),
            }
            false
        }
    }
}

/// The address, or the first half of an IPv6 address: what the limit for a source counts by.
fn network(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets()[..8].to_vec(),
    }
}
