//! What the tests of the file source share: a follower on its own thread, a writer that never stops, and waiting for a
//! condition (never for a time).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use knockknock::daemon::log_source::error::Report;
use knockknock::daemon::log_source::port_filter::{PortSet, wanted_lines};
use knockknock::daemon::log_source::{LogChoice, LogSource, OpenedLog};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Gid, Uid, geteuid, pipe, setfsgid, setfsuid};

/// Much longer than anything takes on a machine that is busy with other things; only a failure waits so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until the condition holds.
#[track_caller]
pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A line with a number, about as long as the kernel's lines, that the source finds worth handing on.
pub(crate) fn line(number: u64) -> String {
    format!(
        "Nov 20 09:39:15 server kernel: [{:5}.{:06}] REJECT IN=eth0 OUT= SRC=192.0.2.7 DST=198.51.100.1 LEN=60 \
         PROTO=TCP SPT=1024 DPT=666 SEQ={number} ACK=0 WINDOW=1024 RES=0x00 SYN URGP=0 OPT (020405B4) \n",
        number / 1_000_000,
        number % 1_000_000
    )
}

/// The number of such a line, if it is one and whole.
pub(crate) fn number(text: &[u8]) -> Option<u64> {
    let text = str::from_utf8(text).ok()?;
    let number = text.split_once(" SEQ=")?.1.split_once(' ')?.0.parse().ok()?;
    (text == line(number).trim_end_matches('\n')).then_some(number)
}

/// The numbers of the lines in a file.
pub(crate) fn numbers_in(path: &Path) -> Vec<u64> {
    let content = std::fs::read(path).unwrap_or_default();
    content.split(|byte| *byte == b'\n').filter_map(|text| number(without_nuls(text))).collect()
}

fn without_nuls(text: &[u8]) -> &[u8] {
    &text[text.iter().take_while(|byte| **byte == 0).count()..]
}

/// The lines that were read, and what was reported.
#[derive(Default)]
pub(crate) struct Turn {
    pub(crate) lines: Vec<Vec<u8>>,
    pub(crate) reports: Vec<Report>,
}

/// A source that is read on its own thread, as the daemon reads it: waits for the descriptor, then reads a piece.
pub(crate) struct Follower {
    heard: Arc<Mutex<Turn>>,
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    pub(crate) fn start(path: &Path) -> Self {
        Self::start_as(path, false)
    }

    /// As the daemon is: opened with privileges, watched and read without.
    pub(crate) fn start_unprivileged(path: &Path) -> Self {
        Self::start_as(path, true)
    }

    fn start_as(path: &Path, unprivileged: bool) -> Self {
        let opened = OpenedLog::open(&LogChoice::File(path.to_owned())).unwrap();
        let heard = Arc::new(Mutex::new(Turn::default()));
        let theirs = Arc::clone(&heard);
        let (stopped, stop) = pipe().unwrap();
        let (started, wait) = mpsc::channel();
        let thread = thread::spawn(move || {
            if unprivileged && geteuid().is_root() {
                // Per thread, unlike setuid: what this thread opens is judged as nobody's.
                setfsgid(Gid::from_raw(65534));
                setfsuid(Uid::from_raw(65534));
            }
            let source = opened.watch().unwrap();
            started.send(()).unwrap();
            follow(source, &stopped, &theirs);
        });
        wait.recv().unwrap();
        Self { heard, stop: Some(stop), thread: Some(thread) }
    }

    /// The numbers of the whole lines that were handed on, in that order.
    pub(crate) fn seen(&self) -> Vec<u64> {
        self.heard.lock().unwrap().lines.iter().filter_map(|line| number(line)).collect()
    }

    pub(crate) fn last(&self) -> Option<u64> {
        self.heard.lock().unwrap().lines.iter().rev().find_map(|line| number(line))
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.heard
            .lock()
            .unwrap()
            .lines
            .iter()
            .map(|line| line.escape_ascii().to_string())
            .collect()
    }

    pub(crate) fn reports(&self) -> Vec<Report> {
        self.heard.lock().unwrap().reports.clone()
    }

    #[track_caller]
    pub(crate) fn wait_for(&self, number: u64) {
        wait_until(&format!("line {number} is read"), || self.last() >= Some(number));
    }

    /// Waits until a line is read that the writer writes after this call.
    ///
    /// A log that becomes another twice before anybody could look is not what these tests are about.
    #[track_caller]
    pub(crate) fn catch_up(&self, writer: &Writer) {
        self.wait_for(writer.written());
    }

    #[track_caller]
    pub(crate) fn wait_for_report(&self, report: &Report) {
        wait_until(&format!("it is reported: {report}"), || self.reports().contains(report));
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

fn follow(mut source: LogSource, stopped: &OwnedFd, heard: &Mutex<Turn>) {
    loop {
        let mut ready = [
            PollFd::new(source.fd(), PollFlags::POLLIN),
            PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut ready, PollTimeout::NONE).unwrap();
        if ready[1].any().unwrap() {
            return;
        }
        let mut turn = read_turn(&mut source);
        let mut heard = heard.lock().unwrap();
        heard.lines.append(&mut turn.lines);
        heard.reports.append(&mut turn.reports);
    }
}

/// Reads until the source says that the turn is over, as the daemon does when the descriptor is readable.
pub(crate) fn read_turn(source: &mut LogSource) -> Turn {
    let wanted: PortSet = [666].into_iter().collect();
    let mut lines = Vec::new();
    while let Some(piece) = source.read().unwrap() {
        lines.extend(wanted_lines(piece, &wanted).map(<[u8]>::to_vec));
    }
    Turn { lines, reports: source.take_reports() }
}

/// Writes 10,000 numbered lines a second, as long as the machine lets it, and never stops by itself.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    stop: AtomicBool,
    reopen: AtomicBool,
    written: AtomicU64,
    /// Held while a line is written.
    file: Mutex<File>,
}

/// How a writer opens its log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// At the end each time, as rsyslog does.
    Append,
    /// At the writer's own position, as a shell's `>` does.
    Positioned,
}

impl Writer {
    pub(crate) fn start(path: &Path, mode: Mode) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            reopen: AtomicBool::new(false),
            written: AtomicU64::new(0),
            file: Mutex::new(open(path, mode)),
        });
        let theirs = Arc::clone(&shared);
        let path = path.to_owned();
        let thread = thread::spawn(move || write_on(&theirs, &path, mode));
        Self { shared, thread: Some(thread) }
    }

    /// How many lines have been written.
    pub(crate) fn written(&self) -> u64 {
        self.shared.written.load(Ordering::SeqCst)
    }

    /// Waits until this many more lines have been written.
    #[track_caller]
    pub(crate) fn wait_for_more(&self, lines: u64) {
        let goal = self.written() + lines;
        wait_until(&format!("line {goal} is written"), || self.written() >= goal);
    }

    /// Opens the path again, as rsyslog does when it is sent SIGHUP. Returns when it has.
    #[track_caller]
    pub(crate) fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::SeqCst);
        wait_until("the writer has opened its log again", || {
            !self.shared.reopen.load(Ordering::SeqCst)
        });
    }

    /// Does something between two lines.
    pub(crate) fn between_lines<T>(&self, act: impl FnOnce() -> T) -> T {
        let _nothing_is_written = self.shared.file.lock().unwrap();
        act()
    }

    /// Stops, and says how many lines there were: they have the numbers below that.
    pub(crate) fn stop(mut self) -> u64 {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
        self.written()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write_on(shared: &Shared, path: &Path, mode: Mode) {
    let start = Instant::now();
    for written in 0_u64.. {
        // The rate holds on average, also where a sleep takes longer than it was asked to.
        while u128::from(written) > start.elapsed().as_micros() / 100 {
            thread::sleep(Duration::from_millis(1));
        }
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let mut file = shared.file.lock().unwrap();
        if shared.reopen.load(Ordering::SeqCst) {
            *file = open(path, mode);
            shared.reopen.store(false, Ordering::SeqCst);
        }
        file.write_all(line(written).as_bytes()).unwrap();
        shared.written.store(written + 1, Ordering::SeqCst);
    }
}

pub(crate) fn open(path: &Path, mode: Mode) -> File {
    let mut options = OpenOptions::new();
    match mode {
        Mode::Append => options.append(true),
        Mode::Positioned => options.write(true).truncate(false),
    };
    options.create(true).open(path).unwrap()
}

/// Appends to the file at the path, opened for this alone.
pub(crate) fn append(path: &Path, content: impl AsRef<[u8]>) {
    open(path, Mode::Append).write_all(content.as_ref()).unwrap();
}

/// The numbers from 0 up to, not including, the given one.
pub(crate) fn all(count: u64) -> Vec<u64> {
    (0..count).collect()
}

/// Compares long lists of numbers without printing them.
#[track_caller]
pub(crate) fn assert_same(seen: &[u64], expected: &[u64]) {
    let at = seen.iter().zip(expected).position(|(seen, expected)| seen != expected);
    let at = at.or((seen.len() != expected.len()).then_some(seen.len().min(expected.len())));
    if let Some(at) = at {
        let around = |numbers: &[u64]| {
            let from = at.saturating_sub(3).min(numbers.len());
            numbers[from..(at + 5).min(numbers.len())].to_vec()
        };
        panic!(
            "{} lines read, {} expected; they differ at the {at}th: read {:?}, expected {:?}",
            seen.len(),
            expected.len(),
            around(seen),
            around(expected)
        );
    }
}

/// Runs the real logrotate on the log, with these words in its configuration. `None` where it is not installed.
pub(crate) fn logrotate(log: &Path, words: &str) -> Option<()> {
    let directory = log.parent()?;
    let program = ["/usr/sbin/logrotate", "/usr/bin/logrotate"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    let Some(program) = program else {
        cannot_test("logrotate is not installed");
        return None;
    };
    let configuration: PathBuf = directory.join("logrotate.conf");
    std::fs::write(&configuration, format!("{} {{\n rotate 20\n {words}\n}}\n", log.display()))
        .unwrap();
    let mut command = Command::new(program);
    command
        .arg("--force")
        .arg("--state")
        .arg(directory.join("logrotate.state"))
        .arg(&configuration);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(())
}

/// A tool is missing: nothing is tested with it by a plain `cargo test`, and `scripts/test.sh`, which installs it, fails.
#[track_caller]
pub(crate) fn cannot_test(why: &str) {
    if cfg!(feature = "e2e") {
        panic!("{why}");
    } else {
        eprintln!("{why}: nothing is tested with it");
    }
}

/// Sets a flag when a test is over, also when it fails.
pub(crate) struct SetOnDrop<'flag>(pub(crate) &'flag AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
