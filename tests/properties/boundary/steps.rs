//! Numbers of the stealth layout: what a sender sends, what a receiver accepts and what it keeps at hand, by any counter and
//! any clock, beside models kept in wide integers.

use std::collections::BTreeSet;

use knockknock::layout::reach::{LiveNumbers, LiveReach};
use knockknock::layout::steps::{StealthReceiver, StealthSender};

use super::input::Input;

/// A step of the year 2026.
const NOW: u64 = 179_000_000;

/// The bytes as where a sender and a receiver begin, and then as what happens: the clock of one of the two is set, a knock
/// is lost, or it arrives.
pub(crate) fn holds(bytes: &[u8]) -> bool {
    let mut input = Input(bytes);
    let (first, step) = (number(&mut input), clock(&mut input));
    at_hand(&mut input, first, step);

    let mut sender = StealthSender { counter: first, by_clock: 0, clock_is_next: false };
    let mut receiver = StealthReceiver { next: number(&mut input) };
    let (mut sent, mut opened) = (BTreeSet::new(), BTreeSet::new());
    let ([mut of_sender, mut of_receiver], mut was_set_back) = ([step; 2], false);
    for _ in 0..(bytes.len() / 2).min(32) {
        match input.u8() % 4 {
            0 => {
                let before = std::mem::replace(&mut of_sender, clock(&mut input));
                was_set_back |= of_sender < before;
            }
            1 => of_receiver = clock(&mut input),
            arrives => {
                let Some(n) = sender.next(of_sender) else { break };
                // A clock that was ahead and is set back gives numbers that it has given before.
                assert!(sent.insert(n) || was_set_back, "{n} is sent twice");
                if arrives == 3 {
                    let accepted = receiver.accepts(n, of_receiver);
                    assert_eq!(accepted, is_accepted(receiver.next, n, of_receiver), "{n}");
                    if accepted {
                        receiver.accept(n);
                        assert!(opened.insert(n) && receiver.next > n, "{n} opens twice");
                        assert!(opened.iter().all(|n| !receiver.accepts(*n, of_receiver)));
                    }
                }
            }
        }
    }
    !opened.is_empty()
}

/// `docs/protocol.md`, in numbers that cannot overflow.
fn is_accepted(next: u64, n: u64, step: u64) -> bool {
    let [next, n, step] = [next, n, step].map(i128::from);
    let is_near = n < (next + 256).min(i128::from(u64::MAX));
    n >= next && (is_near || n % 256 < 2 && (n / 256 - step).abs() <= 180)
}

/// What is at hand is listed once and in order, is no more than its share, and has all that is accepted meanwhile.
fn at_hand(input: &mut Input<'_>, next: u64, step: u64) {
    let share = u64::from(input.u16() % 1200);
    let Some(reach) = LiveReach::within(share) else {
        assert!(share < LiveReach::LEAST.numbers());
        return;
    };
    let live = LiveNumbers { next, step, reach };
    let listed: Vec<u64> = live.iter().collect();
    assert!(listed.is_sorted_by(|one, other| one < other));
    assert!(u64::try_from(listed.len()).unwrap() <= share);
    assert!(listed.iter().all(|n| *n >= next && live.has(*n)));
    let n = if input.u8() < 128 {
        next.wrapping_add(u64::from(input.u16()) % 600).wrapping_sub(100)
    } else {
        step.wrapping_add(u64::from(input.u8())).wrapping_sub(128).wrapping_mul(256)
            | u64::from(input.u8() % 3)
    };
    assert_eq!(live.has(n), listed.binary_search(&n).is_ok(), "{n}");
    let now = step.saturating_add(u64::from(input.u8()) % (reach.ahead + 1));
    if reach == LiveReach::FULL {
        let is_accepted = (StealthReceiver { next }).accepts(n, now);
        assert!(!is_accepted || live.has(n), "{n} is accepted at {now} and not at hand");
    }
}

/// Near the clock, near either end, or anywhere.
fn number(input: &mut Input<'_>) -> u64 {
    let kind = input.u8();
    let near = u64::from(input.u16());
    match kind % 4 {
        0 => near,
        1 => u64::MAX - near,
        2 => (NOW * 256).wrapping_add(near.wrapping_mul(16)).wrapping_sub(1 << 19),
        _ => u64::from_be_bytes(input.array()),
    }
}

fn clock(input: &mut Input<'_>) -> u64 {
    let kind = input.u8();
    let near = u64::from(input.u16());
    match kind % 8 {
        0 => near,
        1 => u64::MAX - near,
        2 => u64::from_be_bytes(input.array()),
        _ => NOW + near % 512 - 256,
    }
}
