//! What the daemon costs while nothing happens: wake-ups, system calls, memory.

use std::io;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cost::{Memory, Processes};
use crate::kernel_log::Framing;
use crate::net::Net;
use crate::rules::rest;
use crate::site::{Log, Site};
use crate::support::measure::Table;

/// Both sources sleep through this.
const IDLE: Duration = Duration::from_secs(10);

pub(crate) fn run() {
    let mut table = Table::new([
        "source",
        "profiles",
        "threads",
        "context switches",
        "system calls",
        "daemon RSS",
        "daemon PSS",
        "helper RSS",
        "helper PSS",
    ]);
    for (name, log) in [("kmsg", Log::Kmsg), ("file", Log::File(Framing::Traditional))] {
        for profiles in [10, 10_000] {
            println!("{name}, {profiles} profiles ...");
            let mut site = Site::prepare(Net::lan(), log, "");
            site.add_profiles(20_000, profiles - 2);
            site.start_daemon();
            let processes = Processes::of(site.daemon().pid());
            rest(Duration::from_secs(1));
            let before = processes.context_switches();
            rest(IDLE);
            let switches = processes.context_switches() - before;
            let [daemon, helper] = [processes.daemon, processes.helper].map(Memory::of);
            table.row([
                name.into(),
                profiles.to_string(),
                processes.threads().to_string(),
                switches.to_string(),
                system_calls(processes),
                kib(daemon.rss),
                kib(daemon.pss),
                kib(helper.rss),
                kib(helper.pss),
            ]);
        }
    }
    table.print(&format!("Idle for {} s", IDLE.as_secs()));
}

fn kib(size: u64) -> String {
    format!("{size} KiB")
}

/// The system calls that both processes finish while they are idle, as strace tells of them. Into a pipe: a file could
/// lie below a directory that the daemon watches for its log.
fn system_calls(processes: Processes) -> String {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq"]);
    for process in [processes.daemon, processes.helper] {
        strace.args(["-p", &process.to_string()]);
    }
    let Ok(mut strace) = strace.stderr(Stdio::piped()).spawn() else {
        return "strace is not installed".into();
    };
    let mut told = strace.stderr.take().unwrap();
    let told = thread::spawn(move || io::read_to_string(&mut told).unwrap());
    rest(IDLE);
    kill(Pid::from_raw(strace.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    strace.wait().unwrap();
    let told = told.join().unwrap();
    assert!(told.contains("<detached ...>"), "strace could not look on: {told}");
    // Those that were waited in all the time have no result.
    told.lines().filter(|line| line.contains(") = ")).count().to_string()
}
