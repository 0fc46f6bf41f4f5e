//! When a grant is in the kernel: told by the kernel itself, as soon as the transaction that adds it has been committed.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt,
    socket, sockopt,
};

use crate::net::Host;

/// The multicast group `NFNLGRP_NFTABLES`, as a bit.
const GROUP: u32 = 1 << (7 - 1);
/// `NFNL_SUBSYS_NFTABLES`, `NFT_MSG_NEWSETELEM`.
const NEW_ELEMENT: u16 = 0x0a0c;

/// Hears of every change of a host's nftables rules.
pub(crate) struct RuleEvents(OwnedFd);

/// The key of a grant, as it stands in the set.
pub(crate) struct Key(Vec<u8>);

impl Key {
    pub(crate) fn new(address: IpAddr, port: u16) -> Self {
        let mut key = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let [high, low] = port.to_be_bytes();
        key.extend([6, 0, 0, 0, high, low, 0, 0]);
        Self(key)
    }
}

impl RuleEvents {
    /// From now on.
    pub(crate) fn of(host: &Host) -> Self {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        host.inside(|| {
            let netfilter = SockProtocol::NetlinkNetFilter;
            let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, netfilter).unwrap();
            setsockopt(&socket, sockopt::RcvBuf, &(4 << 20)).unwrap();
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUP)).unwrap();
            Self(socket)
        })
    }

    /// Waits until a grant has come, and says when that was heard.
    pub(crate) fn wait_for(&self, key: &Key) -> Instant {
        loop {
            let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            assert!(
                poll(&mut polled, PollTimeout::from(20_000_u16)).unwrap() > 0,
                "no grant in 20 s"
            );
            if let Some(now) = self.has(key) {
                return now;
            }
        }
    }

    /// Reads what has been said so far, up to the grant.
    pub(crate) fn has(&self, key: &Key) -> Option<Instant> {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length) = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            let now = Instant::now();
            let mut rest = &buffer[..length];
            while let Some((message, more)) = next(rest) {
                let kind = u16::from_ne_bytes([message[4], message[5]]);
                if kind == NEW_ELEMENT && message.windows(key.0.len()).any(|part| part == key.0) {
                    return Some(now);
                }
                rest = more;
            }
        }
        None
    }

    /// Forgets what has been said so far.
    pub(crate) fn clear(&self) {
        let mut buffer = vec![0; 64 * 1024];
        while recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()).is_ok() {}
    }
}

impl AsFd for RuleEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// One netlink message, and what follows it.
fn next(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().unwrap());
    let length = usize::try_from(length).unwrap();
    let message = bytes.get(..length).filter(|message| message.len() >= 16)?;
    Some((message, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// Pauses between measurements, so that each finds the machine at rest.
pub(crate) fn rest(time: Duration) {
    std::thread::sleep(time);
}
