//! SYNs made by hand after the pattern of this host's own, with new numbers: what a knock has to be, and, changed in one
//! thing, what it must not be. Shares no code with the client.

use std::fs::File;
use std::io::{BufReader, Read as _};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::setsockopt_impl;
use nix::sys::socket::sockopt::{self, SetBool};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, getsockname,
    setsockopt, socket,
};
use pnet::datalink::DataLinkSender;

use crate::net::{Family, Net};
use crate::warden::segment::{Ip, Segment};
use crate::wire::{Tap, channel_on};

/// Fast open without the cookie that a server would have given.
#[derive(Clone, Copy, Debug)]
struct FastOpenNoCookie;

setsockopt_impl!(FastOpenNoCookie, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_NO_COOKIE, bool, SetBool);

/// A SYN of this host's kernel, and how frames like it leave.
pub(crate) struct Pattern {
    syn: Segment,
    /// The Ethernet header.
    ethernet: Vec<u8>,
    random: BufReader<File>,
}

impl Pattern {
    /// The pattern of the client's SYNs to the server, taken from one to a closed port.
    pub(crate) fn of(net: &Net, family: Family, port: u16) -> Self {
        let to = SocketAddr::new(net.server.address(family), port);
        net.client.run(&["ethtool", "-K", "eth0", "tx", "off"]);
        let mut tap = Tap::on(&net.client);
        net.client.inside(|| begin_connect(&stream(to), to));
        let frame = tap.wait_for_syn(port).frame;
        Self {
            syn: Segment::read(&frame).unwrap(),
            ethernet: frame[..14].to_vec(),
            random: BufReader::new(File::open("/dev/urandom").unwrap()),
        }
    }

    /// A SYN to another port, with a source port that the kernel chooses and new random numbers. Sends nothing.
    pub(crate) fn new_syn(&mut self, port: u16) -> Segment {
        let mut syn = self.syn.clone();
        syn.destination.set_port(port);
        syn.source.set_port(kernels_port(syn.destination));
        syn.sequence = self.random();
        syn.set_timestamps(self.random(), 0);
        let number = self.random();
        match &mut syn.ip {
            // The kernel has each number as often, but a raw socket cannot send a zero.
            Ip::V4 { id, .. } => *id = u16::try_from(number >> 16).unwrap().max(1),
            Ip::V6 { flow_label, .. } => *flow_label = number >> 12,
        }
        syn
    }

    /// A random number.
    pub(crate) fn random(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.random.read_exact(&mut bytes).unwrap();
        u32::from_ne_bytes(bytes)
    }

    /// Sends it as it is.
    pub(crate) fn send(&self, out: &mut dyn DataLinkSender, packet: &[u8]) {
        let frame = [&self.ethernet, packet].concat();
        out.send_to(&frame, None).expect("a buffer for a frame").unwrap();
    }
}

/// Where frames of the caller's namespace leave.
pub(crate) fn out() -> Box<dyn DataLinkSender> {
    channel_on("eth0").0
}

/// Begins to connect, as any program does, and does not wait for the answer. Dropping the socket ends the attempt.
pub(crate) fn begin_connect(socket: &OwnedFd, to: SocketAddr) {
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS | Errno::ECONNREFUSED) => {}
        Err(why) => panic!("connecting to {to}: {why}"),
    }
}

/// The source port that the kernel gives the next connection to an address. Sends nothing: a connection with fast open waits
/// for the first data.
fn kernels_port(to: SocketAddr) -> u16 {
    let fd = stream(to);
    setsockopt(&fd, sockopt::TcpFastOpenConnect, &true).unwrap();
    setsockopt(&fd, FastOpenNoCookie, &true).unwrap();
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to)).unwrap();
    let local: SockaddrStorage = getsockname(fd.as_raw_fd()).unwrap();
    let v4 = local.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::port);
    v4.or_else(|| local.as_sockaddr_in6().map(nix::sys::socket::SockaddrIn6::port)).unwrap()
}

/// A socket for one.
pub(crate) fn stream(to: SocketAddr) -> OwnedFd {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    socket(family, SockType::Stream, flags, SockProtocol::Tcp).unwrap()
}
