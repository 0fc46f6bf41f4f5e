//! A program that writes a log and never stops, as a test needs it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::harness::{line, wait_until};

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
