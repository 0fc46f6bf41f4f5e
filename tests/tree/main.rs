//! Checks the dependency rules of docs/architecture.md: who may use what, no cycles between files or directories, one name
//! for one type, where `unsafe` is allowed, and how much code runs with a privilege. A failure names the line and the
//! reason for the rule.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::format_collect,
    clippy::print_stdout,
    reason = "a test that cannot go on stops"
)]

mod budget;
mod graph;
mod order;
mod privileged;
mod rules;
mod source;
