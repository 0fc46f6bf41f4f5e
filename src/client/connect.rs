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
//! A grant admits the first SYN that matches it. The others are refused or dropped as if there were no grant, and
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

use super::failure::Failure;
use super::target::Route;

/// No connection after this long: give up.
pub const TIME_LIMIT: Duration = Duration::from_secs(10);
/// Knocks for one connection, at most.
pub const MOST_KNOCKS: u32 = 3;

/// From a knock to the first attempt, and from that to the next. About the time that the fastest server takes.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// The pauses double up to this.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// From one knock to the next, or three round trips where those take longer.
const KNOCK_AGAIN: Duration = Duration::from_secs(1);
/// Once the last knock is this old and the port refuses, waiting longer is of no use. Silence is waited for to the end.
const REFUSED_FOR_GOOD: Duration = Duration::from_secs(3);
/// Sockets open at once. More than the pauses allow within the limit, but a limit.
const MOST_ATTEMPTS: usize = 64;

/// A connection that was made.
#[derive(Debug)]
pub struct Connected {
    /// The connection, blocking, without Nagle's delay.
    pub stream: TcpStream,
    /// The way that it took.
    pub route: Route,
    /// Knocks that were sent for it.
    pub knocks: u32,
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
    /// Knocks that were sent.
    pub knocks: u32,
    /// How long it was tried.
    pub took: Duration,
    /// The last answer; `None` where there was no answer at all.
    pub answer: Option<Errno>,
}

impl fmt::Display for NeverOpened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, source, knocks, took, answer } = self;
        let stage = match answer {
            Some(Errno::ECONNREFUSED) => "still refused",
            Some(why) => why.desc(),
            None => "no answer",
        };
        let took = took.as_secs_f32();
        write!(f, "{address}: {stage} after {knocks} knocks from {source} and {took:.1} s: ")?;
        if answer.is_none() {
            f.write_str("the host is down, ")?;
        }
        f.write_str(
            "the knocks did not arrive, or the server did not accept them; its log says why. Where it tells of wrong \
             knocks, the server's `counter` of this profile has fallen behind: stop knock-daemon, write ours into it",
        )
    }
}

/// One connection on its way.
struct Attempt {
    fd: OwnedFd,
    route: Route,
    begun: Instant,
}

/// Knocks with `knock` and connects to `port` until a connection stands or there is no more hope.
///
/// `routes`: the ways to the host, best first. Each knock takes the next, one family after the other, so that a
/// family that leads nowhere costs one second.
pub fn knock_and_connect(
    routes: &[Route],
    port: u16,
    mut knock: impl FnMut(&Route) -> Result<(), Failure>,
) -> Result<Connected, Failure> {
    let mut race = Race::new(routes, port);
    loop {
        let now = Instant::now();
        if race.is_over(now) {
            return Err(Failure::NeverOpened(race.failure(now)));
        }
        if let Some(route) = race.next_knock(now) {
            match knock(&route) {
                Ok(()) => race.knocked(route),
                // A firewall of our own may shut one family off; the other may lead there.
                Err(why @ Failure::NotSent { .. }) => race.not_sent(why)?,
                Err(why) => return Err(why),
            }
        }
        race.begin_due_attempt(Instant::now());
        if let Some((stream, route)) = race.wait() {
            let (knocks, attempts) = (race.knocks, race.begun);
            return Ok(Connected { stream, route, knocks, attempts });
        }
    }
}

/// The state of the attempts at one connection.
struct Race {
    routes: Vec<Route>,
    port: u16,
    started: Instant,
    /// Knocks that were tried, and those of them that were sent.
    tried: u32,
    knocks: u32,
    /// The last one tried did not leave: the next way is due at once.
    skip: bool,
    last_knock: Instant,
    route: Option<Route>,
    next_attempt: Instant,
    pause: Duration,
    attempts: Vec<Attempt>,
    begun: u32,
    /// The shortest time to an answer so far.
    round_trip: Duration,
    answer: Option<Errno>,
}

impl Race {
    fn new(routes: &[Route], port: u16) -> Self {
        let now = Instant::now();
        Self {
            routes: alternate_families(routes),
            port,
            started: now,
            tried: 0,
            knocks: 0,
            skip: false,
            last_knock: now,
            route: None,
            next_attempt: now,
            pause: FIRST_PAUSE,
            attempts: Vec::new(),
            begun: 0,
            round_trip: Duration::ZERO,
            answer: None,
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        let refused = self.answer.is_some() && self.tried == MOST_KNOCKS;
        let patience = REFUSED_FOR_GOOD.max(self.round_trip * 3);
        now >= self.started + TIME_LIMIT || refused && now >= self.last_knock + patience
    }

    fn knock_again(&self) -> Duration {
        KNOCK_AGAIN.max(self.round_trip * 3)
    }

    /// The route to knock on now, if it is time to.
    fn next_knock(&self, now: Instant) -> Option<Route> {
        let at_once = self.tried == 0 || self.skip;
        let due =
            self.tried < MOST_KNOCKS && (at_once || now >= self.last_knock + self.knock_again());
        let index = usize::try_from(self.tried).ok()?.checked_rem(self.routes.len())?;
        due.then(|| self.routes.get(index).copied()).flatten()
    }

    fn knocked(&mut self, route: Route) {
        let now = Instant::now();
        self.tried += 1;
        self.knocks += 1;
        self.skip = false;
        self.last_knock = now;
        self.route = Some(route);
        self.pause = FIRST_PAUSE;
        self.next_attempt = now + FIRST_PAUSE;
    }

    /// Fails where no knock has left, and there is no other way to send one.
    fn not_sent(&mut self, why: Failure) -> Result<(), Failure> {
        self.tried += 1;
        self.skip = true;
        let ways = u32::try_from(self.routes.len()).unwrap_or(u32::MAX).min(MOST_KNOCKS);
        if self.knocks == 0 && self.tried >= ways { Err(why) } else { Ok(()) }
    }

    fn begin_due_attempt(&mut self, now: Instant) {
        let Some(route) = self.route.filter(|_| now >= self.next_attempt) else { return };
        match begin(&route, self.port) {
            Ok(fd) => {
                if self.attempts.len() == MOST_ATTEMPTS {
                    self.attempts.remove(0);
                }
                self.attempts.push(Attempt { fd, route, begun: now });
                self.begun += 1;
            }
            Err(why) => self.answer = Some(why),
        }
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.next_attempt = now + self.pause;
    }

    /// Waits until something is due or an attempt has an answer. The connection, if one stands.
    fn wait(&mut self) -> Option<(TcpStream, Route)> {
        let mut until = self.next_attempt.min(self.started + TIME_LIMIT);
        if self.tried < MOST_KNOCKS {
            until = until.min(self.last_knock + self.knock_again());
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
        self.answer = Some(why);
    }

    fn failure(&self, now: Instant) -> NeverOpened {
        // `is_over` is false before the first knock, so there is a route.
        let route = self.route.or_else(|| self.routes.first().copied());
        let (target, source) = route.map_or_else(
            || (SocketAddr::from(([0, 0, 0, 0], 0)), IpAddr::from([0, 0, 0, 0])),
            |route| (route.target, route.source),
        );
        NeverOpened {
            address: SocketAddr::new(target.ip(), self.port),
            source,
            knocks: self.knocks,
            took: now - self.started,
            answer: self.answer,
        }
    }
}

/// The routes with the families taking turns, starting with the first's.
fn alternate_families(routes: &[Route]) -> Vec<Route> {
    let Some(first) = routes.first() else { return Vec::new() };
    let (mut same, mut other): (Vec<Route>, Vec<Route>) =
        routes.iter().partition(|route| route.target.is_ipv4() == first.target.is_ipv4());
    same.reverse();
    other.reverse();
    let mut ordered = Vec::with_capacity(routes.len());
    while !same.is_empty() || !other.is_empty() {
        ordered.extend(same.pop());
        ordered.extend(other.pop());
    }
    ordered
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
        let connected = knock_and_connect(&[route("127.0.0.1:1")], port, |route| {
            knocks.push(*route);
            Ok(())
        })
        .unwrap();
        assert_eq!(connected.knocks, 1);
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
    fn a_port_that_stays_closed_is_knocked_for_three_times_and_then_given_up() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut knocks = 0;
        let failure = knock_and_connect(&[route("127.0.0.1:1")], port, |_| {
            knocks += 1;
            Ok(())
        })
        .unwrap_err();
        assert_eq!(knocks, MOST_KNOCKS);
        let text = failure.to_string();
        assert!(text.contains("still refused") && text.contains("3 knocks"), "{text}");
    }

    #[test]
    fn without_a_knock_there_is_no_attempt() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let failure =
            knock_and_connect(&[route("127.0.0.1:1")], port, |_| Err(Failure::NoHome)).unwrap_err();
        assert!(matches!(failure, Failure::NoHome));
        assert!(listener.accept().is_err());
    }

    fn not_sent(route: &Route) -> Failure {
        Failure::NotSent { counter: 0, address: route.target.ip(), why: Errno::EPERM }
    }

    #[test]
    fn where_a_knock_cannot_leave_the_next_way_is_taken_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let start = Instant::now();
        let connected =
            knock_and_connect(&[route("[::1]:1"), route("127.0.0.1:1")], port, |route| {
                if route.target.is_ipv6() { Err(not_sent(route)) } else { Ok(()) }
            })
            .unwrap();
        assert!(start.elapsed() < KNOCK_AGAIN);
        assert_eq!((connected.knocks, connected.route), (1, route("127.0.0.1:1")));
    }

    #[test]
    fn where_no_knock_can_leave_each_way_is_tried_once() {
        for routes in [&[route("127.0.0.1:1")][..], &[route("[::1]:1"), route("127.0.0.1:1")]] {
            let mut tried = 0;
            let failure = knock_and_connect(routes, 9, |route| {
                tried += 1;
                Err(not_sent(route))
            })
            .unwrap_err();
            assert!(matches!(failure, Failure::NotSent { .. }), "{failure}");
            assert_eq!(tried, routes.len());
        }
    }

    #[test]
    fn families_take_turns() {
        let [a, b, c, d] = ["[::1]:1", "[::2]:1", "1.1.1.1:1", "1.1.1.2:1"].map(route);
        assert_eq!(alternate_families(&[a, b, c, d]), [a, c, b, d]);
        assert_eq!(alternate_families(&[c, a, b]), [c, a, b]);
        assert_eq!(alternate_families(&[a, b]), [a, b]);
    }
}
