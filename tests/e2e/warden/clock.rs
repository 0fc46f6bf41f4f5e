//! Whether timestamps lie on one line of time: on some kernels all connections of two hosts share a clock, on others each
//! has an offset of its own.

use super::attempt::Attempt;
use super::chance::{least, same_share};
use super::report::{Finding, Verdict};
use super::sides::Sides;

/// Ticks a second that systems are known to use: Linux 1000 since 4.13, before that 100 to 1000; others 1000, 10 or 2.
const RATES: [f64; 6] = [1000.0, 300.0, 250.0, 100.0, 10.0, 2.0];

/// Half of how far off its line a timestamp may be, in seconds, and in ticks at least.
const NEAR: f64 = 0.05;
const NEAR_TICKS: f64 = 1.0;

const RANGE: f64 = 4_294_967_296.0;

/// The finding.
pub(super) fn finding(sides: &Sides<'_>) -> Finding {
    let mut all = Vec::new();
    let mut best = [0; 2];
    for rate in RATES {
        let offsets = [&sides.knocks, &sides.real].map(|attempts| offsets(attempts, rate));
        let width = (NEAR * rate).max(NEAR_TICKS) * 2.0;
        // The line of each side, and how many of the other lie on it as well.
        for side in 0..2 {
            let Some(line) = busiest(&offsets[side], width) else { continue };
            let on_line = [0, 1].map(|side| {
                let on = offsets[side].iter().filter(|offset| is_on(line, **offset, width)).count();
                [on, offsets[side].len() - on]
            });
            all.push(same_share(on_line[0], on_line[1]));
            best[side] = best[side].max(on_line[side][0]);
        }
    }
    let name = "timestamp: one clock for all".to_owned();
    if all.is_empty() {
        return Finding { name, verdict: Verdict::Nothing, detail: "none has one".to_owned() };
    }
    let detail = format!("at most on one line: {} knocks; {} real", best[0], best[1]);
    Finding { name, verdict: Verdict::Chance(least(&all)), detail }
}

/// Where the line of each timestamp begins, at a number of ticks a second, from the first attempt on.
fn offsets(attempts: &[&Attempt], rate: f64) -> Vec<f64> {
    attempts
        .iter()
        .filter_map(|attempt| {
            let (value, _) = attempt.syn.timestamps()?;
            // Whole seconds since 1970 times a rate would be too large a number: each second counts alone.
            let seconds = (f64::from(u32::try_from(attempt.at.as_secs()).ok()?) * rate) % RANGE;
            let ticks = seconds + f64::from(attempt.at.subsec_micros()) * rate / 1e6;
            Some((f64::from(value) - ticks).rem_euclid(RANGE))
        })
        .collect()
}

/// Where, on the circle, a stretch of this width begins that has the most offsets.
fn busiest(offsets: &[f64], width: f64) -> Option<f64> {
    let mut sorted = offsets.to_vec();
    sorted.sort_by(f64::total_cmp);
    let circle: Vec<f64> =
        sorted.iter().copied().chain(sorted.iter().map(|at| at + RANGE)).collect();
    let mut end = 0;
    let within = |(begin, from): (usize, &f64)| {
        while circle.get(end).is_some_and(|at| at - from <= width) {
            end += 1;
        }
        (end - begin, *from)
    };
    let counts: Vec<(usize, f64)> = sorted.iter().enumerate().map(within).collect();
    counts.into_iter().max_by_key(|(count, _)| *count).map(|(_, from)| from)
}

fn is_on(line: f64, offset: f64, width: f64) -> bool {
    (offset - line).rem_euclid(RANGE) <= width
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_stretch_may_lie_across_the_end_of_the_range() {
        let offsets = [RANGE - 30.0, 1000.0, 5.0, 500.0, RANGE - 1.0];
        assert_eq!(busiest(&offsets, 100.0), Some(RANGE - 30.0));
        assert_eq!(offsets.iter().filter(|at| is_on(RANGE - 30.0, **at, 100.0)).count(), 3);
        assert_eq!(busiest(&[], 100.0), None);
    }
}
