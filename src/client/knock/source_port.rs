//! The port that a knock comes from: the one that the kernel would have given to a connection there now, and a socket
//! that keeps every other program from it.
//!
//! The kernel chooses a port in `connect`, by a secret order of its own for each pair of addresses and each port
//! (`__inet_hash_connect`). A socket with `TCP_FASTOPEN_CONNECT` and `TCP_FASTOPEN_NO_COOKIE` chooses one in `connect`
//! like any other, and leaves the SYN to the first write (`tcp_fastopen_defer_connect`), which never comes. So the
//! next connection there gets the port after, and nothing is used again sooner than among connections that are refused.
//!
//! What answers the knock finds that socket, which has sent nothing and so takes no acknowledgement
//! (`tcp_rcv_synsent_state_process`): an RST is ignored, a SYN-ACK gets the RST that it would get without the socket.
//! Closing it sends nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockType, SockaddrStorage, setsockopt, sockopt,
};

use super::ephemeral_ports::{ephemeral_ports, reserved_ports};
use super::route::Route;
use super::socket_options::TcpFastOpenNoCookie;
use super::sysctl;

/// For how long the kernel leaves Fast Open out after a connection failed with it, in seconds; 0: it never does.
const BLACKHOLE: &str = "ipv4/tcp_fastopen_blackhole_timeout_sec";

/// A source port. Nobody else gets it until this is dropped.
#[derive(Debug)]
pub struct SourcePort {
    socket: OwnedFd,
    number: u16,
    guessed: Option<Guessed>,
}

/// Why the kernel could not be asked for its choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guessed {
    /// TCP Fast Open is off for connections.
    FastOpenOff,
    /// The kernel leaves it out for a while.
    FastOpenPaused,
}

impl Guessed {
    /// What to say about it, and what to do.
    #[must_use]
    pub fn in_words(self) -> (&'static str, &'static str) {
        match self {
            Self::FastOpenOff => (
                "its source port is random, not the kernel's choice, since TCP Fast Open is off",
                "sudo sysctl net.ipv4.tcp_fastopen=1",
            ),
            Self::FastOpenPaused => (
                "its source port is random, not the kernel's choice, since the kernel has paused TCP Fast Open",
                "sudo sysctl net.ipv4.tcp_fastopen_blackhole_timeout_sec=0",
            ),
        }
    }
}

/// Why there is no source port.
#[derive(Debug, thiserror::Error)]
pub enum SourcePortError {
    /// The kernel has none, or knows no way.
    #[error("{}", .0.desc())]
    Refused(#[from] Errno),
    /// Fast Open was switched off in the moment between the question and the call.
    #[error("the kernel sent a SYN of its own")]
    Connected,
}

impl SourcePort {
    /// Takes the port that the kernel gives to the next connection along `route` to `port`. Sends nothing.
    ///
    /// Where the kernel cannot be asked ([`SourcePort::guessed`]), one that it could have given.
    pub(super) fn take(route: &Route, port: u16) -> Result<Self, SourcePortError> {
        let (local, target) = (route.local(), route.target_at(port));
        let Some(socket) = waiting_socket(target)? else {
            return Ok(Self::guess(local, Guessed::FastOpenOff)?);
        };
        if sysctl::number(BLACKHOLE, 0, 1) != 0 && !loopback_waits(target.is_ipv4()) {
            return Ok(Self::guess(local, Guessed::FastOpenPaused)?);
        }
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(local))?;
        match socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(target)) {
            Ok(()) => Ok(Self { number: number_of(&socket)?, socket, guessed: None }),
            // One that waits is done at once.
            Err(Errno::EINPROGRESS | Errno::ECONNREFUSED) => Err(SourcePortError::Connected),
            Err(why) => Err(why.into()),
        }
    }

    /// The port.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// `None`: the kernel chose it for this destination. Else it is a random one of the range and of the parity that the
    /// kernel uses: one port tells nothing, many do.
    #[must_use]
    pub fn guessed(&self) -> Option<Guessed> {
        self.guessed
    }

    /// The socket, where it is connected: it has the route that a connection would have.
    pub(super) fn connected(&self) -> Option<BorrowedFd<'_>> {
        self.guessed.is_none().then(|| self.socket.as_fd())
    }

    /// A free port as `connect` gives them: of the parity of the range's first, not reserved.
    fn guess(local: SocketAddr, why: Guessed) -> Result<Self, Errno> {
        let range = ephemeral_ports();
        let reserved = reserved_ports();
        let pairs = (u32::from(*range.end()) - u32::from(*range.start())).div_ceil(2).max(1);
        let random = getrandom::u32().map_err(|_| Errno::EIO)?;
        let ports = (0..pairs).filter_map(|nth| {
            let offset = 2 * (random.wrapping_add(nth) % pairs);
            u16::try_from(u32::from(*range.start()) + offset).ok()
        });
        for port in ports.filter(|port| !reserved.iter().any(|range| range.contains(port))) {
            let socket = tcp_socket(local)?;
            let mut local = local;
            local.set_port(port);
            match socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(local)) {
                Ok(()) => return Ok(Self { socket, number: port, guessed: Some(why) }),
                Err(Errno::EADDRINUSE | Errno::EACCES) => {}
                Err(why) => return Err(why),
            }
        }
        Err(Errno::EADDRNOTAVAIL)
    }
}

fn tcp_socket(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket::socket(family, SockType::Stream, flags, None)
}

/// A socket whose `connect` sends nothing; `None` where the kernel does not offer that (`tcp_fastopen`).
fn waiting_socket(target: SocketAddr) -> Result<Option<OwnedFd>, Errno> {
    let socket = tcp_socket(target)?;
    let waits = setsockopt(&socket, sockopt::TcpFastOpenConnect, &true)
        .and_then(|()| setsockopt(&socket, TcpFastOpenNoCookie, &true));
    Ok(waits.is_ok().then_some(socket))
}

/// Whether `connect` waits now: the kernel leaves Fast Open out for a while where it thinks that something on the way
/// swallows it (`tcp_fastopen_active_should_disable`), to all hosts alike. If it does, the SYN goes to this host.
fn loopback_waits(is_v4: bool) -> bool {
    let address: IpAddr =
        if is_v4 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    let target = SocketAddr::new(address, 9);
    let connected = waiting_socket(target).and_then(|socket| match socket {
        Some(socket) => socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(target)),
        None => Err(Errno::EOPNOTSUPP),
    });
    connected.is_ok()
}

fn number_of(socket: &OwnedFd) -> Result<u16, Errno> {
    let address: SockaddrStorage = socket::getsockname(socket.as_raw_fd())?;
    let v4 = address.as_sockaddr_in().map(socket::SockaddrIn::port);
    v4.or(address.as_sockaddr_in6().map(socket::SockaddrIn6::port)).ok_or(Errno::EAFNOSUPPORT)
}
