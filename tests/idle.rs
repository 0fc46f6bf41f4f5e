//! A daemon that costs nothing while nothing happens. Not among the other end-to-end tests: those write to the kernel's
//! log, which `/dev/kmsg` wakes every reader for, and make files beside the log.
#![cfg(feature = "e2e")]
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::similar_names,
    reason = "clippy does not see that a harness for tests is a test: what cannot go on stops"
)]

/// The end-to-end tests' harness, of which not all is used here.
macro_rules! harness {
    ($($file:literal $module:ident;)*) => {$(
        #[path = $file]
        #[allow(dead_code, reason = "not all of it is used here")]
        mod $module;
    )*};
}
harness! {
    "e2e/cost.rs" cost;
    "e2e/kernel_log.rs" kernel_log;
    "e2e/net.rs" net;
    "e2e/process.rs" process;
    "e2e/site.rs" site;
    "e2e/talk.rs" talk;
}

use std::thread;
use std::time::{Duration, Instant};

use cost::Processes;
use net::{Family, Net};
use site::{Site, logs};

/// As long as neither process may run, and how long such a time is looked for: what else the machine does may write to the
/// kernel's log, or open files in the directories above the log file.
const IDLE: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(300);

#[test]
fn without_a_line_in_the_log_neither_process_runs() {
    for log in logs() {
        let mut site = Site::start(Net::lan(), log, "");
        // Once through everything, so that nothing is left to be done for the first time.
        site.knock(Family::V4, 22);
        let processes = Processes::of(site.daemon().pid());
        let began = Instant::now();
        loop {
            let before = processes.context_switches();
            thread::sleep(IDLE);
            let switches = processes.context_switches() - before;
            if switches == 0 {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{log:?}: {switches} context switches in {IDLE:?}");
        }
        assert!(site.daemon().is_running());
    }
}
