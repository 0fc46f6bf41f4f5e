//! The end-to-end tests: real packets between network namespaces, the real kernel, the real programs.
//!
//! `sudo scripts/test.sh` runs them (cargo feature `e2e`, root). `net` and the modules beside it are the harness.
#![cfg(feature = "e2e")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::similar_names,
    reason = "clippy does not see that a harness for tests is a test: what cannot go on stops"
)]

mod connection;
#[allow(dead_code, reason = "some of it is for the benchmarks, which share it")]
mod cost;
mod delay;
mod ear;
mod kernel_log;
mod laptop;
mod net;
mod process;
mod site;
mod user;
mod warden;
mod wire;

mod beside;
mod broken;
mod check;
mod client_answer;
mod client_connect;
mod client_knock;
mod client_plain;
mod client_stealth;
mod deaths;
mod door;
mod enrolment;
mod firewall_script;
mod flood;
mod forged;
mod grant;
mod guard;
mod guard_copy;
mod handshake;
mod harness;
mod imitation;
mod kernel_syn;
mod lesser_kernel;
mod many;
mod proxy;
mod recipes;
mod resync;
mod rotation;
mod source_port;
mod stealth;
mod stealth_attempts;
mod stealth_client;
mod stealth_profiles;
mod stealth_warden;
mod stealth_wrong;
