//! Follows a log as the daemon does, on a thread of its own.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};

use knockknock::daemon::log_source::error::Report;
use knockknock::daemon::log_source::port_filter::{PortSet, wanted_lines};
use knockknock::daemon::log_source::{LogChoice, LogSource, OpenedLog};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Gid, Uid, geteuid, pipe, setfsgid, setfsuid};
use tempfile::TempDir;

use crate::harness::{all, assert_same, number, place, wait_until};
use crate::writer::{Mode, Writer, append};

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

/// A log in a directory of its own, a follower of it, and a writer that never stops.
pub(crate) fn followed(mode: Mode) -> (TempDir, PathBuf, Follower, Writer) {
    let (directory, log) = place();
    append(&log, "");
    let follower = Follower::start(&log);
    let writer = Writer::start(&log, mode);
    (directory, log, follower, writer)
}

/// Stops the writer and expects all of its lines, in order, each once.
#[track_caller]
pub(crate) fn expect_all(writer: Writer, follower: &Follower) {
    let count = writer.stop();
    follower.wait_for(count - 1);
    assert_same(&follower.seen(), &all(count));
}
