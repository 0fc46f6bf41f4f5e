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
//! In the stealth layout nobody on the way is to see more than somebody who was refused and tried again. The first attempt
//! there starts after the time in which servers have opened, mostly, and the others leave long pauses.
//!
//! A grant ends behind the first connection that stands. Over a long path several attempts are admitted before that, so
//! each holds the last ACK of its handshake back until all others are reset ([`Unconfirmed`]): one connection counts.
//! An attempt without an answer is kept until then: its SYN may be the one that was admitted, with the answer lost.
//! Then the kernels at both ends send again, which is admitted.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::dial::Unconfirmed;
use super::error::ConnectError;
use super::never_opened::NeverOpened;
use super::refusals::Refusals;
use super::send_order::{Next, SendOrder};
use crate::client::knock::error::KnockError;
use crate::client::knock::route::Route;
use crate::layout::keys::Layout;

/// No connection after this long: give up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Sockets open at once. More than the pauses allow within the limit, but a limit.
const MAX_ATTEMPTS: usize = 96;

/// How long to wait, and for what.
#[derive(Clone, Copy, Debug)]
struct Timing {
    /// From a packet to the first attempt behind it.
    first_attempt: Duration,
    /// From that attempt to the next; the pauses double.
    first_pause: Duration,
    /// They double up to this.
    max_pause: Duration,
    /// From one packet to the next, or three round trips where those take longer.
    send_again: Duration,
    /// Once the last packet is this old and the port refuses, waiting longer is of no use. Silence is waited for to the end.
    refused_for_good: Duration,
}

impl Timing {
    /// The first attempt follows the knock before any server can have opened: it shows how the port answers while it is
    /// closed. The first pause is about the time that the fastest server takes.
    const CLASSIC: Self = Self {
        first_attempt: Duration::ZERO,
        first_pause: Duration::from_millis(1),
        max_pause: Duration::from_millis(200),
        send_again: Duration::from_secs(1),
        refused_for_good: Duration::from_secs(3),
    };

    /// `layout`'s. In the stealth layout the pauses are random: a fixed one would be this program's.
    fn of(layout: Layout) -> Self {
        match layout {
            Layout::Classic => Self::CLASSIC,
            Layout::Stealth => {
                let random = getrandom::u32().unwrap_or_default() % 51;
                let first_attempt =
                    Duration::from_millis(50) + Duration::from_millis(random.into());
                Self {
                    first_attempt,
                    first_pause: first_attempt * 2,
                    max_pause: Duration::from_secs(1),
                    ..Self::CLASSIC
                }
            }
        }
    }
}

/// A connection that was made.
#[derive(Debug)]
pub(crate) struct Connected {
    /// The connection, without Nagle's delay.
    pub(crate) stream: TcpStream,
    /// The route that it took.
    pub(crate) route: Route,
    /// Knocks that were sent for it: counters that were spent.
    pub(crate) knocks: u32,
    /// SYNs that were sent for it: each knock may have been sent again.
    pub(crate) packets: u32,
    /// Connections that were begun for it.
    pub(crate) attempts: u32,
}

/// What became of one attempt.
#[derive(Debug)]
struct Attempt {
    /// Its number, from 0.
    nth: u32,
    route: Route,
    took: Duration,
    result: io::Result<Unconfirmed>,
}

/// Has `send` send knocks and connects to `port` until a connection stands or none can be expected any more.
///
/// `routes`: the routes to the host, best first. `layout`: of the knocks. `send` makes a knock or sends one again, and gives
/// what it takes to send it again.
pub(crate) async fn knock_and_connect<S, F>(
    routes: &[Route],
    port: u16,
    layout: Layout,
    send: impl FnMut(Next<S>) -> F,
) -> Result<Connected, ConnectError>
where
    S: Clone,
    F: Future<Output = Result<S, ConnectError>>,
{
    Race::new(SendOrder::new(routes, layout), port, Timing::of(layout)).run(send).await
}

/// The state of the attempts at one connection.
#[derive(Debug)]
struct Race<S> {
    order: SendOrder<S>,
    port: u16,
    timing: Timing,
    started: Instant,
    /// When the next packet may leave.
    next_packet: Instant,
    last_packet: Instant,
    /// The route of the last packet.
    route: Option<Route>,
    next_attempt: Instant,
    pause: Duration,
    attempts: JoinSet<Attempt>,
    begun: u32,
    refusals: Refusals,
}

impl<S: Clone> Race<S> {
    fn new(order: SendOrder<S>, port: u16, timing: Timing) -> Self {
        let now = Instant::now();
        Self {
            order,
            port,
            timing,
            started: now,
            next_packet: now,
            last_packet: now,
            route: None,
            next_attempt: now,
            pause: timing.first_pause,
            attempts: JoinSet::new(),
            begun: 0,
            refusals: Refusals::default(),
        }
    }

    async fn run<F>(mut self, mut send: impl FnMut(Next<S>) -> F) -> Result<Connected, ConnectError>
    where
        F: Future<Output = Result<S, ConnectError>>,
    {
        loop {
            let now = Instant::now();
            if self.is_over(now) {
                return Err(self.never_opened(now).into());
            }
            if let Some(next) = self.next_to_send(now) {
                match send(next).await {
                    Ok(left) => self.sent(left),
                    // A local firewall may block one family; the other may work.
                    Err(ConnectError::Knock(
                        why @ (KnockError::NotSent { .. } | KnockError::KernelSyn(_)),
                    )) => {
                        self.not_sent(why)?;
                    }
                    Err(why) => return Err(why),
                }
            }
            self.begin_due_attempt(Instant::now());
            if let Some((stream, route)) = self.wait().await {
                let (knocks, packets) = (self.order.counters(), self.order.packets());
                return Ok(Connected { stream, route, knocks, packets, attempts: self.begun });
            }
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        let refused = self.refusals.last.is_some() && self.order.is_done();
        let patience = self.timing.refused_for_good.max(self.refusals.round_trip * 3);
        now >= self.started + CONNECT_TIMEOUT || refused && now >= self.last_packet + patience
    }

    /// When the next packet is due. An answer that took long moves it.
    fn due(&self) -> Instant {
        self.next_packet.max(self.last_packet + self.refusals.round_trip * 3)
    }

    fn next_to_send(&self, now: Instant) -> Option<Next<S>> {
        if now >= self.due() { self.order.next() } else { None }
    }

    fn sent(&mut self, sent: S) {
        let now = Instant::now();
        self.route = self.order.sent(sent);
        self.last_packet = now;
        self.next_packet = now + self.timing.send_again;
        self.pause = self.timing.first_pause;
        self.next_attempt = now + self.timing.first_attempt;
    }

    /// Fails where nothing has left, and there is no other route.
    fn not_sent(&mut self, why: KnockError) -> Result<(), KnockError> {
        // The next route is due at once.
        self.next_packet = Instant::now();
        self.order.not_sent(why)
    }

    fn begin_due_attempt(&mut self, now: Instant) {
        let Some(route) = self.route.filter(|_| now >= self.next_attempt) else { return };
        if self.attempts.len() < MAX_ATTEMPTS {
            let (nth, port) = (self.begun, self.port);
            self.attempts.spawn(async move {
                let began = Instant::now();
                let result = Unconfirmed::dial(&route, port).await;
                Attempt { nth, route, took: began.elapsed(), result }
            });
            self.begun += 1;
        }
        self.next_attempt = now + self.pause;
        self.pause = (self.pause * 2).min(self.timing.max_pause);
    }

    /// Waits until something is due or an attempt has an answer. The connection, if one stands.
    async fn wait(&mut self) -> Option<(TcpStream, Route)> {
        let mut until = self.next_attempt.min(self.started + CONNECT_TIMEOUT);
        if !self.order.is_done() {
            until = until.min(self.due());
        }
        let attempt = tokio::select! {
            biased;
            Some(done) = self.attempts.join_next() => done.ok()?,
            () = sleep_until(until) => return None,
        };
        let confirmed = match attempt.result {
            Ok(unconfirmed) => {
                self.attempts.shutdown().await;
                unconfirmed.confirm()
            }
            Err(why) => Err(why),
        };
        match confirmed {
            Ok(stream) => return Some((stream, attempt.route)),
            Err(why) => self.refusals.record(attempt.nth, attempt.took, &why),
        }
        None
    }

    fn never_opened(&self, now: Instant) -> NeverOpened {
        // `is_over` is false before the first knock, so there is a route.
        let (target, source_address) = self.route.map_or_else(
            || (SocketAddr::from(([0, 0, 0, 0], 0)), IpAddr::from([0, 0, 0, 0])),
            |route| (route.target, route.source),
        );
        NeverOpened {
            address: SocketAddr::new(target.ip(), self.port),
            source_address,
            packets: self.order.packets(),
            counters: self.order.counters(),
            took: now - self.started,
            answer: self.refusals.last,
            refused_after_silence: self.refusals.after_silence(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;
    use std::future::ready;
    use std::net::TcpListener;

    const SHORT: Timing = Timing {
        send_again: Duration::from_millis(100),
        refused_for_good: Duration::from_millis(300),
        ..Timing::CLASSIC
    };

    fn route(text: &str) -> Route {
        let target: SocketAddr = text.parse().unwrap();
        Route { source: target.ip(), target }
    }

    #[tokio::test]
    async fn an_open_port_is_connected_to_after_one_knock() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut knocks = Vec::new();
        let connected = knock_and_connect(&[route("127.0.0.1:1")], port, Layout::Classic, |next| {
            if let Next::New(route) = next {
                knocks.push(route);
            }
            ready(Ok(()))
        })
        .await
        .unwrap();
        assert_eq!((connected.knocks, connected.packets), (1, 1));
        assert_eq!(knocks, [route("127.0.0.1:1")]);
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer, connected.stream.local_addr().unwrap());
    }

    #[tokio::test]
    async fn a_port_that_opens_after_a_while_is_got_into() {
        // Closed until the knock, open some milliseconds after it: as a server does.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut opener = None;
        let connected = knock_and_connect(&[route("127.0.0.1:1")], port, Layout::Classic, |_| {
            opener = Some(std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(20));
                let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
                listener.accept().unwrap().1
            }));
            ready(Ok(()))
        })
        .await
        .unwrap();
        assert_eq!(connected.knocks, 1);
        assert!(connected.attempts > 1, "the first attempts were refused");
        let peer = opener.unwrap().join().unwrap();
        assert_eq!(peer, connected.stream.local_addr().unwrap());
    }

    #[tokio::test]
    async fn a_port_that_stays_closed_costs_two_counters_in_three_packets() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (mut counter, mut sent) = (5, Vec::new());
        let race = Race::new(SendOrder::new(&[route("127.0.0.1:1")], Layout::Classic), port, SHORT)
            .run(|next| {
                sent.push(match next {
                    Next::New(_) => {
                        counter += 1;
                        counter - 1
                    }
                    Next::Again(before) => before,
                });
                ready(Ok(sent[sent.len() - 1]))
            });
        let failure = race.await.unwrap_err();
        assert_eq!(sent, [5, 5, 6]);
        let (text, hint) = (failure.to_string(), failure.hint().unwrap());
        assert!(text.contains("still refused after 3 SYNs (2 counters)"), "{text}");
        assert!(hint.contains("or the port opened but nothing listens there"), "{hint}");
    }

    #[tokio::test]
    async fn behind_a_stealth_knock_one_attempt_comes_late_and_the_next_later() {
        let timing = [(); 20].map(|()| Timing::of(Layout::Stealth));
        for one in &timing {
            assert!((50..=100).contains(&one.first_attempt.as_millis()), "{one:?}");
            assert_eq!(one.first_pause, one.first_attempt * 2);
        }
        assert!(timing.iter().any(|one| one.first_attempt != timing[0].first_attempt));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let start = Instant::now();
        let routes = [route("127.0.0.1:1")];
        let connected = knock_and_connect(&routes, port, Layout::Stealth, |_| ready(Ok(())));
        let connected = connected.await.unwrap();
        assert_eq!((connected.knocks, connected.attempts), (1, 1));
        assert!(start.elapsed() >= Duration::from_millis(50));
    }

    #[tokio::test]
    async fn without_a_knock_there_is_no_attempt() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let order = SendOrder::new(&[route("127.0.0.1:1")], Layout::Classic);
        let race = Race::<()>::new(order, port, Timing::CLASSIC);
        let failure = race.run(|_| ready(Err(KnockError::NoHome.into()))).await.unwrap_err();
        assert!(matches!(failure, ConnectError::Knock(KnockError::NoHome)));
        assert!(listener.accept().is_err());
    }

    fn not_sent() -> ConnectError {
        let why = Errno::EPERM;
        KnockError::NotSent { counter: 0, address: [0, 0, 0, 0].into(), why }.into()
    }

    #[tokio::test]
    async fn where_a_knock_cannot_leave_the_next_route_is_taken_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let start = Instant::now();
        let connected = knock_and_connect(
            &[route("[::1]:1"), route("127.0.0.1:1")],
            port,
            Layout::Classic,
            |next| {
                ready(match next {
                    Next::New(route) if route.target.is_ipv6() => Err(not_sent()),
                    _ => Ok(()),
                })
            },
        )
        .await
        .unwrap();
        assert!(start.elapsed() < Timing::CLASSIC.send_again);
        assert_eq!((connected.packets, connected.route), (1, route("127.0.0.1:1")));
        assert_eq!(connected.knocks, 2, "the counter of the one that did not leave is spent");
    }

    #[tokio::test]
    async fn where_no_knock_can_leave_each_route_is_tried_once() {
        for routes in [&[route("127.0.0.1:1")][..], &[route("[::1]:1"), route("127.0.0.1:1")]] {
            let mut tried = 0;
            let order = SendOrder::new(routes, Layout::Classic);
            let race = Race::<()>::new(order, 9, Timing::CLASSIC).run(|_| {
                tried += 1;
                ready(Err(not_sent()))
            });
            let failure = race.await.unwrap_err();
            assert!(
                matches!(failure, ConnectError::Knock(KnockError::NotSent { .. })),
                "{failure}"
            );
            assert_eq!(tried, routes.len());
        }
    }
}
