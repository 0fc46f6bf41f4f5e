//! When a grant is in the kernel, as an expectation or as an element of a set, and when it is gone: told by the kernel
//! itself, as soon as it is so.

use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt,
    socket, sockopt,
};

use crate::net::Host;

/// The multicast groups `NFNLGRP_CONNTRACK_EXP_NEW`, `NFNLGRP_CONNTRACK_EXP_DESTROY` and `NFNLGRP_NFTABLES`, as bits.
const GROUPS: u32 = 1 << (4 - 1) | 1 << (6 - 1) | 1 << (7 - 1);
/// `NFNL_SUBSYS_CTNETLINK_EXP`, `IPCTNL_MSG_EXP_NEW` and `IPCTNL_MSG_EXP_DELETE`.
const NEW_EXPECTATION: u16 = 0x0200;
const END_OF_EXPECTATION: u16 = 0x0202;
/// Has the kernel tell of expectations whoever listens.
const EVENTS: &str = "/proc/sys/net/netfilter/nf_conntrack_events";
/// `NFNL_SUBSYS_NFTABLES`, `NFT_MSG_NEWSETELEM`.
const NEW_ELEMENT: u16 = 0x0a0c;

/// Hears of every change of a host's nftables rules.
pub(crate) struct RuleEvents(OwnedFd);

/// What a grant is known by.
pub(crate) struct Key {
    /// The key of an element, as it stands in the set.
    element: Vec<u8>,
    /// The address of an expectation, and the attribute of its port (`CTA_PROTO_DST_PORT`).
    address: Vec<u8>,
    port: [u8; 6],
}

impl Key {
    pub(crate) fn new(address: IpAddr, port: u16) -> Self {
        let address = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let [high, low] = port.to_be_bytes();
        let [long, kind] = [6_u16, 3].map(u16::to_ne_bytes);
        Self {
            element: [&address[..], &[6, 0, 0, 0, high, low, 0, 0]].concat(),
            address,
            port: [long[0], long[1], kind[0], kind[1], high, low],
        }
    }

    fn is_new_in(&self, kind: u16, message: &[u8]) -> bool {
        match kind {
            NEW_ELEMENT => has(message, &self.element),
            NEW_EXPECTATION => has(message, &self.address) && has(message, &self.port),
            _ => false,
        }
    }

    fn ends_in(&self, kind: u16, message: &[u8]) -> bool {
        kind == END_OF_EXPECTATION && has(message, &self.address) && has(message, &self.port)
    }
}

fn has(message: &[u8], part: &[u8]) -> bool {
    message.windows(part.len()).any(|bytes| bytes == part)
}

impl RuleEvents {
    /// From now on.
    pub(crate) fn of(host: &Host) -> Self {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        host.inside(|| {
            fs::write(EVENTS, "1").unwrap();
            let netfilter = SockProtocol::NetlinkNetFilter;
            let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, netfilter).unwrap();
            setsockopt(&socket, sockopt::RcvBuf, &(4 << 20)).unwrap();
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS)).unwrap();
            Self(socket)
        })
    }

    /// Waits until a grant has come, and says when that was heard.
    pub(crate) fn wait_for(&self, key: &Key) -> Instant {
        self.wait(|kind, message| key.is_new_in(kind, message))
    }

    /// The same for its end, of an expectation.
    pub(crate) fn wait_for_end_of(&self, key: &Key) -> Instant {
        self.wait(|kind, message| key.ends_in(kind, message))
    }

    fn wait(&self, is_it: impl Fn(u16, &[u8]) -> bool) -> Instant {
        loop {
            let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut polled, PollTimeout::from(20_000_u16)).unwrap();
            assert!(ready > 0, "the kernel said nothing of it in 20 s");
            if let Some(now) = self.hear(&is_it) {
                return now;
            }
        }
    }

    /// Reads what has been said so far, up to what is looked for.
    fn hear(&self, is_it: impl Fn(u16, &[u8]) -> bool) -> Option<Instant> {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length) = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            let now = Instant::now();
            let mut rest = &buffer[..length];
            while let Some((message, more)) = next(rest) {
                if is_it(u16::from_ne_bytes([message[4], message[5]]), message) {
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
