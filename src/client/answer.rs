//! What comes back to a knock: a refusal by the closed knock port, usually. It says that the knock has arrived, so that
//! the server's log has it; whether the server accepts it, nothing says.
//!
//! The kernel hands a raw socket copies of what arrives from the host that it is connected to, whatever that is. It is
//! believed only where it answers the very SYN that left, by its ports and sequence number, and tells nothing but how
//! long to wait.

#![forbid(unsafe_code)]

use std::fmt;
use std::io::IoSliceMut;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc::{sock_extended_err, sockaddr_in6};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{
    self, AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType,
    SockaddrIn, SockaddrIn6, SockaddrLike, recvmsg, setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;
use pnet::packet::ipv4::Ipv4Packet;
use pnet::packet::tcp::{TcpFlags, TcpPacket};

use super::packet::{Ends, KnockPacket};
use super::target::{Family, Route};

/// From the answer on, for the server to read its log, to sync its counter and to open. Mostly the first takes at most 5 ms
/// and the others 1 ms; a disk to which somebody else writes much at the time keeps the counter for 80 ms and more.
const AFTER_ANSWER: Duration = Duration::from_millis(100);
/// Without an answer, in all.
const WITHOUT_ANSWER: Duration = Duration::from_millis(200);
/// Read at once from one socket: so many strangers' packets at most before the clock is looked at again.
const MOST_AT_ONCE: usize = 64;
/// An IPv4 header of any length and a TCP header without options.
const ENOUGH: usize = 80;

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An RST, as from a closed port.
    Refused,
    /// A SYN-ACK: something listens on the knock port.
    Accepted,
    /// An ICMP error, from the host or on the way.
    Icmp(Errno),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("refused"),
            Self::Accepted => f.write_str("accepted: something listens on the knock port"),
            Self::Icmp(why) => write!(f, "ICMP: {}", why.desc()),
        }
    }
}

/// Raw sockets that hear answers, opened while the capability is held; by default none.
#[derive(Debug, Default)]
pub struct Ears {
    v4: Vec<OwnedFd>,
    v6: Vec<OwnedFd>,
}

impl Ears {
    /// Opens one for each of `hosts` hosts and each family that may be used. Needs `CAP_NET_RAW`: else `EPERM`.
    pub fn open(hosts: usize, family: Family) -> Result<Self, Errno> {
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
    pub fn listen(&mut self, route: &Route) -> Result<Option<Ear>, Errno> {
        let fd = match (route.source, route.target) {
            (IpAddr::V4(source), SocketAddr::V4(target)) => {
                let Some(fd) = self.v4.pop() else { return Ok(None) };
                setsockopt(&fd, sockopt::Ipv4RecvErr, &true)?;
                let source = SockaddrIn::from(SocketAddrV4::new(source, 0));
                connect(&fd, &source, &SockaddrIn::from(SocketAddrV4::new(*target.ip(), 0)))?;
                fd
            }
            (IpAddr::V6(source), SocketAddr::V6(target)) => {
                let Some(fd) = self.v6.pop() else { return Ok(None) };
                setsockopt(&fd, sockopt::Ipv6RecvErr, &true)?;
                let scope = target.scope_id();
                let source = SockaddrIn6::from(SocketAddrV6::new(source, 0, 0, scope));
                let target = SocketAddrV6::new(*target.ip(), 0, 0, scope);
                connect(&fd, &source, &SockaddrIn6::from(target))?;
                fd
            }
            _ => return Ok(None),
        };
        let ear = Ear(fd);
        ear.empty();
        Ok(Some(ear))
    }
}

fn connect(
    fd: &OwnedFd,
    source: &impl SockaddrLike,
    target: &impl SockaddrLike,
) -> Result<(), Errno> {
    socket::bind(fd.as_raw_fd(), source)?;
    socket::connect(fd.as_raw_fd(), target)
}

/// Hears what comes from one host.
#[derive(Debug)]
pub struct Ear(OwnedFd);

impl Ear {
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
        for _ in 0..MOST_AT_ONCE {
            let mut bytes = [0; ENOUGH];
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
        (0..MOST_AT_ONCE).map_while(|_| self.next_error(packet).ok()).flatten().next()
    }

    /// The next of the ICMP errors that have arrived; `None` where it is not about `packet`.
    fn next_error(&self, packet: &KnockPacket) -> Result<Option<Answer>, Errno> {
        let mut bytes = [0; ENOUGH];
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

/// What `bytes`, as a raw socket gives them, answer to `packet`.
fn answer_in(bytes: &[u8], packet: &KnockPacket) -> Option<Answer> {
    let segment = match packet.ends {
        Ends::V4(..) => {
            let header = Ipv4Packet::new(bytes).filter(|header| header.get_header_length() >= 5)?;
            bytes.get(usize::from(header.get_header_length()) * 4..)?
        }
        // The kernel leaves the IPv6 header out.
        Ends::V6(..) => bytes,
    };
    let tcp = TcpPacket::new(segment)?;
    let flags = tcp.get_flags();
    let ours = tcp.get_source() == packet.knock_port
        && tcp.get_destination() == packet.source_port
        && flags & TcpFlags::ACK != 0
        && tcp.get_acknowledgement() == packet.fields.seq.wrapping_add(1);
    if !ours {
        None
    } else if flags & TcpFlags::RST != 0 {
        Some(Answer::Refused)
    } else if flags & TcpFlags::SYN != 0 {
        Some(Answer::Accepted)
    } else {
        None
    }
}

/// Whether the beginning of a TCP header that an ICMP error quotes is that of `packet`. It may be no more than 8 bytes.
fn is_quoted(bytes: &[u8], packet: &KnockPacket) -> bool {
    let ports = [packet.source_port.to_be_bytes(), packet.knock_port.to_be_bytes()].concat();
    bytes.starts_with(&[ports, packet.fields.seq.to_be_bytes().to_vec()].concat())
}

/// A knock that was sent and may be answered.
#[derive(Debug)]
pub struct Awaited {
    ear: Ear,
    packet: KnockPacket,
    sent: Instant,
    answer: Option<(Instant, Answer)>,
}

impl Awaited {
    /// `packet` was sent at `sent`, and its answer comes to `ear`.
    #[must_use]
    pub fn new(ear: Ear, packet: KnockPacket, sent: Instant) -> Self {
        Self { ear, packet, sent, answer: None }
    }

    /// What came back, and how long after the knock.
    #[must_use]
    pub fn answer(&self) -> Option<(Duration, Answer)> {
        self.answer.map(|(when, answer)| (when.saturating_duration_since(self.sent), answer))
    }

    fn until(&self) -> Instant {
        match self.answer {
            Some((when, _)) => when + AFTER_ANSWER,
            None => self.sent + WITHOUT_ANSWER,
        }
    }

    fn look(&mut self) {
        if self.answer.is_none() {
            self.answer = self.ear.answer_to(&self.packet).map(|answer| (Instant::now(), answer));
        }
    }
}

impl fmt::Display for Awaited {
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
pub fn wait_for_all(awaited: &mut [Awaited]) {
    loop {
        awaited.iter_mut().for_each(Awaited::look);
        let now = Instant::now();
        let Some(until) = awaited.iter().map(Awaited::until).max().filter(|until| now < *until)
        else {
            return;
        };
        let waiting = awaited.iter().filter(|one| one.answer.is_none() && now < one.until());
        let mut polled: Vec<PollFd<'_>> =
            waiting.map(|one| PollFd::new(one.ear.0.as_fd(), PollFlags::POLLIN)).collect();
        // A signal that interrupts only shortens the wait.
        let _ = ppoll(&mut polled, Some(TimeSpec::from_duration(until - now)), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syn::SynFields;

    fn knock(ends: Ends) -> KnockPacket {
        let fields = SynFields { id: 1, seq: u32::MAX, ack: 0x0102_0304, window: 5 };
        KnockPacket { ends, source_port: 40_000, knock_port: 666, fields, flow_high: 0 }
    }

    fn v4() -> KnockPacket {
        knock(Ends::V4([192, 0, 2, 1].into(), [192, 0, 2, 2].into()))
    }

    fn v6() -> KnockPacket {
        knock(Ends::V6("fd99::1".parse().unwrap(), "fd99::2".parse().unwrap()))
    }

    /// A TCP header from port 666 to 40000 that acknowledges what `v4` and `v6` sent.
    fn segment(flags: u8) -> Vec<u8> {
        #[rustfmt::skip]
        let bytes = vec![
            0x02, 0x9a, 0x9c, 0x40,
            0, 0, 0, 0,
            0, 0, 0, 0,                 // SEQ of the knock and one, which wraps
            0x50, flags, 0, 0,
            0, 0, 0, 0,
        ];
        bytes
    }

    /// The same behind an IPv4 header of `words` times 4 bytes.
    fn packet(words: u8, flags: u8) -> Vec<u8> {
        let mut bytes = vec![0; usize::from(words) * 4];
        bytes[0] = 0x40 | words;
        bytes.extend(segment(flags));
        bytes
    }

    #[test]
    fn an_rst_is_a_refusal_and_a_syn_ack_an_open_port() {
        for (flags, answer) in [
            (0x14, Some(Answer::Refused)),
            (0x12, Some(Answer::Accepted)),
            (0x10, None),
            (0x04, None),
            (0x02, None),
        ] {
            assert_eq!(answer_in(&segment(flags), &v6()), answer, "{flags:#x}");
            for words in [5, 6, 15] {
                assert_eq!(answer_in(&packet(words, flags), &v4()), answer, "{flags:#x}");
            }
        }
    }

    #[test]
    fn what_answers_another_packet_is_no_answer() {
        // Each byte of the ports and of the acknowledgement counts.
        for nth in [0, 1, 2, 3, 8, 9, 10, 11] {
            let mut bytes = segment(0x14);
            bytes[nth] ^= 1;
            assert_eq!(answer_in(&bytes, &v6()), None, "byte {nth}");
        }
    }

    #[test]
    fn no_bytes_make_it_fail() {
        for packet_of in [v4(), v6()] {
            for words in 1..=15 {
                let whole = packet(words, 0x14);
                for len in 0..=whole.len() {
                    let answer = answer_in(&whole[..len], &packet_of);
                    let right = words >= 5 && len == whole.len() && packet_of == v4();
                    assert_eq!(answer.is_some(), right, "{words} words, {len} bytes");
                }
            }
        }
    }

    #[test]
    fn an_icmp_error_is_ours_by_the_ports_and_sequence_number_that_it_quotes() {
        let quoted = [0x9c, 0x40, 0x02, 0x9a, 0xff, 0xff, 0xff, 0xff];
        assert!(is_quoted(&quoted, &v4()));
        assert!(is_quoted(&[&quoted[..], &[1, 2, 3]].concat(), &v6()));
        assert!(!is_quoted(&quoted[..7], &v4()));
        for nth in 0..8 {
            let mut other = quoted;
            other[nth] ^= 1;
            assert!(!is_quoted(&other, &v4()), "byte {nth}");
        }
    }

    #[test]
    fn what_came_back_is_said_in_words() {
        for (answer, words) in [
            (Answer::Refused, "refused"),
            (Answer::Accepted, "accepted: something listens on the knock port"),
            (Answer::Icmp(Errno::EHOSTUNREACH), "ICMP: No route to host"),
        ] {
            assert_eq!(answer.to_string(), words);
        }
    }
}
