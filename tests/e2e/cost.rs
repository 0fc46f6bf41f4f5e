//! What the two processes of a daemon have cost so far: memory, CPU time, and how often they were on a CPU at all.
//! Reads `/proc` and nothing else. The benchmarks use it too.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::Pid;

/// The daemon and its helper.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Processes {
    pub(crate) daemon: Pid,
    pub(crate) helper: Pid,
}

/// Memory of one process, in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// What it has in memory.
    pub(crate) rss: u64,
    /// The same, with a page that several processes share counted in parts.
    pub(crate) pss: u64,
}

impl Processes {
    /// The processes of a daemon that is ready.
    pub(crate) fn of(daemon: Pid) -> Self {
        let children =
            fs::read_to_string(format!("/proc/{daemon}/task/{daemon}/children")).unwrap();
        let helper = Pid::from_raw(children.trim().parse().expect("one child, the helper"));
        Self { daemon, helper }
    }

    /// CPU time of all threads of both, in user mode and in the kernel.
    pub(crate) fn cpu(self) -> Duration {
        let nanoseconds = self.each_thread("schedstat", |text| {
            text.split_whitespace().next().unwrap().parse::<u64>().unwrap()
        });
        Duration::from_nanos(nanoseconds)
    }

    /// How often the threads of both were taken off a CPU, by themselves or not: none has run while this stands still.
    pub(crate) fn context_switches(self) -> u64 {
        self.each_thread("status", |text| {
            let switches = text.lines().filter(|line| line.contains("voluntary_ctxt_switches:"));
            switches.map(|line| line.rsplit('\t').next().unwrap().parse::<u64>().unwrap()).sum()
        })
    }

    /// How many threads both have together.
    pub(crate) fn threads(self) -> usize {
        self.tasks().len()
    }

    fn each_thread(self, file: &str, number: impl Fn(&str) -> u64) -> u64 {
        let read = |task: PathBuf| fs::read_to_string(task.join(file)).unwrap();
        self.tasks().into_iter().map(|task| number(&read(task))).sum()
    }

    fn tasks(self) -> Vec<PathBuf> {
        let of = |pid: Pid| fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let both = of(self.daemon).chain(of(self.helper));
        both.map(|entry| entry.unwrap().path()).collect()
    }
}

impl Memory {
    /// What the process has now.
    pub(crate) fn of(process: Pid) -> Self {
        let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap();
        let field = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).expect(name);
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        Self { rss: field("Rss:"), pss: field("Pss:") }
    }
}
