//! When the host's next SYN comes, and what follows an attempt.

use super::attempt::{Attempt, Repetition, Then};
use super::chance::same_distribution;
use super::fields::compare;
use super::report::{Finding, Verdict};
use super::sides::Sides;

/// A timestamp that a kernel puts into a repeated SYN is as late as the SYN, but for this much. Milliseconds.
const NEAR: u128 = 50;

/// One finding for each.
pub(super) fn findings(sides: &Sides<'_>) -> Vec<Finding> {
    vec![
        next_syn(sides),
        compare("what follows", sides, what_follows),
        compare("repeated SYN", sides, |attempt| {
            let repetition = attempt.then.iter().find_map(|then| match then {
                Then::Repeated(repetition) => Some(repetition),
                _ => None,
            });
            repetition.map_or_else(|| "none".to_owned(), in_words)
        }),
    ]
}

fn next_syn(sides: &Sides<'_>) -> Finding {
    let [knocks, real] = [&sides.knocks, &sides.real].map(|attempts| -> Vec<f64> {
        let gaps = attempts.iter().filter_map(|attempt| attempt.next);
        gaps.map(|gap| gap.as_secs_f64()).collect()
    });
    let median = |gaps: &[f64]| {
        let mut sorted = gaps.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or_default() * 1000.0
    };
    Finding {
        name: "time to the next SYN".to_owned(),
        verdict: Verdict::Chance(same_distribution(&knocks, &real)),
        detail: format!("median: knocks {:.2} ms; real {:.2} ms", median(&knocks), median(&real)),
    }
}

/// The first two things that follow, each once.
fn what_follows(attempt: &Attempt) -> String {
    let mut words: Vec<&str> = attempt
        .then
        .iter()
        .map(|then| match then {
            Then::Refused => "RST",
            Then::Accepted => "SYN-ACK",
            Then::Acknowledged => "ACK",
            Then::BrokenOff => "RST of the host",
            Then::Repeated(_) => "SYN again",
        })
        .collect();
    words.dedup();
    words.truncate(2);
    if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
}

fn in_words(repetition: &Repetition) -> String {
    let Repetition { after, id_step, has_other_flow, timestamp_step } = repetition;
    let mut words = vec![format!("after {:.0} s", after.as_secs_f64())];
    words.extend(id_step.map(|step| format!("ID + {step}")));
    words.extend(has_other_flow.map(|other| if other { "other flow" } else { "same flow" }.into()));
    words.extend(timestamp_step.map(|step| {
        let is_near = after.as_millis().abs_diff(step.into()) <= NEAR;
        if is_near { "timestamp as late" } else { "timestamp not as late" }.into()
    }));
    words.join("; ")
}
