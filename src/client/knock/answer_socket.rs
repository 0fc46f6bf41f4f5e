//! The sockets that hear the answer to a knock, and how long it is waited for.
//!
//! The kernel hands a raw socket copies of what arrives from the host that it is connected to, whatever that is. It is
//! believed only where it answers the very SYN that left, by its ports and sequence number, and tells nothing but how
//! long to wait.

use std::fmt;
use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc::{sock_extended_err, sockaddr_in6};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{
    self, AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType,
    SockaddrStorage, recvmsg, setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;

use super::answer::{Answer, answer_in, is_quoted};
use super::packet::KnockPacket;
use super::route::{Family, Route};

/// From the answer on, for the server to read its log, to sync its counter and to open. Mostly the first takes at most 5 ms
/// and the others 1 ms; a disk to which somebody else writes much at the time keeps the counter for 80 ms and more.
const AFTER_ANSWER: Duration = Duration::from_millis(100);
/// Without an answer, in all.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(200);
/// Read at once from one socket: so many strangers' packets at most before the clock is looked at again.
const MAX_AT_ONCE: usize = 64;
/// An IPv4 header of any length and a TCP header without options.
const MAX_HEADERS: usize = 80;

/// Raw sockets that hear answers, opened while the capability is held; by default none.
#[derive(Debug, Default)]
pub(crate) struct AnswerSockets {
    v4: Vec<OwnedFd>,
    v6: Vec<OwnedFd>,
}

impl AnswerSockets {
    /// Opens one for each of `hosts` hosts and each family that may be used. Needs `CAP_NET_RAW`: else `EPERM`.
    pub(crate) fn open(hosts: usize, family: Family) -> Result<Self, Errno> {
        let open = |family| {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let one = || socket::socket(family, SockType::Raw, flags, SockProtocol::Tcp);
            match (0..hosts).map(|_| one()).collect() {
                Err(Errno::EAFNOSUPPORT) => Ok(Vec::new()),
                opened => opened,
            }
        };
        let none = || Ok(Vec::new());
        Ok(Self {
            v4: if family == Family::V6 { none() } else { open(AddressFamily::Inet) }?,
            v6: if family == Family::V4 { none() } else { open(AddressFamily::Inet6) }?,
        })
    }

    /// Listens to what comes along `route` from now on. `None` where no socket is left for it.
    pub(crate) fn listen(&mut self, route: &Route) -> Result<Option<AnswerSocket>, Errno> {
        let left = if route.target.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        let Some(fd) = left.pop() else { return Ok(None) };
        match route.target {
            SocketAddr::V4(_) => setsockopt(&fd, sockopt::Ipv4RecvErr, &true)?,
            SocketAddr::V6(_) => setsockopt(&fd, sockopt::Ipv6RecvErr, &true)?,
        }
        socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(route.local()))?;
        socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(route.target_at(0)))?;
        let socket = AnswerSocket(fd);
        socket.empty();
        Ok(Some(socket))
    }
}

/// Hears what comes from one host.
#[derive(Debug)]
pub(crate) struct AnswerSocket(OwnedFd);

impl AnswerSocket {
    /// Forgets what everybody sent before the socket was connected: a full queue would have no room for the answer.
    fn empty(&self) {
        let mut buffer = [0; 1];
        // As many as the queue has room for, whatever else arrives meanwhile.
        for _ in 0..10_000 {
            match socket::recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
    }

    /// The answer to `packet`, if it is among what has arrived.
    fn answer_to(&self, packet: &KnockPacket) -> Option<Answer> {
        for _ in 0..MAX_AT_ONCE {
            let mut bytes = [0; MAX_HEADERS];
            match socket::recv(self.0.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
                Ok(len) => {
                    let answer = bytes.get(..len).and_then(|bytes| answer_in(bytes, packet));
                    if answer.is_some() {
                        return answer;
                    }
                }
                Err(Errno::EAGAIN) => break,
                // An error that arrived, of which the queue of errors has the details.
                Err(_) => {}
            }
        }
        (0..MAX_AT_ONCE).map_while(|_| self.next_error(packet).ok()).flatten().next()
    }

    /// The next of the ICMP errors that have arrived; `None` where it is not about `packet`.
    fn next_error(&self, packet: &KnockPacket) -> Result<Option<Answer>, Errno> {
        let mut bytes = [0; MAX_HEADERS];
        let mut control = cmsg_space!(sock_extended_err, sockaddr_in6);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<()>(self.0.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
        let error = message.cmsgs().ok().and_then(|mut all| {
            all.find_map(|one| match one {
                ControlMessageOwned::Ipv4RecvErr(error, _)
                | ControlMessageOwned::Ipv6RecvErr(error, _) => Some(error),
                _ => None,
            })
        });
        let len = message.bytes;
        let number = error.and_then(|error| i32::try_from(error.ee_errno).ok());
        let ours = bytes.get(..len).is_some_and(|quoted| is_quoted(quoted, packet));
        Ok(number.filter(|_| ours).map(|number| Answer::Icmp(Errno::from_raw(number))))
    }
}

/// A knock that was sent and may be answered.
#[derive(Debug)]
pub(crate) struct AwaitedAnswer {
    socket: AnswerSocket,
    packet: KnockPacket,
    sent: Instant,
    answer: Option<(Instant, Answer)>,
}

impl AwaitedAnswer {
    /// `packet` was sent at `sent`, and its answer comes to `socket`.
    pub(crate) fn new(socket: AnswerSocket, packet: KnockPacket, sent: Instant) -> Self {
        Self { socket, packet, sent, answer: None }
    }

    /// What came back, and how long after the knock.
    pub(crate) fn answer(&self) -> Option<(Duration, Answer)> {
        self.answer.map(|(when, answer)| (when.saturating_duration_since(self.sent), answer))
    }

    fn until(&self) -> Instant {
        match self.answer {
            Some((when, _)) => when + AFTER_ANSWER,
            None => self.sent + ANSWER_TIMEOUT,
        }
    }

    fn look(&mut self) {
        if self.answer.is_none() {
            self.answer =
                self.socket.answer_to(&self.packet).map(|answer| (Instant::now(), answer));
        }
    }
}

impl fmt::Display for AwaitedAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.answer() {
            Some((took, answer)) => {
                write!(f, "answered after {} ms ({answer})", took.as_millis())
            }
            None => f.write_str("no answer: dropped, or lost on the way"),
        }
    }
}

/// Waits until every knock has had its answer and its server the time to open, or no answer is to be expected.
pub(crate) fn wait_for_all(awaited: &mut [AwaitedAnswer]) {
    loop {
        awaited.iter_mut().for_each(AwaitedAnswer::look);
        let now = Instant::now();
        let Some(until) =
            awaited.iter().map(AwaitedAnswer::until).max().filter(|until| now < *until)
        else {
            return;
        };
        let waiting = awaited.iter().filter(|one| one.answer.is_none() && now < one.until());
        let mut polled: Vec<PollFd<'_>> =
            waiting.map(|one| PollFd::new(one.socket.0.as_fd(), PollFlags::POLLIN)).collect();
        // A signal that interrupts only shortens the wait.
        let _ = ppoll(&mut polled, Some(TimeSpec::from_duration(until - now)), None);
    }
}
