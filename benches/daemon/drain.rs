//! A million junk lines and a knock at their end, in the file that the daemon follows; `grep` and `wc` beside it.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

use crate::cost::{Memory, Processes};
use crate::knocker::Knocker;
use crate::latency::CONFIG;
use crate::net::Net;
use crate::process::Running;
use crate::rules::{Key, RuleEvents, rest};
use crate::site::{KNOCK_PORT, Log, Site};
use crate::support::lines::{junk, knock_line};
use crate::support::measure::{Samples, Table, rate, seconds, time};

const ROUNDS: usize = 9;
const LINES: usize = 1_000_000;
/// Lines for the knock port itself cost more each.
const WRONG_KNOCKS: usize = 100_000;

pub(crate) fn run() {
    let site = Site::prepare(Net::lan(), Log::Kmsg, CONFIG);
    site.add_profiles(700, 8);
    let path = site.net.path("kern.log");
    let daemon = follow(&site, &path);
    let mut followed = Followed {
        path: &path,
        prefix: &site.net.prefix,
        processes: Processes::of(daemon.pid()),
        rules: RuleEvents::of(&site.net.server),
        knocker: Knocker::of(&site),
    };
    let before = Memory::of(daemon.pid());

    let elsewhere = site.net.path("junk.log");
    let others =
        junk(LINES, "REJECT ", |random| 1000 + u16::try_from(random.below(60_000)).unwrap());
    fs::write(&elsewhere, &others).unwrap();
    let here = site.net.path("wrong.log");
    let wrong = junk(WRONG_KNOCKS, followed.prefix, |_| KNOCK_PORT);
    fs::write(&here, &wrong).unwrap();
    let (bytes, wrong_bytes) = (others.len(), wrong.len());
    drop((others, wrong));

    let mut times: [(Samples, Samples); 5] = Default::default();
    for _ in 0..ROUNDS {
        let taken = [
            program(&["wc", "-l"], &elsewhere, LINES),
            program(&["grep", "-cF", "DPT=666 "], &elsewhere, 0),
            followed.renamed_to(&elsewhere),
            followed.appended_to(&elsewhere),
            followed.renamed_to(&here),
        ];
        for ((wall, cpu), taken) in times.iter_mut().zip(taken) {
            wall.add_time(taken.wall);
            cpu.add_time(taken.cpu);
        }
    }
    let after = Memory::of(daemon.pid());

    let names = [
        "`wc -l`",
        "`grep -cF 'DPT=666 '`",
        "knock-daemon, the file renamed into place",
        "knock-daemon, the file appended with `cat >>`, writing included",
        "knock-daemon, all lines for its knock port",
    ];
    let grep = times[1].0.median();
    let mut table = Table::new([
        "",
        "until done",
        "by grep's",
        "CPU seconds a million lines",
        "lines",
        "bytes",
    ]);
    for (nth, (name, (wall, cpu))) in names.iter().zip(&times).enumerate() {
        let (lines, bytes) = if nth == 4 { (WRONG_KNOCKS, wrong_bytes) } else { (LINES, bytes) };
        let a_million = 1e6 / lines as f64;
        table.row([
            (*name).into(),
            wall.show(seconds),
            if nth == 4 { String::new() } else { format!("{:.2}", wall.median() / grep) },
            cpu.show(|cpu| format!("{:.3}", cpu * a_million)),
            rate(lines as f64 / wall.median(), " lines"),
            rate(bytes as f64 / wall.median(), "B"),
        ]);
    }
    table.print(&format!(
        "Draining a log ({ROUNDS} rounds in turns; {LINES} lines of junk, {} MB, {WRONG_KNOCKS} for the knock port; \
         then a valid knock, acted on)",
        bytes / 1_000_000
    ));
    println!(
        "\nRSS of the daemon before and after {} million lines: {} and {} KiB",
        (ROUNDS * (2 * LINES + WRONG_KNOCKS)) as f64 / 1e6,
        before.rss,
        after.rss
    );
}

/// A daemon that follows a file of ours and is ready.
pub(crate) fn follow(site: &Site, path: &Path) -> Running {
    fs::write(path, "").unwrap();
    let mut command = site.net.server.command(env!("CARGO_BIN_EXE_knock-daemon"));
    command
        .arg("--config-dir")
        .arg(site.config_dir())
        .args(["--user", "nobody", "--log"])
        .arg(path);
    let mut daemon = Running::start(&mut command);
    daemon.wait_for_line("ready", |line| line == "ready");
    daemon
}

/// Until it was done, and the CPU time that it took.
struct Taken {
    wall: Duration,
    cpu: Duration,
}

/// A program over the same file, from its start to its end.
fn program(words: &[&str], file: &Path, finds: usize) -> Taken {
    let cpu = || {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
        let both = [usage.user_time(), usage.system_time()];
        let microseconds = both.map(|time| time.tv_sec() * 1_000_000 + time.tv_usec());
        Duration::from_micros(microseconds.iter().sum::<i64>().unsigned_abs())
    };
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(file).env("LC_ALL", "C").stderr(Stdio::null());
    let before = cpu();
    let (wall, output) = time(|| command.output().unwrap());
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.split_whitespace().next(), Some(finds.to_string().as_str()), "{words:?}");
    Taken { wall, cpu: cpu().saturating_sub(before) }
}

/// The daemon and the file that it follows.
struct Followed<'a> {
    path: &'a Path,
    prefix: &'a str,
    processes: Processes,
    rules: RuleEvents,
    knocker: Knocker,
}

impl Followed<'_> {
    /// A copy of `lines` and a knock come to the path at once: what reading alone takes.
    fn renamed_to(&mut self, lines: &Path) -> Taken {
        let next = self.path.with_extension("next");
        fs::copy(lines, &next).unwrap();
        let (key, knock) = self.knock();
        let mut file = File::options().append(true).open(&next).unwrap();
        file.write_all(knock.as_bytes()).unwrap();
        // So that nothing is left to be written to the disk while we measure.
        file.sync_all().unwrap();
        self.measure(&key, || fs::rename(&next, self.path).unwrap())
    }

    /// `lines` and a knock are appended while the daemon reads.
    fn appended_to(&mut self, lines: &Path) -> Taken {
        let (key, knock) = self.knock();
        let last = self.path.with_extension("knock");
        fs::write(&last, knock).unwrap();
        let path = self.path.to_owned();
        self.measure(&key, || {
            let log = File::options().append(true).open(path).unwrap();
            let mut cat = Command::new("cat");
            assert!(cat.arg(lines).arg(last).stdout(log).status().unwrap().success());
        })
    }

    fn knock(&mut self) -> (Key, String) {
        let (port, fields) = self.knocker.knock();
        let line = knock_line(self.prefix, self.knocker.address, KNOCK_PORT, &fields);
        (Key::new(self.knocker.address, port), line)
    }

    /// From `begin` until the grant is in the kernel; CPU time until both processes sleep again.
    fn measure(&self, key: &Key, begin: impl FnOnce()) -> Taken {
        self.rest();
        let before = self.processes.cpu();
        let start = Instant::now();
        begin();
        let wall = self.rules.wait_for(key) - start;
        self.rest();
        Taken { wall, cpu: self.processes.cpu().saturating_sub(before) }
    }

    /// Waits until neither process has run for a while.
    fn rest(&self) {
        let mut before = self.processes.context_switches();
        loop {
            rest(Duration::from_millis(100));
            let now = self.processes.context_switches();
            if now == before {
                return;
            }
            before = now;
        }
    }
}
