//! End-to-end tests that need the kernel's log for themselves: one in which nothing must be logged, and one that logs
//! more than the kernel keeps. The others write to that log all the time, and none may miss a line.
#![cfg(feature = "e2e")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::similar_names,
    reason = "clippy does not see that a harness for tests is a test: what cannot go on stops"
)]

#[macro_use]
#[path = "support/harness.rs"]
mod harness;

harness! {
    "e2e/cost.rs" cost;
    "e2e/kernel_log.rs" kernel_log;
    "e2e/net.rs" net;
    "e2e/process.rs" process;
    "e2e/site.rs" site;
    "e2e/connection.rs" connection;
    "e2e/laptop.rs" laptop;
    "e2e/wire.rs" wire;
}

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::thread;
use std::time::{Duration, Instant};

use cost::Processes;
use laptop::Laptop;
use net::{Family, Net};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use site::{Log, Site, logs};

/// As long as neither process may run, and how long such a time is looked for: what else the machine does may write to the
/// kernel's log, or open files in the directories above the log file.
const IDLE: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(300);

#[test]
fn without_a_line_in_the_log_neither_process_runs() {
    for log in logs() {
        let mut site = Site::prepare(Net::lan(), log, "");
        // Its numbers move with the clock, but not within ten seconds.
        Laptop::new(&site, "laptop", "");
        site.start_daemon();
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

#[test]
fn records_that_were_overwritten_are_told_of_and_the_next_knock_is_heard() {
    let mut site = Site::start(Net::lan(), Log::Kmsg, "");
    // The number of the last record that was read tells how many are missing afterwards.
    site.knock(Family::V4, 22);
    let daemon = site.daemon().pid();
    kill(daemon, Signal::SIGSTOP).unwrap();
    let written = overrun_kernel_log();
    kill(daemon, Signal::SIGCONT).unwrap();
    let said = site.wait_for("records were overwritten before they were read");
    let lost = said.split_whitespace().find_map(|word| word.parse::<usize>().ok());
    let lost = lost.unwrap_or_else(|| panic!("no number in {said:?}"));
    // Others may have logged a little, too.
    assert!((1..=2 * written).contains(&lost), "{lost} of {written}");
    site.knock(Family::V6, 22);
}

/// Writes to the kernel's log until it has dropped what was there before. Says how many records that took. At a pace at
/// which whoever is awake reads all of it: daemons of other test runs follow the same log.
fn overrun_kernel_log() -> usize {
    let (mut asleep, mut awake) = (kernel_log_reader(), kernel_log_reader());
    for round in 1..10_000 {
        // Each who opens it may write ten records and must then wait (`printk_devkmsg`).
        let mut log = OpenOptions::new().write(true).open("/dev/kmsg").unwrap();
        for _ in 0..8 {
            log.write_all(&[b"<7>", &[b'.'; 900][..], b"\n"].concat()).unwrap();
        }
        poll(&mut [PollFd::new(awake.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
        while awake.read(&mut [0; 8192]).is_ok() {}
        // Too little room for any record: one is passed over.
        match asleep.read(&mut [0; 1]).map_err(|why| why.raw_os_error()) {
            Err(Some(libc::EPIPE)) => return 8 * round,
            looked => assert_eq!(looked, Err(Some(libc::EINVAL))),
        }
    }
    panic!("the kernel keeps it all");
}

fn kernel_log_reader() -> File {
    let mut options = OpenOptions::new();
    let mut reader = options.read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").unwrap();
    reader.seek(SeekFrom::End(0)).unwrap();
    reader
}
