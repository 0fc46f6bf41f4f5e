//! The cable between this host and the stranger's network namespace, and what the kernel's routing tables say of addresses.
//! Owns the `NETLINK_ROUTE` messages, written by hand for want of a crate, and takes the cable away again.
//!
//! ```text
//! this host                          the stranger's namespace
//!   kktryPID  198.18.x.1/30  ------  eth0  198.18.x.2/30, default route via 198.18.x.1
//!             2001:2:0:x::1/64               2001:2:0:x::2/64, likewise
//! ```
//!
//! The kernel has handled a request when `send` returns, so every answer is in the socket and nothing here blocks.
//! `privileged` has a route request of its own: the trial shares no code with what runs with a privilege.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, connect, recv,
    send, socket,
};

/// The stranger's end of the cable.
pub(super) const STRANGERS_END: &str = "eth0";

const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE_ONLY: u16 = 0x600;

const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_GATEWAY: u16 = 5;

const IFF_UP: u32 = 1;
/// An IPv6 address without duplicate address detection: only two hosts are on this link.
const IFA_F_NODAD: u8 = 2;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;
/// Answer with the route that matched, not with the one address that was asked for.
const RTM_F_FIB_MATCH: u32 = 0x2000;

const HEADER_LEN: usize = 16;
/// In an answer: its type, an error's number, the prefix length of a route.
const MESSAGE_TYPE: usize = 4;
const ROUTE_PREFIX: usize = HEADER_LEN + 1;

/// Routes with a prefix no longer than this are for everything: `default`, its two halves, IPv6's `2000::/3`.
const FOR_EVERYTHING: u8 = 3;

/// The two ends of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CableAddresses {
    pub(super) host: IpAddr,
    pub(super) stranger: IpAddr,
    prefix: u8,
}

impl CableAddresses {
    /// Number `pick` of the networks for benchmarks (RFC 2544, RFC 5180): no firewall has a reason to trust them, as it may
    /// trust a private one.
    pub(super) fn v4(pick: u16) -> Self {
        // 198.18.0.0/15 in pieces of four addresses.
        let first = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + 4 * (u32::from(pick) & 0x7fff);
        let at = |offset: u32| IpAddr::V4(Ipv4Addr::from(first + offset));
        Self { host: at(1), stranger: at(2), prefix: 30 }
    }

    /// The same for IPv6.
    pub(super) fn v6(pick: u16) -> Self {
        let at = |last| IpAddr::V6(Ipv6Addr::new(0x2001, 2, 0, pick, 0, 0, 0, last));
        Self { host: at(1), stranger: at(2), prefix: 64 }
    }
}

/// A veth pair, deleted when dropped. The kernel also deletes it with the namespace at its other end.
#[derive(Debug)]
pub(super) struct Cable {
    index: u32,
}

impl Cable {
    /// A veth pair from this thread's namespace to `namespace`.
    pub(super) fn new(name: &str, namespace: BorrowedFd<'_>) -> Result<Self, Errno> {
        let namespace = namespace.as_raw_fd().to_ne_bytes();
        let peer = [
            interface(0, 0).to_vec(),
            text(IFLA_IFNAME, STRANGERS_END),
            attribute(IFLA_NET_NS_FD, &namespace),
        ];
        let info = [
            attribute(IFLA_INFO_KIND, b"veth"),
            attribute(IFLA_INFO_DATA, &attribute(VETH_INFO_PEER, &peer.concat())),
        ];
        let body = [
            interface(0, 0).to_vec(),
            text(IFLA_IFNAME, name),
            attribute(IFLA_LINKINFO, &info.concat()),
        ];
        Routes::open()?.tell(RTM_NEWLINK, CREATE_ONLY, &body.concat())?;
        Ok(Self { index: if_nametoindex(name)? })
    }

    /// Brings this host's end up.
    pub(super) fn up(&self) -> Result<(), Errno> {
        up(self.index)
    }

    /// Gives this host's end its address.
    pub(super) fn add(&self, ends: CableAddresses) -> Result<(), Errno> {
        add_address(self.index, ends.host, ends.prefix)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        // It is no error if it was deleted already.
        let _ = Routes::open()
            .and_then(|mut routes| routes.tell(RTM_DELLINK, 0, &interface(self.index, 0)));
    }
}

/// The stranger's end, in the stranger's namespace: up, with its addresses and the way to everywhere.
pub(super) fn plug_in(index: u32, ends: CableAddresses) -> Result<(), Errno> {
    add_address(index, ends.stranger, ends.prefix)?;
    let body = [
        vec![family(ends.host), 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, 0, RTN_UNICAST, 0, 0, 0, 0],
        attribute(RTA_GATEWAY, &octets(ends.host)),
    ];
    Routes::open()?.tell(RTM_NEWROUTE, CREATE_ONLY, &body.concat())
}

/// Brings an interface of this thread's namespace up.
pub(super) fn up(index: u32) -> Result<(), Errno> {
    Routes::open()?.tell(RTM_NEWLINK, 0, &interface(index, IFF_UP))
}

fn add_address(index: u32, address: IpAddr, prefix: u8) -> Result<(), Errno> {
    let flags = if address.is_ipv6() { IFA_F_NODAD } else { 0 };
    let body = [
        vec![family(address), prefix, flags, 0],
        index.to_ne_bytes().to_vec(),
        attribute(IFA_LOCAL, &octets(address)),
        attribute(IFA_ADDRESS, &octets(address)),
    ];
    Routes::open()?.tell(RTM_NEWADDR, CREATE_ONLY, &body.concat())
}

/// A `NETLINK_ROUTE` socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Routes {
    socket: OwnedFd,
}

impl Routes {
    pub(super) fn open() -> Result<Self, Errno> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket =
            socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self { socket })
    }

    /// Whether packets to `address` go somewhere already, by more than a route for everything.
    pub(super) fn have(&mut self, address: IpAddr) -> Result<bool, Errno> {
        let octets = octets(address);
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let body = [
            vec![family(address), bits, 0, 0, 0, 0, 0, 0],
            RTM_F_FIB_MATCH.to_ne_bytes().to_vec(),
            attribute(RTA_DST, &octets),
        ];
        send(
            self.socket.as_raw_fd(),
            &message(RTM_GETROUTE, REQUEST, &body.concat()),
            MsgFlags::empty(),
        )?;
        let mut answer = [0; 4096];
        let length = recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)?;
        Ok(is_routed(answer.get(..length).unwrap_or_default()))
    }

    /// Has the kernel do something, and reads what it says.
    fn tell(&mut self, kind: u16, flags: u16, body: &[u8]) -> Result<(), Errno> {
        let bytes = message(kind, flags | REQUEST | ACK, body);
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
        let mut answer = [0; 4096];
        let length = recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)?;
        acknowledged(answer.get(..length).unwrap_or_default())
    }
}

/// What an answer to a question for a route says; an error is: nowhere.
fn is_routed(answer: &[u8]) -> bool {
    kind_of(answer) == Some(RTM_NEWROUTE)
        && answer.get(ROUTE_PREFIX).is_some_and(|prefix| *prefix > FOR_EVERYTHING)
}

/// An error of 0 is an acknowledgement.
fn acknowledged(answer: &[u8]) -> Result<(), Errno> {
    match (kind_of(answer), answer.get(HEADER_LEN..).and_then(<[u8]>::first_chunk)) {
        (Some(NLMSG_ERROR), Some(code)) => match i32::from_ne_bytes(*code) {
            0 => Ok(()),
            code => Err(Errno::from_raw(code.saturating_neg())),
        },
        _ => Err(Errno::EPROTO),
    }
}

fn kind_of(answer: &[u8]) -> Option<u16> {
    answer.get(MESSAGE_TYPE..).and_then(<[u8]>::first_chunk).map(|kind| u16::from_ne_bytes(*kind))
}

/// `struct nlmsghdr` and what follows.
fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    #[expect(clippy::cast_possible_truncation, reason = "a few hundred bytes")]
    let length = (HEADER_LEN + body.len()) as u32;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

/// `struct ifinfomsg`.
fn interface(index: u32, flags: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (place, value) in bytes.iter_mut().skip(4).zip(
        // Which flags to change: those that are set.
        [index, flags, flags].into_iter().flat_map(u32::to_ne_bytes),
    ) {
        *place = value;
    }
    bytes
}

/// `struct rtattr` with its value, padded to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    #[expect(clippy::cast_possible_truncation, reason = "a few hundred bytes")]
    let length = (4 + value.len()) as u16;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { 2 } else { 10 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_networks_are_those_for_benchmarks() {
        for pick in [0, 1, 0x7fff, 0x8000, u16::MAX] {
            let (four, six) = (CableAddresses::v4(pick), CableAddresses::v6(pick));
            let IpAddr::V4(stranger) = four.stranger else { panic!() };
            let bits = u32::from(stranger);
            assert_eq!(bits >> 17, u32::from(Ipv4Addr::new(198, 18, 0, 0)) >> 17, "{stranger}");
            assert_eq!(bits & 3, 2, "the second address of four: {stranger}");
            assert!(six.stranger.to_string().starts_with("2001:2:"), "{six:?}");
        }
    }

    #[test]
    fn only_a_route_for_less_than_everything_is_one() {
        let mut answer = [0; 28];
        answer[4..6].copy_from_slice(&RTM_NEWROUTE.to_ne_bytes());
        for (prefix, routed) in [(0, false), (1, false), (3, false), (8, true), (32, true)] {
            answer[ROUTE_PREFIX] = prefix;
            assert_eq!(is_routed(&answer), routed, "/{prefix}");
        }
        answer[4] = 2;
        assert!(!is_routed(&answer), "an error: there is no route");
        assert!(!is_routed(&[]));
    }

    #[test]
    fn an_answer_says_whether_it_was_done() {
        let mut answer = [0; 36];
        answer[4] = 2;
        assert_eq!(acknowledged(&answer), Ok(()));
        answer[16..20].copy_from_slice(&(-1_i32).to_ne_bytes());
        assert_eq!(acknowledged(&answer), Err(Errno::EPERM));
        assert_eq!(acknowledged(&answer[..18]), Err(Errno::EPROTO), "cut");
    }

    #[test]
    fn loopback_is_routed() {
        let mut routes = Routes::open().unwrap();
        assert_eq!(routes.have(Ipv4Addr::LOCALHOST.into()), Ok(true));
    }
}
