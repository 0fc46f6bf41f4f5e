//! The privileged side against the real kernel: each test in network namespaces of its own, each assertion on an effect.
//!
//! ```text
//!   client ns                          server ns
//!   agent: connects                    agent: listens, splits, asks      helper
//!   c0 10.77.0.2/24 ── veth ── s0 10.77.0.1/24    someone else's firewall: drops by default
//!      fd77::2/64                 fd77::1/64
//! ```
//!
//! Needs root and the feature `e2e`; with the feature `misbehave`, too, it sees the filter kill.
#![cfg(feature = "e2e")]
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]

mod agent;
mod net;

mod confinement;
mod conntrack;
mod deaths;
mod log_rules;
mod nftables;
