//! Raw sockets: opened while the capability is held, used long after it is gone.
//!
//! Sends what it is given and receives nothing: with `IPPROTO_RAW` the kernel hands a socket no packet.

use std::io::IoSlice;
use std::net::{SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn,
    SockaddrIn6, sendmsg, socket,
};

use super::packet::{AddressPair, KnockPacket};

/// A raw socket for each family; by default none, which sends nothing.
#[derive(Debug, Default)]
pub struct RawSockets {
    v4: Option<OwnedFd>,
    v6: Option<OwnedFd>,
}

impl RawSockets {
    /// Opens a raw socket for each family that the machine has. Needs `CAP_NET_RAW`: without it, `EPERM`.
    pub fn open() -> Result<Self, Errno> {
        let open =
            |family| match socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)
            {
                Ok(fd) => Ok(Some(fd)),
                Err(Errno::EAFNOSUPPORT) => Ok(None),
                Err(why) => Err(why),
            };
        Ok(Self { v4: open(AddressFamily::Inet)?, v6: open(AddressFamily::Inet6)? })
    }

    /// Sends `packet` once. `scope` is the interface's index where the destination is link-local, else 0.
    ///
    /// The kernel takes the packet's header as it is but looks the route up by what is said here, so the source is
    /// said again: with several interfaces, a rule may send each source its own way.
    pub fn send(&self, packet: &KnockPacket, scope: u32) -> Result<(), Errno> {
        let bytes = packet.to_bytes();
        let payload = [IoSlice::new(&bytes)];
        let flags = MsgFlags::empty();
        match packet.addresses {
            AddressPair::V4(source, destination) => {
                let fd = self.v4.as_ref().ok_or(Errno::EAFNOSUPPORT)?;
                let to = SockaddrIn::from(SocketAddrV4::new(destination, 0));
                let from = in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: in_addr { s_addr: u32::from(source).to_be() },
                    ipi_addr: in_addr { s_addr: 0 },
                };
                let control = [ControlMessage::Ipv4PacketInfo(&from)];
                sendmsg(fd.as_raw_fd(), &payload, &control, flags, Some(&to))?;
            }
            AddressPair::V6(source, destination) => {
                let fd = self.v6.as_ref().ok_or(Errno::EAFNOSUPPORT)?;
                let to = SockaddrIn6::from(SocketAddrV6::new(destination, 0, 0, scope));
                let from = in6_pktinfo {
                    ipi6_ifindex: scope,
                    ipi6_addr: in6_addr { s6_addr: source.octets() },
                };
                let control = [ControlMessage::Ipv6PacketInfo(&from)];
                sendmsg(fd.as_raw_fd(), &payload, &control, flags, Some(&to))?;
            }
        }
        Ok(())
    }
}
