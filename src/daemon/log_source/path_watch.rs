//! Learns from the kernel that something happened to the log, and nothing else: two threads, and a descriptor that becomes
//! readable.
//!
//! Owns what is watched, which of notify's events concern the log, and the eventfd that they make readable. Reads no log
//! and opens no file.
//!
//! notify's thread takes requests only when it has read the kernel's events to their end, which it never does while
//! somebody writes fast enough in a directory that it watches. So a thread of its own makes the requests: it may block
//! for as long as that lasts, while the reader does not. The reader looks at what was not watched in the meantime once
//! the watch is in place; until then the flood itself wakes the reader.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{io, thread};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use notify::event::ModifyKind;
use notify::{Event, EventKind, INotifyWatcher, RecursiveMode, Watcher};

use super::resolved_path::ResolvedPath;

/// Something was written, or there is more to read.
pub(super) const WRITTEN: u8 = 1;
/// Something came, went, moved or changed its permissions: what is at the path may be another file, and the way to it
/// must be watched afresh.
pub(super) const CHANGED: u8 = 2;
/// The way is watched as it leads now: what is at its end may have changed before it was.
pub(super) const WATCHED: u8 = 4;

/// If the path changes during each walk, the walks end after this many: each change wakes the reader again anyway.
const MAX_WALKS: usize = 8;

/// The names of our own open files: they lead to a file wherever it is moved.
const OPEN_FILES: &str = "/proc/self/fd";

/// Something that cannot be watched, and why.
#[derive(Debug)]
pub(super) struct NotWatched(pub(super) PathBuf, pub(super) String);

/// What the three threads share.
#[derive(Debug)]
struct Wakeup {
    /// What happened since this was last taken; the first thing alone makes the descriptor readable.
    news: AtomicU8,
    descriptor: EventFd,
    /// What notify's thread compares events with.
    path: Mutex<ResolvedPath>,
    /// To be reported.
    not_watched: Mutex<Vec<NotWatched>>,
    /// A request to watch everything again is pending.
    ordered: AtomicBool,
}

impl Wakeup {
    fn wake(&self, news: u8) {
        if self.news.fetch_or(news, Ordering::AcqRel) == 0 {
            // The counter cannot overflow: it is 1 at most until it is read.
            let _ = self.descriptor.write(1);
        }
    }

    /// Called on notify's thread for each event of anything in the directories that are watched.
    fn notice(&self, event: notify::Result<Event>) {
        let Ok(event) = event else { return self.wake(CHANGED) };
        if event.need_rescan() {
            // The kernel's queue overran.
            return self.wake(CHANGED);
        }
        let news = match event.kind {
            EventKind::Access(_) => return,
            EventKind::Modify(ModifyKind::Data(_)) => WRITTEN,
            _ => CHANGED,
        };
        let watched = locked(&self.path);
        let concerns_us = |path: &PathBuf| {
            let by_name =
                if news == WRITTEN { *path == watched.file } else { watched.names.contains(path) };
            by_name || path.starts_with(OPEN_FILES)
        };
        if event.paths.iter().any(concerns_us) {
            self.wake(news);
        }
    }
}

/// What the thread that talks to notify is to do, one after the other.
enum WatchOrder {
    /// Watch the way to the log as it leads now, and these open files.
    All(Vec<RawFd>),
    /// Watch an open file.
    Open(RawFd),
    /// Watch a file no more, then close it. Before that, its number must not become another file's.
    Close(File),
}

/// Watches the way to a log, and open files.
#[derive(Debug)]
pub(super) struct PathWatch {
    wakeup: Arc<Wakeup>,
    orders: Sender<WatchOrder>,
}

impl PathWatch {
    /// Starts both threads and returns when both run, so that a system call filter set after that need not allow what
    /// a thread does at its start. The descriptor is readable at once: there is a first look to take.
    pub(super) fn start(log: &Path) -> Result<Self, String> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let wakeup = Arc::new(Wakeup {
            news: AtomicU8::new(0),
            descriptor: EventFd::from_flags(flags).map_err(|error| error.to_string())?,
            path: Mutex::default(),
            not_watched: Mutex::default(),
            ordered: AtomicBool::new(false),
        });
        let theirs = Arc::clone(&wakeup);
        let handler = move |event| theirs.notice(event);
        let watcher = INotifyWatcher::new(handler, notify::Config::default())
            .map_err(|error| error.to_string())?;
        let thread = WatchThread {
            watcher,
            wakeup: Arc::clone(&wakeup),
            log: log.to_owned(),
            failed: Vec::new(),
        };
        let (orders, received) = mpsc::channel();
        let builder = thread::Builder::new().name("log watch".into());
        let (running, wait) = mpsc::channel();
        let run = move || thread.run(&running, &received);
        builder.spawn(run).map_err(|error| error.to_string())?;
        wait.recv().map_err(|error| error.to_string())?;
        wakeup.wake(CHANGED);
        Ok(Self { wakeup, orders })
    }

    /// What happened since this was last called. The descriptor is readable no more.
    pub(super) fn take_news(&self) -> io::Result<u8> {
        match self.wakeup.descriptor.read() {
            Ok(_) | Err(Errno::EAGAIN) => Ok(self.wakeup.news.swap(0, Ordering::AcqRel)),
            Err(error) => Err(error.into()),
        }
    }

    /// Keeps the descriptor readable: there is more to read.
    pub(super) fn again(&self) {
        self.wakeup.wake(WRITTEN);
    }

    /// Watches everything afresh; the descriptor is readable when that is done.
    pub(super) fn refresh(&self, open: impl Iterator<Item = RawFd>) -> io::Result<()> {
        if self.wakeup.ordered.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.order(WatchOrder::All(open.collect()))
    }

    /// Watches an open file, wherever it is moved to; the descriptor is readable when that is done.
    pub(super) fn open(&self, descriptor: RawFd) -> io::Result<()> {
        self.order(WatchOrder::Open(descriptor))
    }

    /// Watches a file no more and closes it.
    pub(super) fn close(&self, file: File) -> io::Result<()> {
        self.order(WatchOrder::Close(file))
    }

    /// What has turned out since this was last asked not to be watched.
    pub(super) fn not_watched(&self) -> Vec<NotWatched> {
        std::mem::take(&mut *locked(&self.wakeup.not_watched))
    }

    fn order(&self, order: WatchOrder) -> io::Result<()> {
        self.orders
            .send(order)
            .map_err(|_| io::Error::other("the threads that watch it have ended"))
    }
}

impl AsFd for PathWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wakeup.descriptor.as_fd()
    }
}

/// Makes the requests to notify, on a thread that may wait for it.
struct WatchThread {
    watcher: INotifyWatcher,
    wakeup: Arc<Wakeup>,
    log: PathBuf,
    /// What could not be watched the last time; each is reported once.
    failed: Vec<PathBuf>,
}

impl WatchThread {
    fn run(mut self, running: &Sender<()>, orders: &Receiver<WatchOrder>) {
        // notify's thread runs when it has answered anything.
        let _ = self.watcher.unwatch(Path::new(OPEN_FILES));
        let _ = running.send(());
        for order in orders {
            match order {
                WatchOrder::All(open) => {
                    self.wakeup.ordered.store(false, Ordering::Release);
                    for descriptor in open {
                        self.watch_open(descriptor);
                    }
                    self.follow();
                    self.wakeup.wake(WATCHED);
                }
                WatchOrder::Open(descriptor) => {
                    self.watch_open(descriptor);
                    self.wakeup.wake(WRITTEN);
                }
                WatchOrder::Close(file) => {
                    let _ = self.watcher.unwatch(&name_of(file.as_raw_fd()));
                }
            }
        }
    }

    /// Watches the way to the log, until it leads over what is watched. What is nearest comes first: a directory that
    /// others write in without end must not keep us from it.
    ///
    /// Every directory is watched afresh each time: notify forgets one by its name when something of that name goes,
    /// which may be after another of that name was watched. It reports that before, so that this function runs again.
    fn follow(&mut self) {
        let mut watched = None;
        for _ in 0..MAX_WALKS {
            let path = ResolvedPath::of(&self.log);
            if watched.as_ref() == Some(&path) {
                break;
            }
            let before = std::mem::replace(&mut *locked(&self.wakeup.path), path.clone());
            for gone in before.directories.iter().filter(|known| !path.directories.contains(known))
            {
                let _ = self.watcher.unwatch(gone);
            }
            for directory in path.directories.iter().rev() {
                self.watch(directory, directory);
            }
            watched = Some(path);
        }
    }

    fn watch_open(&mut self, descriptor: RawFd) {
        let log = self.log.clone();
        self.watch(&name_of(descriptor), &log);
    }

    /// Watches what is at `path`. `shown` is what an admin knows it by.
    fn watch(&mut self, path: &Path, shown: &Path) {
        let known = self.failed.iter().position(|failed| failed == path);
        match (self.watcher.watch(path, RecursiveMode::NonRecursive), known) {
            (Ok(()), Some(known)) => drop(self.failed.swap_remove(known)),
            (Err(mut error), None) => {
                self.failed.push(path.to_owned());
                error.paths.clear(); // it would name them, as we do
                locked(&self.wakeup.not_watched)
                    .push(NotWatched(shown.to_owned(), error.to_string()));
            }
            (Ok(()), None) | (Err(_), Some(_)) => {}
        }
    }
}

fn name_of(descriptor: RawFd) -> PathBuf {
    Path::new(OPEN_FILES).join(descriptor.to_string())
}

/// A thread that panics leaves the locked data consistent.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
