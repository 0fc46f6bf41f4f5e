//! The real daemon, end to end: how fast it follows a log, what it costs while nothing happens, and how long after a
//! knock the door is open. `sudo scripts/bench.sh` runs it; the networks are those of the end-to-end tests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    reason = "a benchmark that cannot go on stops, and printing is what it is for"
)]

#[path = "../support/mod.rs"]
mod support;

#[macro_use]
#[path = "../../tests/support/harness.rs"]
mod harness;

harness! {
    "../../tests/e2e/cost.rs" cost;
    "../../tests/e2e/kernel_log.rs" kernel_log;
    "../../tests/e2e/net.rs" net;
    "../../tests/e2e/process.rs" process;
    "../../tests/e2e/site.rs" site;
    "../../tests/e2e/connection.rs" connection;
    "../../tests/e2e/laptop.rs" laptop;
    "../../tests/e2e/wire.rs" wire;
}

mod drain;
mod flood;
mod idle;
mod knocker;
mod latency;
mod rules;
mod shut;
mod stealth;
mod torrent;

use nix::unistd::geteuid;

fn main() {
    if !geteuid().is_root() {
        println!("daemon: skipped, it makes network namespaces: sudo scripts/bench.sh runs it");
        return;
    }
    // Cargo adds --bench; a name picks one part.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let parts: [(&str, fn()); 6] = [
        ("idle", idle::run),
        ("drain", drain::run),
        ("latency", latency::run),
        ("shut", shut::run),
        ("flood", flood::run),
        ("stealth", stealth::run),
    ];
    for (name, run) in parts {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            run();
        }
    }
}
