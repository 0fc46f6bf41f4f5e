//! The fields that are a new number in each SYN: sequence number, timestamp, IP ID, flow label.
//!
//! Whether a number is uniform is asked of the knocks alone, and only where the real ones are; whether both are alike, of
//! both. So a host whose own numbers are not uniform is judged by them.

use super::attempt::Attempt;
use super::chance::{at_least, fair, least, number, same_counts, same_distribution, uniform};
use super::report::{Finding, Verdict};
use super::segment::Ip;
use super::sides::Sides;

/// Below this p-value the real ones are not uniform.
const NOT_UNIFORM: f64 = 1e-6;

/// So many of each are needed to say anything.
const ENOUGH: usize = 20;

/// A number that a SYN may have.
struct Field {
    name: &'static str,
    /// Its length in bits, at most 32.
    bits: u32,
    value: fn(&Attempt) -> Option<u32>,
}

const FIELDS: [Field; 4] = [
    Field { name: "sequence", bits: 32, value: |attempt| Some(attempt.syn.sequence) },
    Field {
        name: "timestamp",
        bits: 32,
        value: |attempt| attempt.syn.timestamps().map(|(value, _)| value),
    },
    Field {
        name: "ID",
        bits: 16,
        value: |attempt| match attempt.syn.ip {
            Ip::V4 { id, .. } => Some(id.into()),
            Ip::V6 { .. } => None,
        },
    },
    Field {
        name: "flow label",
        bits: 20,
        value: |attempt| match attempt.syn.ip {
            Ip::V4 { .. } => None,
            Ip::V6 { flow_label, .. } => Some(flow_label),
        },
    },
];

/// The findings of each number that the real attempts have.
pub(super) fn findings(sides: &Sides<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for Field { name, bits, value } in FIELDS {
        let values = |attempts: &[&Attempt]| -> Vec<u32> {
            attempts.iter().filter_map(|attempt| value(attempt)).collect()
        };
        let (knocks, real) = (values(&sides.knocks), values(&sides.real));
        if real.len() >= ENOUGH {
            findings.extend(of_number(name, bits, &knocks, &real));
        }
    }
    findings
}

fn of_number(name: &str, bits: u32, knocks: &[u32], real: &[u32]) -> Vec<Finding> {
    let finding = |statistic: &str, (verdict, detail)| Finding {
        name: format!("{name}: {statistic}"),
        verdict,
        detail,
    };
    if knocks.len() < ENOUGH {
        let detail = format!("{} knocks have one", knocks.len());
        return vec![finding("uniform bytes", (Verdict::Nothing, detail))];
    }
    let steps = [knocks, real].map(|values| steps(values, bits));
    vec![
        finding("uniform bytes", alone(knocks, real, |values| uniform_bytes(values, bits))),
        finding("uniform bits", alone(knocks, real, |values| uniform_bits(values, bits))),
        finding("uniform steps", alone(&steps[0], &steps[1], |steps| uniform_bytes(steps, bits))),
        finding("value twice", alone(knocks, real, |values| twice(values, bits))),
        finding("as the real ones'", together(knocks, real, bits)),
        finding("steps as the real ones'", together(&steps[0], &steps[1], bits)),
    ]
}

/// What holds of the knocks, where it holds of the real ones.
fn alone(knocks: &[u32], real: &[u32], p: impl Fn(&[u32]) -> f64) -> (Verdict, String) {
    let real = p(real);
    if real < NOT_UNIFORM {
        return (Verdict::Nothing, format!("does not hold of the real ones (p = {real:.0e})"));
    }
    (Verdict::Chance(p(knocks)), format!("real ones alone: p = {real:.3}"))
}

fn together(knocks: &[u32], real: &[u32], bits: u32) -> (Verdict, String) {
    let floats = |values: &[u32]| values.iter().copied().map(f64::from).collect::<Vec<_>>();
    let distribution = same_distribution(&floats(knocks), &floats(real));
    let fewer = knocks.len().min(real.len());
    let bytes = shifts(bits).map(|(shift, width)| {
        let (one, other) = (count(knocks, shift, width, fewer), count(real, shift, width, fewer));
        same_counts(&one, &other)
    });
    let mut all: Vec<f64> = bytes.collect();
    all.push(distribution);
    (Verdict::Chance(least(&all)), format!("Kolmogorov-Smirnov alone: p = {distribution:.3}"))
}

/// The bytes of a number: how far each is from its end, and how many bits it has.
fn shifts(bits: u32) -> impl Iterator<Item = (u32, u32)> {
    (0..bits).step_by(8).map(move |shift| (shift, (bits - shift).min(8)))
}

/// How often a byte has each of its values; its upper half alone where there are few numbers.
fn count(values: &[u32], shift: u32, width: u32, of: usize) -> Vec<usize> {
    let cut = if of < 10 << width { width.saturating_sub(4) } else { 0 };
    let mut counts = vec![0; 1 << (width - cut)];
    for value in values {
        let cell = value >> shift & ((1 << width) - 1);
        counts[usize::try_from(cell >> cut).unwrap()] += 1;
    }
    counts
}

fn uniform_bytes(values: &[u32], bits: u32) -> f64 {
    let p = |(shift, width)| uniform(&count(values, shift, width, values.len()));
    least(&shifts(bits).map(p).collect::<Vec<_>>())
}

fn uniform_bits(values: &[u32], bits: u32) -> f64 {
    let p = |bit| {
        let set = values.iter().filter(|value| *value >> bit & 1 == 1).count();
        fair(set, values.len() - set)
    };
    least(&(0..bits).map(p).collect::<Vec<_>>())
}

/// From each number to the next, modulo their range.
fn steps(values: &[u32], bits: u32) -> Vec<u32> {
    let mask = u32::MAX >> (32 - bits);
    values.windows(2).map(|pair| pair[1].wrapping_sub(pair[0]) & mask).collect()
}

/// How likely it is that so many numbers, or more, were there before.
fn twice(values: &[u32], bits: u32) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let pairs = number(values.len()) * number(values.len().saturating_sub(1)) / 2.0;
    at_least(values.len() - sorted.len(), pairs / 2.0_f64.powi(i32::try_from(bits).unwrap()))
}
