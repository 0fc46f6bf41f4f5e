//! Grants as the kernel knows them: conntrack expectations, made by hand as the daemon's helper makes them.
//!
//! A master entry that no packet can match has the kernel's tftp helper; an expectation that belongs to it makes the
//! next connection from an address to a port `related`.

use std::net::{IpAddr, SocketAddr};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    socket,
};
use std::os::fd::AsRawFd as _;

use crate::net::Host;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
/// `IPCTNL_MSG_CT_NEW` and `IPCTNL_MSG_EXP_NEW`, with their subsystems.
const CT_NEW: u16 = 1 << 8;
const EXP_NEW: u16 = 2 << 8;
const NESTED: u16 = 0x8000;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// How many connections a grant admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admits {
    One,
    Any,
}

impl Host {
    /// Lets connections from `from` to this host's `to` in: `proto` is `tcp` or `udp`. Each grant of a test needs a
    /// `slot` of its own.
    pub(crate) fn grant(
        &self,
        slot: u16,
        from: IpAddr,
        proto: &str,
        to: SocketAddr,
        admits: Admits,
    ) {
        let proto = if proto == "tcp" { TCP } else { UDP };
        let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 } as u8;
        let nowhere: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
        let every: IpAddr = if to.is_ipv4() { [255; 4].into() } else { [0xffff_u16; 8].into() };
        let master = |kind| tuple(kind, nowhere, nowhere, UDP, [slot, 69]);
        let entry = [
            master(1),
            tuple(2, nowhere, nowhere, UDP, [69, slot]),
            attribute(3, &0b1110_u32.to_be_bytes()), // confirmed, assured, reply seen
            attribute(7, &600_u32.to_be_bytes()),
            attribute(5 | NESTED, &attribute(1, b"tftp\0")),
        ];
        let expectation = [
            master(1),
            tuple(2, from, to.ip(), proto, [0, to.port()]),
            tuple(3, every, every, proto, [0, u16::MAX]),
            attribute(4, &600_u32.to_be_bytes()),
            attribute(8, &u32::from(admits == Admits::Any).to_be_bytes()),
        ];
        self.inside(|| {
            ask(CT_NEW, family, &entry.concat());
            ask(EXP_NEW, family, &expectation.concat());
        });
    }
}

fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + payload.len()).unwrap();
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend_from_slice(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn tuple(kind: u16, from: IpAddr, to: IpAddr, proto: u8, ports: [u16; 2]) -> Vec<u8> {
    let addresses = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            [attribute(1, &from.octets()), attribute(2, &to.octets())]
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            [attribute(3, &from.octets()), attribute(4, &to.octets())]
        }
        pair => panic!("two families: {pair:?}"),
    };
    let transport = [
        attribute(1, &[proto]),
        attribute(2, &ports[0].to_be_bytes()),
        attribute(3, &ports[1].to_be_bytes()),
    ];
    let parts =
        [attribute(1 | NESTED, &addresses.concat()), attribute(2 | NESTED, &transport.concat())];
    attribute(kind | NESTED, &parts.concat())
}

/// Sends one request to the kernel, which has to agree.
fn ask(kind: u16, family: u8, attributes: &[u8]) {
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    let length = u32::try_from(20 + attributes.len()).unwrap();
    let mut message = length.to_ne_bytes().to_vec();
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&flags.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&[family, 0, 0, 0]);
    message.extend_from_slice(attributes);
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )
    .unwrap();
    bind(netlink.as_raw_fd(), &NetlinkAddr::new(0, 0)).unwrap();
    send(netlink.as_raw_fd(), &message, MsgFlags::empty()).unwrap();
    let mut answer = [0; 4096];
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty()).unwrap();
    assert!(length >= 20);
    let error = i32::from_ne_bytes(answer[16..20].try_into().unwrap());
    assert_eq!(error, 0, "{}", std::io::Error::from_raw_os_error(-error));
}
