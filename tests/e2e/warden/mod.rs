//! The warden: somebody who watches a host's connection attempts and looks for whatever tells a knock from a real one.
//!
//! ```text
//! recording   what passed the host's interface, with times
//! segment     every field and option of one frame; `packet` is the way back
//! attempt     the SYNs that are no repetitions, and what became of each
//! sides       which are knocks and which are real
//! fields      what a host has one value of            ┐
//! numbers     what is a new number in each SYN        │
//! ports       source ports and 4-tuples               ├ a finding each, by the means of `chance`
//! clock       timestamps against the time             │
//! timing      when the next one comes, what follows   ┘
//! report      all of them, corrected for how many there are
//! ```
//!
//! Everything but `recording` is pure.

pub(crate) mod attempt;
pub(crate) mod chance;
mod clock;
mod fields;
mod numbers;
mod packet;
mod ports;
pub(crate) mod recording;
pub(crate) mod report;
#[cfg(test)]
mod samples;
pub(crate) mod segment;
pub(crate) mod sides;
mod timing;

use report::Report;
use sides::Sides;

/// Looks for what tells the knocks from the real attempts.
pub(crate) fn compare(sides: &Sides<'_>) -> Report {
    let mut findings = fields::findings(sides);
    findings.extend(numbers::findings(sides));
    findings.push(clock::finding(sides));
    findings.extend(ports::findings(sides));
    findings.extend(timing::findings(sides));
    Report { knocks: sides.knocks.len(), real: sides.real.len(), findings }
}
