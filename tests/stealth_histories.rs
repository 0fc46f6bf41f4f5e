//! Long random histories of a sender and a receiver of the stealth layout: knocks that are lost, clocks that are set, state
//! that is lost or restored. No number opens twice; who tries once a second gets in soon.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on stops")]

use std::collections::HashSet;

use knockknock::layout::steps::{StealthReceiver, StealthSender, step_of};

/// Some day in 2026, in seconds of Unix time.
const START: i64 = 1_790_000_000;
const YEAR: i64 = 365 * 86_400;
/// Each of two clocks may be off by half of what the two may differ.
const MAX_OFF: i64 = 900;
/// How many histories are tried, and how much happens in each.
const HISTORIES: usize = 100;
const EVENTS: usize = 300;

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
    sender: StealthSender,
    receiver: StealthReceiver,
    backup: StealthSender,
    opened: HashSet<u64>,
}

impl History {
    fn new() -> Self {
        Self {
            now: START,
            client_off: 0,
            server_off: 0,
            sender: StealthSender::default(),
            receiver: StealthReceiver { next: 0 },
            backup: StealthSender::default(),
            opened: HashSet::new(),
        }
    }

    fn step(&self, off: i64) -> u64 {
        step_of(u64::try_from((self.now + off).max(0)).unwrap())
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
        Event::Lost => history.sender = StealthSender::default(),
        Event::Restored => history.sender = history.backup,
    }
}

/// Tries once a second after each of many events, and checks that nobody is out for longer than `limit` seconds. The worst.
fn worst(events: &[Event], limit: i64) -> i64 {
    let mut chance = Chance(1);
    let mut worst = 0;
    for _ in 0..HISTORIES {
        let mut history = History::new();
        history.client_off = chance.between(-MAX_OFF, MAX_OFF);
        history.server_off = chance.between(-MAX_OFF, MAX_OFF);
        for _ in 0..EVENTS {
            let event = events[usize::try_from(chance.below(events.len() as u64)).unwrap()];
            happens(event, &mut history, &mut chance);
            worst = worst.max(history.seconds_until_in(limit));
        }
    }
    worst
}

const PAUSES: [Event; 2] = [Event::ShortPause, Event::LongPause];

#[test]
fn clocks_that_are_set_within_half_an_hour_keep_nobody_out() {
    let clocks = [Event::ClientClock, Event::ServerClock];
    assert_eq!(worst(&[&PAUSES[..], &clocks].concat(), 0), 0);
}

#[test]
fn state_that_is_lost_or_restored_keeps_nobody_out_for_longer_than_a_step() {
    let state = [Event::Backup, Event::Lost, Event::Restored];
    assert!(worst(&[&PAUSES[..], &state].concat(), 10) > 0);
}

/// A counter that has run ahead of the clock meets a number that is accepted by the clock once in a step's 256.
#[test]
fn lost_knocks_keep_nobody_out_for_longer_than_a_steps_numbers() {
    let bursts = [Event::Burst(2_000), Event::Backup, Event::Lost, Event::Restored];
    assert!(worst(&[&PAUSES[..], &bursts].concat(), 256) > 10);
}

/// A clock that is set back by as much as it was ahead, and the counter that knew of it lost: what was used is ahead of the
/// clock until that has passed it.
#[test]
fn all_of_it_together_keeps_nobody_out_for_longer_than_the_clocks_may_differ() {
    let all = [
        Event::Burst(2_000),
        Event::ClientClock,
        Event::ServerClock,
        Event::Backup,
        Event::Lost,
        Event::Restored,
    ];
    assert!(worst(&[&PAUSES[..], &all].concat(), 2 * MAX_OFF + 256) > 256);
}

#[test]
fn a_clock_that_is_a_year_off_for_a_while_costs_one_more_knock_afterwards() {
    let mut history = History::new();
    assert!(history.knock());
    history.client_off = YEAR;
    assert!(!history.knock(), "the server knows better");
    history.client_off = 0;
    history.now += 60;
    assert!((0..2).any(|_| history.knock()), "the second is by the clock");
    // At 1970, the counter goes on alone.
    history.client_off = -START;
    assert!((0..2).any(|_| history.knock()));
}
