//! Many attempts to connect, real and imitated ones mixed, and what was recorded of them.
//!
//! The kernel counts source ports up for each pair of addresses and destination port, whatever the namespace. So no two tests
//! may use the same destination port at the same time: [`fresh_port`].

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::imitation::{Pattern, begin_connect, out, stream};
use crate::net::{Family, Net};
use crate::warden::attempt::{Attempt, attempts};
use crate::warden::recording::{self, Recording};
use crate::warden::segment::Segment;

/// A refused socket is closed when so much has passed: its answer is here by then.
pub(crate) const REFUSED: Duration = Duration::from_millis(20);
/// One that nothing answers is closed when the kernel has sent its SYN again.
pub(crate) const UNANSWERED: Duration = Duration::from_millis(1150);

/// What is changed in a SYN. The attempts to a port are numbered from 0.
pub(crate) type Change = fn(&mut Segment, u32);

/// How the host makes one attempt.
#[derive(Clone, Copy)]
pub(crate) enum Act {
    /// As any program does, to a port.
    Connect(u16),
    /// By hand, to a port.
    Imitate(u16, Change),
    /// The same, and the same packet once more a second later.
    ImitateTwice(u16),
}

impl Act {
    fn port(self) -> u16 {
        let (Self::Connect(port) | Self::Imitate(port, _) | Self::ImitateTwice(port)) = self;
        port
    }
}

/// A port that no other test uses, in this process or, mostly, in another.
pub(crate) fn fresh_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = std::process::id() * 64 + NEXT.fetch_add(1, Ordering::Relaxed);
    u16::try_from(10_000 + number % 20_000).unwrap()
}

/// Nothing is changed.
pub(crate) fn right(_: &mut Segment, _: u32) {}

/// Mixes `rows` of equal acts, each `(how many, what)`, evenly and at random.
pub(crate) fn mix(pattern: &mut Pattern, rows: &[(usize, Act)]) -> Vec<Act> {
    let mut acts: Vec<(u32, Act)> = Vec::new();
    for (count, act) in rows {
        acts.extend((0..*count).map(|_| (pattern.random(), *act)));
    }
    acts.sort_by_key(|(order, _)| *order);
    acts.into_iter().map(|(_, act)| act).collect()
}

/// Makes the attempts, with random pauses of `pause` on average and half of it at least, and records them. A real one ends after `patience`.
pub(crate) fn make(
    net: &Net,
    pattern: &mut Pattern,
    family: Family,
    acts: &[Act],
    pause: Duration,
    patience: Duration,
) -> Made {
    let recording = Recording::start(net, "attempts.pcap");
    let server = net.server.address(family);
    net.client.inside(|| {
        let mut out = out();
        let mut open: VecDeque<(Instant, OwnedFd)> = VecDeque::new();
        let mut again: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
        let mut when = Instant::now();
        let mut numbers: HashMap<u16, u32> = HashMap::new();
        for act in acts {
            let number = numbers.entry(act.port()).or_default();
            // What takes time is done before: nothing but chance decides when a SYN leaves.
            let ready = Ready::new(*act, *number, server, pattern);
            *number += 1;
            when += pause.mul_f64(0.5 + f64::from(pattern.random()) / f64::from(u32::MAX));
            when = when.max(Instant::now());
            thread::sleep(when - Instant::now());
            match ready {
                Ready::Connect(socket, to) => {
                    begin_connect(&socket, to);
                    open.push_back((Instant::now() + patience, socket));
                }
                Ready::Send(packet, is_sent_twice) => {
                    pattern.send(&mut *out, &packet);
                    if is_sent_twice {
                        again.push_back((Instant::now() + Duration::from_secs(1), packet));
                    }
                }
            }
            while let Some(packet) = due(&mut again) {
                pattern.send(&mut *out, &packet);
            }
            while due(&mut open).is_some() {}
        }
        let last = open.back().map(|(when, _)| *when).max(again.back().map(|(when, _)| *when));
        while let Some(left) = last.and_then(|end| end.checked_duration_since(Instant::now())) {
            thread::sleep(left);
        }
        for (_, packet) in again {
            pattern.send(&mut *out, &packet);
        }
    });
    Made::read(net, family, recording.stop())
}

/// An attempt that is about to be made.
enum Ready {
    Connect(OwnedFd, SocketAddr),
    /// A packet, and whether it is sent twice.
    Send(Vec<u8>, bool),
}

impl Ready {
    fn new(act: Act, number: u32, server: IpAddr, pattern: &mut Pattern) -> Self {
        let (port, change, is_sent_twice): (_, Change, _) = match act {
            Act::Connect(port) => {
                let to = SocketAddr::new(server, port);
                return Self::Connect(stream(to), to);
            }
            Act::Imitate(port, change) => (port, change, false),
            Act::ImitateTwice(port) => (port, right, true),
        };
        let mut syn = pattern.new_syn(port);
        change(&mut syn, number);
        Self::Send(syn.to_packet(), is_sent_twice)
    }
}

/// The first, if its time has come.
fn due<T>(queue: &mut VecDeque<(Instant, T)>) -> Option<T> {
    let is_due = queue.front().is_some_and(|(when, _)| *when <= Instant::now());
    is_due.then(|| queue.pop_front())?.map(|(_, what)| what)
}

/// What was recorded.
pub(crate) struct Made {
    pub(crate) file: PathBuf,
    pub(crate) attempts: Vec<Attempt>,
}

impl Made {
    /// The attempts of the client in a recording.
    pub(crate) fn read(net: &Net, family: Family, file: PathBuf) -> Self {
        let attempts = attempts(&recording::read(&file), net.client.address(family));
        Self { file, attempts }
    }
}
