//! Source ports: which, how they climb, and what is used a second time.

use std::collections::HashSet;
use std::net::SocketAddr;

use super::attempt::{Again, Attempt, FIRST_PORT, LAST_PORT};
use super::chance::{number, same_counts, same_distribution, same_share};
use super::fields::compare;
use super::report::{Finding, Verdict};
use super::sides::Sides;

/// Linux goes up by 2 to 16. All longer steps count as one: mostly they begin a new run.
const STEPS: usize = 33;

/// So far, in seconds, may a sequence number be from where the clock of its 4-tuple should have it: a busy machine may wait
/// between making a SYN and sending it. A random one is as near by chance in one case of 275.
const NEAR: f64 = 0.5;

/// One finding for each.
pub(super) fn findings(sides: &Sides<'_>) -> Vec<Finding> {
    let port = |attempt: &Attempt| attempt.syn.source.port();
    let range = compare("source port: range", sides, |attempt| match port(attempt) {
        ..FIRST_PORT => format!("below {FIRST_PORT}"),
        FIRST_PORT..=LAST_PORT => format!("{FIRST_PORT} to {LAST_PORT}"),
        _ => format!("above {LAST_PORT}"),
    });
    let parity = compare("source port: parity", sides, |attempt| {
        if port(attempt).is_multiple_of(2) { "even" } else { "odd" }.to_owned()
    });
    let too_soon = compare("4-tuple: used too soon", sides, |attempt| {
        match attempt.again {
            Some(again) if again.is_too_soon => "within a cycle of ports",
            _ => "no",
        }
        .to_owned()
    });
    let before = [used_before(sides), how_soon(sides), clock(sides)];
    [range, parity, steps(sides), too_soon].into_iter().chain(before).collect()
}

fn steps(sides: &Sides<'_>) -> Finding {
    let all = [&sides.knocks, &sides.real].map(|attempts| -> Vec<usize> {
        attempts.iter().filter_map(|attempt| attempt.port_step.map(usize::from)).collect()
    });
    let count = |steps: &[usize]| {
        let mut counts = vec![0; STEPS + 1];
        for step in steps {
            counts[(*step).min(STEPS)] += 1;
        }
        counts
    };
    let mean = |steps: &[usize]| {
        let short: Vec<usize> = steps.iter().copied().filter(|step| *step < STEPS).collect();
        number(short.iter().sum()) / number(short.len().max(1))
    };
    let long = all.each_ref().map(|steps| steps.iter().filter(|step| **step >= STEPS).count());
    let detail = format!(
        "knocks: {:.1} on average, {} longer than 32; real: {:.1}, {}",
        mean(&all[0]),
        long[0],
        mean(&all[1]),
        long[1]
    );
    let verdict = Verdict::Chance(same_counts(&count(&all[0]), &count(&all[1])));
    Finding { name: "source port: steps".to_owned(), verdict, detail }
}

fn again<'a>(attempts: &'a [&Attempt]) -> impl Iterator<Item = (&'a Attempt, Again)> {
    attempts.iter().filter_map(|attempt| attempt.again.map(|again| (*attempt, again)))
}

/// A run that meets ports that were used before meets many. So each counts once, however many.
fn used_before(sides: &Sides<'_>) -> Finding {
    let [knocks, real] = [&sides.knocks, &sides.real].map(|attempts| {
        let all: HashSet<_> = attempts.iter().map(|attempt| run(attempt)).collect();
        let met: HashSet<_> = again(attempts).map(|(attempt, _)| run(attempt)).collect();
        [met.len(), all.len() - met.len()]
    });
    let counts = [&sides.knocks, &sides.real].map(|attempts| again(attempts).count());
    Finding {
        name: "4-tuple: used before".to_owned(),
        verdict: Verdict::Chance(same_share(knocks, real)),
        detail: format!(
            "knocks: {} in {} of {} runs; real: {} in {} of {}",
            counts[0],
            knocks[0],
            knocks[0] + knocks[1],
            counts[1],
            real[0],
            real[0] + real[1]
        ),
    }
}

/// Of each run, the first.
fn how_soon(sides: &Sides<'_>) -> Finding {
    let [knocks, real] = [&sides.knocks, &sides.real].map(|attempts| -> Vec<f64> {
        let mut met = HashSet::new();
        let first = again(attempts).filter(|(attempt, _)| met.insert(run(attempt)));
        first.map(|(attempt, again)| number(attempt.index - again.earlier)).collect()
    });
    let least = |of: &[f64]| of.iter().copied().reduce(f64::min);
    let detail = match (least(&knocks), least(&real)) {
        (None, None) => "none is".to_owned(),
        (knocks, real) => {
            let words = |least: Option<f64>| least.map_or("never".to_owned(), |n| n.to_string());
            format!("attempts between, at least: knocks {}; real {}", words(knocks), words(real))
        }
    };
    Finding {
        name: "4-tuple: how soon again".to_owned(),
        verdict: Verdict::Chance(same_distribution(&knocks, &real)),
        detail,
    }
}

fn run(attempt: &Attempt) -> (SocketAddr, usize) {
    (attempt.syn.destination, attempt.run)
}

/// A kernel's sequence numbers of one 4-tuple lie on a clock (RFC 6528). Those of two SYNs of which one is a knock do not.
fn clock(sides: &Sides<'_>) -> Finding {
    let is_real = |index: usize| sides.real.iter().any(|attempt| attempt.index == index);
    let (mut pairs, mut off) = ([0; 2], [0; 2]);
    for (attempt, again) in again(&sides.knocks).chain(again(&sides.real)) {
        let side = usize::from(is_real(attempt.index) && is_real(again.earlier));
        pairs[side] += 1;
        off[side] += usize::from(again.off_clock > NEAR);
    }
    let detail = format!(
        "off the clock: {} of {} with a knock; {} of {} real ones",
        off[0], pairs[0], off[1], pairs[1]
    );
    let verdict = match (pairs[0], off) {
        (0, _) => Verdict::Nothing,
        (_, [with_knock, 0]) if with_knock > 0 => Verdict::Differs,
        _ => Verdict::Chance(same_share([off[0], pairs[0] - off[0]], [off[1], pairs[1] - off[1]])),
    };
    Finding { name: "4-tuple: sequence on its clock".to_owned(), verdict, detail }
}
