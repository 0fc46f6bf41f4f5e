//! Whether an address is one of this host now. Asks the kernel's routing tables, since addresses change while we run. Owns the `NETLINK_ROUTE` socket; the one message is written by hand, for want of a crate.
//!
//! As with [`super::netlink`], the answer waits in the socket when `send` returns: nothing here can block.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, connect, recv,
    send, socket,
};

const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const NLM_F_REQUEST: u16 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const RTA_DST: u16 = 1;
/// The route's type, `RTN_LOCAL`: the address is one of this host.
const LOCAL: u8 = 2;

/// Of `struct nlmsghdr` and of `struct rtmsg`.
const HEADER_LEN: u32 = 16;
const ROUTE_LEN: u32 = 12;
/// In an answer: where the message's type is, and the route's.
const MESSAGE_TYPE: usize = 4;
const ROUTE_TYPE: usize = 16 + 7;

/// A `NETLINK_ROUTE` socket that is connected to the kernel. Its requests need no privilege.
#[derive(Debug)]
pub(super) struct RouteSocket {
    socket: OwnedFd,
}

impl RouteSocket {
    /// A socket in the network namespace of the calling thread, where it stays.
    pub(super) fn open() -> Result<Self, Errno> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket =
            socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self { socket })
    }

    /// Uses `socket`, a duplicate of its own, from now on. Gives the old one back.
    pub(super) fn replace_socket(&mut self, socket: OwnedFd) -> OwnedFd {
        std::mem::replace(&mut self.socket, socket)
    }

    /// Whether a packet to `address` would stay on this host. Where there is no route at all, it would not.
    pub(super) fn is_local(&self, address: IpAddr) -> Result<bool, Errno> {
        send(self.socket.as_raw_fd(), &route_request(address), MsgFlags::empty())?;
        let mut local = None;
        let mut buffer = [0; 2048];
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN) => return local.ok_or(Errno::EPROTO),
                received => local = buffer.get(..received?).map(is_local_route),
            }
        }
    }
}

impl AsFd for RouteSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// `RTM_GETROUTE` for `address`: `struct nlmsghdr`, `struct rtmsg`, one attribute.
fn route_request(address: IpAddr) -> Vec<u8> {
    let (family, bits, octets) = match address {
        IpAddr::V4(v4) => (AF_INET, 32, v4.octets().to_vec()),
        IpAddr::V6(v6) => (AF_INET6, 128, v6.octets().to_vec()),
    };
    let attribute_len = 4 + u16::from(bits / 8);
    let length = HEADER_LEN + ROUTE_LEN + u32::from(attribute_len);
    [
        &length.to_ne_bytes()[..],
        &RTM_GETROUTE.to_ne_bytes(),
        &NLM_F_REQUEST.to_ne_bytes(),
        &[0; 8], // sequence number, port
        &[family, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &attribute_len.to_ne_bytes(),
        &RTA_DST.to_ne_bytes(),
        &octets,
    ]
    .concat()
}

/// Whether `answer` is a route, and one that ends here.
fn is_local_route(answer: &[u8]) -> bool {
    answer.get(MESSAGE_TYPE..MESSAGE_TYPE + 2) == Some(&RTM_NEWROUTE.to_ne_bytes())
        && answer.get(ROUTE_TYPE) == Some(&LOCAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_has_these_bytes() {
        let mut v4 = vec![36, 0, 0, 0, 26, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        v4.extend([2, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 1, 0, 192, 0, 2, 7]);
        let v6 = route_request("2001:db8::7".parse().unwrap());
        if cfg!(target_endian = "little") {
            assert_eq!(route_request("192.0.2.7".parse().unwrap()), v4);
            assert_eq!((v6.len(), &v6[..4], &v6[16..18]), (48, &[48, 0, 0, 0][..], &[10, 128][..]));
            assert_eq!(&v6[28..34], [20, 0, 1, 0, 0x20, 1]);
        }
    }

    #[test]
    fn only_a_route_that_ends_here_is_local() {
        let mut answer = [0; 28];
        answer[4..6].copy_from_slice(&RTM_NEWROUTE.to_ne_bytes());
        assert!(!is_local_route(&answer), "no type");
        answer[ROUTE_TYPE] = 1;
        assert!(!is_local_route(&answer), "unicast");
        answer[ROUTE_TYPE] = LOCAL;
        assert!(is_local_route(&answer));
        assert!(!is_local_route(&answer[..23]), "cut");
        answer[4] = 2;
        assert!(!is_local_route(&answer), "an error, with something like a type in it");
    }

    #[test]
    fn the_kernel_knows_its_own_addresses() {
        let routes = RouteSocket::open().unwrap();
        assert_eq!(routes.is_local("127.0.0.1".parse().unwrap()), Ok(true));
        assert_eq!(routes.is_local("192.0.2.7".parse().unwrap()), Ok(false), "for documentation");
        assert_eq!(routes.is_local("2001:db8::7".parse().unwrap()), Ok(false));
    }
}
