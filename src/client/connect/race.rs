//! Knock and connect in one: the connection is tried while the server is still opening, and tried again.
//!
//! # Why several sockets race
//!
//! A server opens some milliseconds after the knock has reached it, and nothing tells us when. Until then it refuses
//! a SYN (the answer takes a round trip) or drops it (no answer; the kernel sends that SYN again after a second). To
//! wait for either before trying again would cost a round trip or a second. So attempts start at growing intervals,
//! whatever became of those before: the common case costs the server's time to open (at most twice, since the
//! intervals double) and one round trip.
//!
//! A grant ends behind the first connection that stands. Other attempts are refused or dropped as if there were none, and
//! their sockets are closed once one is connected. An attempt without an answer is never given up before that: its
//! SYN may be the one that was admitted, with the answer lost; kernel and server then re-send theirs, which pass.

#![forbid(unsafe_code)]

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, getsockopt,
    setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;

use super::send_order::{Next, Order};
use crate::client::knock::error::Failure;
use crate::client::knock::route::Route;

/// No connection after this long: give up.
pub const TIME_LIMIT: Duration = Duration::from_secs(10);

/// From the first attempt to the next. About the time that the fastest server takes.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// The pauses double up to this.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// From one packet to the next, or three round trips where those take longer.
const SEND_AGAIN: Duration = Duration::from_secs(1);
/// Once the last packet is this old and the port refuses, waiting longer is of no use. Silence is waited for to the end.
const REFUSED_FOR_GOOD: Duration = Duration::from_secs(3);
/// An answer that takes longer is one to a SYN that the kernel has sent again (after a second): the first had none.
const AT_ONCE: Duration = Duration::from_millis(900);
/// Sockets open at once. More than the pauses allow within the limit, but a limit.
const MOST_ATTEMPTS: usize = 64;

/// A connection that was made.
#[derive(Debug)]
pub struct Connected {
    /// The connection, blocking, without Nagle's delay.
    pub stream: TcpStream,
    /// The way that it took.
    pub route: Route,
    /// Knocks that were sent for it: counters that were spent.
    pub knocks: u32,
    /// SYNs that were sent for it: each knock may have been sent again.
    pub packets: u32,
    /// Connections that were begun for it.
    pub attempts: u32,
}

/// Knocks were sent, but the port never opened to us.
#[derive(Clone, Debug)]
pub struct NeverOpened {
    /// The address of the last attempt.
    pub address: SocketAddr,
    /// The local address that was knocked from.
    pub source: IpAddr,
    /// SYNs that were sent.
    pub packets: u32,
    /// Counters that were spent.
    pub counters: u32,
    /// How long it was tried.
    pub took: Duration,
    /// The last answer; `None` where there was no answer at all.
    pub answer: Option<Errno>,
    /// The first attempt had no answer, and a later one was refused at once.
    pub refused_after_silence: bool,
}

impl NeverOpened {
    /// The firewall drops what it does not admit, and after the knock something was refused: that was admitted, and it
    /// was the host itself that refused it.
    #[must_use]
    pub fn nothing_listens(&self) -> bool {
        self.answer == Some(Errno::ECONNREFUSED) && self.refused_after_silence
    }
}

impl fmt::Display for NeverOpened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, source, packets, counters, took, answer, .. } = self;
        let stage = match answer {
            _ if self.nothing_listens() => {
                &format!("tcp/{} opened, but nothing listens there", address.port())
            }
            Some(Errno::ECONNREFUSED) => "still refused",
            Some(why) => why.desc(),
            None => "no answer",
        };
        let counters = match counters {
            1 => "1 counter",
            many => &format!("{many} counters"),
        };
        write!(
            f,
            "{address}: {stage} after {packets} SYNs ({counters}) from {source} and {:.1} s",
            took.as_secs_f32()
        )?;
        if self.nothing_listens() {
            return f.write_str("; start the service on the server, or ask for another port");
        }
        let reasons = match answer {
            None => {
                "the host is down, the knocks did not arrive, or the server did not accept them"
            }
            Some(_) => {
                "the knocks did not arrive, the server did not accept them, or the port opened but nothing listens there"
            }
        };
        write!(f, ": {reasons}; the server's log says which")
    }
}

/// One connection on its way.
struct Attempt {
    /// The how manyth it is, from 0.
    nth: u32,
    fd: OwnedFd,
    route: Route,
    begun: Instant,
}

/// Has `leave` send knocks and connects to `port` until a connection stands or there is no more hope.
///
/// `routes`: the ways to the host, best first. `leave` makes a knock or sends one again, and gives what it takes to send
/// it again.
pub fn knock_and_connect<S>(
    routes: &[Route],
    port: u16,
    mut leave: impl FnMut(Next<'_, S>) -> Result<S, Failure>,
) -> Result<Connected, Failure> {
    let mut race = Race::new(routes, port);
    loop {
        let now = Instant::now();
        if race.is_over(now) {
            return Err(Failure::NeverOpened(race.failure(now)));
        }
        if let Some(next) = race.next_to_send(now) {
            match leave(next) {
                Ok(sent) => race.sent(sent),
                // A firewall of our own may shut one family off; the other may lead there.
                Err(why @ Failure::NotSent { .. }) => race.not_sent(why)?,
                Err(why) => return Err(why),
            }
        }
        race.begin_due_attempt(Instant::now());
        if let Some((stream, route)) = race.wait() {
            let (knocks, packets) = (race.order.counters(), race.order.packets());
            return Ok(Connected { stream, route, knocks, packets, attempts: race.begun });
        }
    }
}

/// The state of the attempts at one connection.
struct Race<S> {
    order: Order<S>,
    port: u16,
    started: Instant,
    /// When the next packet may leave.
    next_packet: Instant,
    last_packet: Instant,
    /// The way of the last packet.
    route: Option<Route>,
    next_attempt: Instant,
    pause: Duration,
    attempts: Vec<Attempt>,
    begun: u32,
    /// Whether the first attempt, or a later one, was refused at once.
    refused_first: bool,
    refused_later: bool,
    /// The shortest time to an answer so far.
    round_trip: Duration,
    answer: Option<Errno>,
}

impl<S> Race<S> {
    fn new(routes: &[Route], port: u16) -> Self {
        let now = Instant::now();
        Self {
            order: Order::new(routes),
            port,
            started: now,
            next_packet: now,
            last_packet: now,
            route: None,
            next_attempt: now,
            pause: FIRST_PAUSE,
            attempts: Vec::new(),
            begun: 0,
            refused_first: false,
            refused_later: false,
            round_trip: Duration::ZERO,
            answer: None,
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        let refused = self.answer.is_some() && self.order.is_done();
        let patience = REFUSED_FOR_GOOD.max(self.round_trip * 3);
        now >= self.started + TIME_LIMIT || refused && now >= self.last_packet + patience
    }

    /// When the next packet is due. An answer that took long moves it.
    fn due(&self) -> Instant {
        self.next_packet.max(self.last_packet + self.round_trip * 3)
    }

    fn next_to_send(&self, now: Instant) -> Option<Next<'_, S>> {
        if now >= self.due() { self.order.next() } else { None }
    }

    fn sent(&mut self, sent: S) {
        let now = Instant::now();
        self.route = self.order.sent(sent);
        self.last_packet = now;
        self.next_packet = now + SEND_AGAIN;
        // The first attempt is on the heels of the knock, before any server can have opened: it tells how the port answers
        // while it is closed.
        self.pause = FIRST_PAUSE / 2;
        self.next_attempt = now;
    }

    /// Fails where nothing has left, and there is no other way.
    fn not_sent(&mut self, why: Failure) -> Result<(), Failure> {
        // The next way is due at once.
        self.next_packet = Instant::now();
        self.order.not_sent(why)
    }

    fn begin_due_attempt(&mut self, now: Instant) {
        let Some(route) = self.route.filter(|_| now >= self.next_attempt) else { return };
        match begin(&route, self.port) {
            Ok(fd) => {
                if self.attempts.len() == MOST_ATTEMPTS {
                    self.attempts.remove(0);
                }
                self.attempts.push(Attempt { nth: self.begun, fd, route, begun: now });
                self.begun += 1;
            }
            Err(why) => {
                self.begun += 1;
                self.answer = Some(why);
            }
        }
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.next_attempt = now + self.pause;
    }

    /// Waits until something is due or an attempt has an answer. The connection, if one stands.
    fn wait(&mut self) -> Option<(TcpStream, Route)> {
        let mut until = self.next_attempt.min(self.started + TIME_LIMIT);
        if !self.order.is_done() {
            until = until.min(self.due());
        }
        let timeout = TimeSpec::from_duration(until.saturating_duration_since(Instant::now()));
        let mut polled: Vec<PollFd<'_>> = self
            .attempts
            .iter()
            .map(|attempt| PollFd::new(attempt.fd.as_fd(), PollFlags::POLLOUT))
            .collect();
        // A signal that interrupts only shortens the wait.
        let _ = ppoll(&mut polled, Some(timeout), None);
        let answered: Vec<bool> = polled.iter().map(|fd| fd.any().unwrap_or(false)).collect();

        let mut waiting = Vec::with_capacity(self.attempts.len());
        let mut connected = None;
        for (attempt, answered) in std::mem::take(&mut self.attempts).into_iter().zip(answered) {
            if !answered || connected.is_some() {
                waiting.push(attempt);
                continue;
            }
            match getsockopt(&attempt.fd, sockopt::SocketError) {
                Ok(0) => connected = stream(attempt),
                Ok(number) => self.refused(&attempt, Errno::from_raw(number)),
                Err(why) => self.refused(&attempt, why),
            }
        }
        self.attempts = waiting;
        connected
    }

    fn refused(&mut self, attempt: &Attempt, why: Errno) {
        let took = attempt.begun.elapsed();
        if self.answer.is_none() || took < self.round_trip {
            self.round_trip = took;
        }
        if why == Errno::ECONNREFUSED && took < AT_ONCE {
            self.refused_first |= attempt.nth == 0;
            self.refused_later |= attempt.nth > 0;
        }
        self.answer = Some(why);
    }

    fn failure(&self, now: Instant) -> NeverOpened {
        // `is_over` is false before the first knock, so there is a route.
        let (target, source) = self.route.map_or_else(
            || (SocketAddr::from(([0, 0, 0, 0], 0)), IpAddr::from([0, 0, 0, 0])),
            |route| (route.target, route.source),
        );
        NeverOpened {
            address: SocketAddr::new(target.ip(), self.port),
            source,
            packets: self.order.packets(),
            counters: self.order.counters(),
            took: now - self.started,
            answer: self.answer,
            refused_after_silence: self.refused_later && !self.refused_first,
        }
    }
}

/// Begins to connect along `route`, from the address that was knocked from: the grant is for no other.
fn begin(route: &Route, port: u16) -> Result<OwnedFd, Errno> {
    match (route.target, route.source) {
        (SocketAddr::V4(target), IpAddr::V4(source)) => begin_to(
            AddressFamily::Inet,
            &SockaddrIn::from(SocketAddrV4::new(source, 0)),
            &SockaddrIn::from(SocketAddrV4::new(*target.ip(), port)),
        ),
        (SocketAddr::V6(target), IpAddr::V6(source)) => begin_to(
            AddressFamily::Inet6,
            &SockaddrIn6::from(SocketAddrV6::new(source, 0, 0, target.scope_id())),
            &SockaddrIn6::from(SocketAddrV6::new(*target.ip(), port, 0, target.scope_id())),
        ),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

fn begin_to(
    family: AddressFamily,
    source: &impl SockaddrLike,
    target: &impl SockaddrLike,
) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket::socket(family, SockType::Stream, flags, None)?;
    // The port is chosen at connect, when the kernel knows the other end too: it has more to choose from.
    setsockopt(&fd, sockopt::IpBindAddressNoPort, &true)?;
    setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
    socket::bind(fd.as_raw_fd(), source)?;
    match socket::connect(fd.as_raw_fd(), target) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(fd),
        Err(why) => Err(why),
    }
}

fn stream(attempt: Attempt) -> Option<(TcpStream, Route)> {
    let stream = TcpStream::from(attempt.fd);
    stream.set_nonblocking(false).ok()?;
    Some((stream, attempt.route))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn route(text: &str) -> Route {
        let target: SocketAddr = text.parse().unwrap();
        Route { source: target.ip(), target }
    }

    #[test]
    fn an_open_port_is_connected_to_after_one_knock() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut knocks = Vec::new();
        let connected = knock_and_connect(&[route("127.0.0.1:1")], port, |next| {
            if let Next::New(route) = next {
                knocks.push(*route);
            }
            Ok(())
        })
        .unwrap();
        assert_eq!((connected.knocks, connected.packets), (1, 1));
        assert_eq!(knocks, [route("127.0.0.1:1")]);
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer, connected.stream.local_addr().unwrap());
    }

    #[test]
    fn a_port_that_opens_after_a_while_is_got_into() {
        // Closed until the knock, open some milliseconds after it: as a server does.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut opener = None;
        let connected = knock_and_connect(&[route("127.0.0.1:1")], port, |_| {
            opener = Some(std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(20));
                let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
                listener.accept().unwrap().1
            }));
            Ok(())
        })
        .unwrap();
        assert_eq!(connected.knocks, 1);
        assert!(connected.attempts > 1, "the first attempts were refused");
        let peer = opener.unwrap().join().unwrap();
        assert_eq!(peer, connected.stream.local_addr().unwrap());
    }

    #[test]
    fn a_port_that_stays_closed_costs_two_counters_in_three_packets() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (mut counter, mut sent) = (5, Vec::new());
        let failure = knock_and_connect(&[route("127.0.0.1:1")], port, |next| {
            sent.push(match next {
                Next::New(_) => {
                    counter += 1;
                    counter - 1
                }
                Next::Again(before) => *before,
            });
            Ok(sent[sent.len() - 1])
        })
        .unwrap_err();
        assert_eq!(sent, [5, 5, 6]);
        let text = failure.to_string();
        assert!(text.contains("still refused after 3 SYNs (2 counters)"), "{text}");
        assert!(text.contains("or the port opened but nothing listens there"), "{text}");
    }

    #[test]
    fn without_a_knock_there_is_no_attempt() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let failure =
            knock_and_connect::<()>(&[route("127.0.0.1:1")], port, |_| Err(Failure::NoHome))
                .unwrap_err();
        assert!(matches!(failure, Failure::NoHome));
        assert!(listener.accept().is_err());
    }

    fn not_sent() -> Failure {
        Failure::NotSent { counter: 0, address: [0, 0, 0, 0].into(), why: Errno::EPERM }
    }

    #[test]
    fn where_a_knock_cannot_leave_the_next_way_is_taken_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let start = Instant::now();
        let connected =
            knock_and_connect(&[route("[::1]:1"), route("127.0.0.1:1")], port, |next| match next {
                Next::New(route) if route.target.is_ipv6() => Err(not_sent()),
                _ => Ok(()),
            })
            .unwrap();
        assert!(start.elapsed() < SEND_AGAIN);
        assert_eq!((connected.packets, connected.route), (1, route("127.0.0.1:1")));
        assert_eq!(connected.knocks, 2, "the counter of the one that did not leave is spent");
    }

    #[test]
    fn where_no_knock_can_leave_each_way_is_tried_once() {
        for routes in [&[route("127.0.0.1:1")][..], &[route("[::1]:1"), route("127.0.0.1:1")]] {
            let mut tried = 0;
            let failure = knock_and_connect::<()>(routes, 9, |_| {
                tried += 1;
                Err(not_sent())
            })
            .unwrap_err();
            assert!(matches!(failure, Failure::NotSent { .. }), "{failure}");
            assert_eq!(tried, routes.len());
        }
    }

    #[test]
    fn a_refusal_after_silence_means_that_nothing_listens() {
        let failure = |refused_after_silence, answer| NeverOpened {
            address: "192.0.2.1:22".parse().unwrap(),
            source: [192, 0, 2, 2].into(),
            packets: 3,
            counters: 2,
            took: Duration::from_secs(5),
            answer,
            refused_after_silence,
        };
        let refused = Some(Errno::ECONNREFUSED);
        let text = failure(true, refused).to_string();
        assert!(text.contains("tcp/22 opened, but nothing listens there after 3 SYNs"), "{text}");
        for cannot_tell in [
            failure(false, refused),
            failure(false, None),
            failure(false, Some(Errno::EHOSTUNREACH)),
        ] {
            let text = cannot_tell.to_string();
            assert!(!text.contains("tcp/22 opened"), "{text}");
        }
    }

    #[test]
    fn nobody_is_told_to_write_a_counter() {
        for answer in [None, Some(Errno::ECONNREFUSED), Some(Errno::EHOSTUNREACH)] {
            let text = NeverOpened {
                address: "192.0.2.1:22".parse().unwrap(),
                source: [192, 0, 2, 2].into(),
                packets: 3,
                counters: 2,
                took: Duration::from_secs(5),
                answer,
                refused_after_silence: false,
            };
            let text = text.to_string();
            assert!(!text.contains("write") && !text.contains("`counter`"), "{text}");
        }
    }
}
