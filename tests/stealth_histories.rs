//! Long random histories of a sender and a receiver of the stealth layout: knocks that are lost, clocks that are set, state
//! that is lost or restored. No number opens twice; who tries once a second gets in soon.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on stops")]

use std::collections::HashSet;
use std::time::Duration;

use knockknock::layout::stealth::steps::{Receiver, Sender, step_of};

/// Some day in 2026, in seconds of Unix time.
const START: i64 = 1_790_000_000;
const YEAR: i64 = 365 * 86_400;
/// Each of two clocks may be off by half of what the two may differ.
const MAX_OFF: i64 = 900;

/// splitmix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn between(&mut self, least: i64, most: i64) -> i64 {
        least + i64::try_from(self.below(u64::try_from(most - least + 1).unwrap())).unwrap()
    }
}

/// Two hosts, and what is true.
struct History {
    now: i64,
    client_off: i64,
    server_off: i64,
    sender: Sender,
    receiver: Receiver,
    backup: Sender,
    opened: HashSet<u64>,
}

impl History {
    fn new() -> Self {
        Self {
            now: START,
            client_off: 0,
            server_off: 0,
            sender: Sender::default(),
            receiver: Receiver { next: 0 },
            backup: Sender::default(),
            opened: HashSet::new(),
        }
    }

    fn step(&self, off: i64) -> u64 {
        step_of(Duration::from_secs(u64::try_from((self.now + off).max(0)).unwrap()))
    }

    /// A knock that is lost.
    fn lose(&mut self) {
        self.sender.next(self.step(self.client_off)).unwrap();
    }

    /// A knock that arrives: whether it opens.
    fn knock(&mut self) -> bool {
        let n = self.sender.next(self.step(self.client_off)).unwrap();
        let opens = self.receiver.accepts(n, self.step(self.server_off));
        if opens {
            self.receiver.accept(n);
            assert!(self.opened.insert(n), "{n} opens a second time");
        }
        opens
    }

    /// Knocks once a second until one opens: how many seconds it took.
    fn seconds_until_in(&mut self, limit: i64) -> i64 {
        let start = self.now;
        while !self.knock() {
            self.now += 1;
            assert!(self.now - start <= limit, "out for more than {limit} s");
        }
        self.now - start
    }
}

/// What may happen to machines and networks.
#[derive(Clone, Copy)]
enum Event {
    ShortPause,
    LongPause,
    Burst(u64),
    ClientClock,
    ServerClock,
    Backup,
    Lost,
    Restored,
}

fn happens(event: Event, history: &mut History, chance: &mut Chance) {
    match event {
        Event::ShortPause => history.now += chance.between(0, 30),
        Event::LongPause => history.now += chance.between(0, 86_400),
        Event::Burst(most) => (0..chance.below(most)).for_each(|_| history.lose()),
        Event::ClientClock => history.client_off = chance.between(-MAX_OFF, MAX_OFF),
        Event::ServerClock => history.server_off = chance.between(-MAX_OFF, MAX_OFF),
        Event::Backup => history.backup = history.sender,
        Event::Lost => history.sender = Sender::default(),
        Event::Restored => history.sender = history.backup,
    }
}

/// The worst time until somebody was in who tried once a second, in seconds.
fn worst(events: &[Event], limit: i64) -> i64 {
    let mut chance = Chance(1);
    let mut worst = 0;
    for _ in 0..300 {
        let mut history = History::new();
        history.client_off = chance.between(-MAX_OFF, MAX_OFF);
        history.server_off = chance.between(-MAX_OFF, MAX_OFF);
        for _ in 0..1_000 {
            let event = events[usize::try_from(chance.below(events.len() as u64)).unwrap()];
            happens(event, &mut history, &mut chance);
            worst = worst.max(history.seconds_until_in(limit));
        }
    }
    worst
}

#[test]
fn clocks_within_half_an_hour_get_everybody_in() {
    use Event::*;
    for (name, events) in [
        ("pauses", &[ShortPause, LongPause][..]),
        ("bursts 200", &[ShortPause, LongPause, Burst(200)]),
        ("bursts 1000", &[ShortPause, LongPause, Burst(1000)]),
        ("bursts 2000", &[ShortPause, LongPause, Burst(2000)]),
        ("clocks", &[ShortPause, LongPause, ClientClock, ServerClock]),
        ("clocks and bursts", &[ShortPause, LongPause, ClientClock, ServerClock, Burst(2000)]),
        ("state", &[ShortPause, LongPause, Backup, Lost, Restored]),
        ("state, bursts", &[ShortPause, LongPause, Backup, Lost, Restored, Burst(2000)]),
        ("all", &[ShortPause, LongPause, Backup, Lost, Restored, Burst(2000), ClientClock, ServerClock]),
    ] {
        println!("{name}: {}", worst(events, 10_000));
    }
}
