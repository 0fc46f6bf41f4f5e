//! Many attempts to connect, real and imitated ones mixed, and what was recorded of them.
//!
//! The kernel counts source ports up for each pair of addresses and destination port, whatever the namespace. So no two tests
//! may use the same destination port at the same time: [`fresh_port`].

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::imitation::{Pattern, begin_connect, out, stream};
use crate::net::{Family, Net};
use crate::site::{HOST, write_private};
use crate::warden::attempt::{Attempt, attempts};
use crate::warden::recording::{self, Recording};
use crate::warden::segment::Segment;

/// A refused socket is closed when so much has passed: its answer is here by then.
pub(crate) const REFUSED: Duration = Duration::from_millis(20);
/// One that nothing answers is closed when the kernel has sent its SYN again.
pub(crate) const UNANSWERED: Duration = Duration::from_millis(1150);

/// What is changed in a SYN. The attempts to a port are numbered from 0.
pub(crate) type Change = fn(&mut Segment, u32);

/// Part of a program that makes attempts.
pub(crate) trait Knocker: Sync {
    /// Does what takes time. What this gives sends one SYN, and gives what has to be kept for a while.
    fn prepare(&self) -> Box<dyn FnOnce() -> Box<dyn Any> + '_>;
}

/// How the host makes one attempt.
#[derive(Clone, Copy)]
pub(crate) enum Act<'a> {
    /// As any program does, to a port.
    Connect(u16),
    /// By hand, to a port.
    Imitate(u16, Change),
    /// The same, and the same packet once more a second later.
    ImitateTwice(u16),
    /// By a program of ours, to a port.
    Knock(u16, &'a dyn Knocker),
}

impl Act<'_> {
    fn port(self) -> u16 {
        let (Self::Connect(port)
        | Self::Imitate(port, _)
        | Self::ImitateTwice(port)
        | Self::Knock(port, _)) = self;
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
pub(crate) fn mix<'a>(pattern: &mut Pattern, rows: &[(usize, Act<'a>)]) -> Vec<Act<'a>> {
    let mut acts: Vec<(u32, Act<'_>)> = Vec::new();
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
    acts: &[Act<'_>],
    pause: Duration,
    patience: Duration,
) -> Made {
    let recording = Recording::start(net, "attempts.pcap");
    let server = net.server.address(family);
    net.client.inside(|| {
        let mut out = out();
        let mut open: VecDeque<(Instant, Box<dyn Any>)> = VecDeque::new();
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
                    open.push_back((Instant::now() + patience, Box::new(socket)));
                }
                Ready::Knock(send) => open.push_back((Instant::now() + patience, send())),
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
enum Ready<'a> {
    Connect(OwnedFd, SocketAddr),
    /// A packet, and whether it is sent twice.
    Send(Vec<u8>, bool),
    Knock(Box<dyn FnOnce() -> Box<dyn Any> + 'a>),
}

impl<'a> Ready<'a> {
    fn new(act: Act<'a>, number: u32, server: IpAddr, pattern: &mut Pattern) -> Self {
        let (port, change, is_sent_twice): (_, Change, _) = match act {
            Act::Connect(port) => {
                let to = SocketAddr::new(server, port);
                return Self::Connect(stream(to), to);
            }
            Act::Imitate(port, change) => (port, change, false),
            Act::ImitateTwice(port) => (port, right, true),
            Act::Knock(_, knocker) => return Self::Knock(knocker.prepare()),
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

/// The program `knock` with a profile for the server's address of a family.
pub(crate) struct KnockProgram {
    profiles: PathBuf,
    /// What it asks for.
    port: u16,
}

impl KnockProgram {
    /// With a profile of the classic layout.
    pub(crate) fn classic(net: &Net, family: Family, knock_port: u16) -> Self {
        let [cipher, mac] =
            ["16 secret bytes.", "16 other secrets"].map(|key| BASE64_STANDARD.encode(key) + "\n");
        let config = format!("knock_port = {knock_port}\n");
        Self::new(net, family, &config, &[("cipher.key", cipher), ("mac.key", mac)], 22)
    }

    /// With one of the stealth layout. It asks for `port`, and that is where its knocks go.
    pub(crate) fn stealth(net: &Net, family: Family, port: u16) -> Self {
        let secret = BASE64_STANDARD.encode("32 bytes that nobody else knows.") + "\n";
        Self::new(net, family, "layout = stealth\n", &[("secret.key", secret)], port)
    }

    fn new(net: &Net, family: Family, config: &str, keys: &[(&str, String)], port: u16) -> Self {
        let profiles = net.path("profiles");
        let profile = profiles.join(HOST);
        fs::create_dir_all(&profile).unwrap();
        for (name, key) in keys {
            write_private(&profile.join(name), key);
        }
        let address = net.server.address(family);
        write_private(&profile.join("config"), format!("[main]\naddress = {address}\n{config}"));
        write_private(&profile.join("counter"), "0\n");
        Self { profiles, port }
    }
}

impl Knocker for KnockProgram {
    fn prepare(&self) -> Box<dyn FnOnce() -> Box<dyn Any>> {
        let mut knock = Command::new(env!("CARGO_BIN_EXE_knock"));
        knock.args(["--wait", "0", "-p", &self.port.to_string(), "--profiles"]);
        knock.arg(&self.profiles).arg(HOST);
        Box::new(move || {
            let output = knock.output().unwrap();
            assert!(output.status.success(), "{output:?}");
            Box::new(())
        })
    }
}
