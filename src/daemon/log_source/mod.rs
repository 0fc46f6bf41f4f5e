//! Where log lines come from: a file that rsyslog writes, or the kernel's own `/dev/kmsg`.
//!
//! Owns the choice between the two and what both have in common: a descriptor to wait for, and lines that are pulled from
//! it, a bounded piece at a time. Knows lines only as bytes ending in a newline; what a line says is
//! [`crate::daemon::kernel_log_line`]'s. Never waits, never polls, sets no timer.

mod copytruncate;
pub mod error;
mod file;
mod kmsg;
mod open;
mod path_watch;
pub mod port_filter;
mod resolved_path;
mod tail;

use std::convert::Infallible;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use error::{Report, SourceError};
use file::{FileLog, OpenedFile};
use kmsg::KmsgLog;

use crate::daemon::kernel_log_line::Framing;

/// The log file of rsyslog's own configuration on Debian and its relatives.
const DEFAULT_FILE: &str = "/var/log/kern.log";

/// Which log to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogChoice {
    /// `/var/log/kern.log` if a logger writes to it, else `/dev/kmsg`.
    Auto,
    /// `/dev/kmsg`.
    Kmsg,
    /// This file, whether it exists yet or not.
    File(PathBuf),
}

impl FromStr for LogChoice {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "auto" => Self::Auto,
            "kmsg" => Self::Kmsg,
            path => Self::File(path.into()),
        })
    }
}

/// A log source that has been opened at its end, with whatever privilege that took, and is not watched yet.
#[derive(Debug)]
pub enum OpenedLog {
    /// A log file, which may be missing still.
    File(OpenedFile),
    /// The kernel's own log.
    Kmsg(KmsgLog),
}

impl OpenedLog {
    /// Opens the log at its end: what is logged from here on is read, nothing before.
    pub fn open(choice: &LogChoice) -> Result<Self, SourceError> {
        match choice {
            LogChoice::Auto => {
                let file = Path::new(DEFAULT_FILE);
                if is_written(file, booted()) {
                    return OpenedFile::open(file).map(Self::File);
                }
                match KmsgLog::open() {
                    // In a container there may be no other log.
                    Err(_) if file.exists() => OpenedFile::open(file).map(Self::File),
                    opened => opened.map(Self::Kmsg),
                }
            }
            LogChoice::Kmsg => KmsgLog::open().map(Self::Kmsg),
            LogChoice::File(path) => OpenedFile::open(path).map(Self::File),
        }
    }

    /// Starts to watch. For a file this starts notify's thread, which inherits the calling thread's confinement:
    /// call it after privileges are dropped, so that what the unprivileged side may not watch is reported now and not
    /// at the first rotation, and before a filter that forbids new threads.
    pub fn watch(self) -> Result<LogSource, SourceError> {
        match self {
            Self::File(file) => file.watch().map(LogSource::File),
            Self::Kmsg(kmsg) => Ok(LogSource::Kmsg(kmsg)),
        }
    }
}

/// Whether this log file is in use: it was written to since the machine started.
pub(super) fn is_in_use(log: &Path) -> bool {
    is_written(log, booted())
}

/// Whether the log was written to since the machine started, as rsyslog does at each start. A host that has changed to
/// journald keeps its last `kern.log`, in which no knock would ever appear.
fn is_written(log: &Path, booted: Option<SystemTime>) -> bool {
    let written = log.metadata().and_then(|metadata| metadata.modified()).ok();
    written.is_some_and(|written| booted.is_none_or(|booted| written >= booted))
}

/// When the machine was started, by its present clock.
fn booted() -> Option<SystemTime> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.trim().parse().ok()?))
}

/// A log source that is followed.
#[derive(Debug)]
pub enum LogSource {
    /// A log file.
    File(FileLog),
    /// The kernel's own log.
    Kmsg(KmsgLog),
}

impl LogSource {
    /// The descriptor to wait for: readable (or in error) when there is something for [`LogSource::read`].
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::File(file) => file.as_fd(),
            Self::Kmsg(kmsg) => kmsg.as_fd(),
        }
    }

    /// How the lines of this source are to be parsed.
    #[must_use]
    pub fn framing(&self) -> Framing {
        match self {
            Self::File(_) => Framing::Syslog,
            Self::Kmsg(_) => Framing::Kmsg,
        }
    }

    /// Reads the next piece: whole lines, or one record. [`port_filter::wanted_lines`] finds those that matter in it.
    ///
    /// None ends a turn: there is no more for now, or the turn has had as much as it may. Where more is left,
    /// [`LogSource::fd`] stays readable.
    pub fn read(&mut self) -> Result<Option<&[u8]>, SourceError> {
        match self {
            Self::File(file) => file.read(),
            Self::Kmsg(kmsg) => kmsg.read(),
        }
    }

    /// What an admin should know of the turn that has ended.
    pub fn take_reports(&mut self) -> Vec<Report> {
        match self {
            Self::File(file) => file.take_reports(),
            Self::Kmsg(kmsg) => kmsg.take_reports(),
        }
    }
}

impl fmt::Display for OpenedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write_path(f, file.path()),
            Self::Kmsg(_) => f.write_str(kmsg::DEVICE),
        }
    }
}

impl fmt::Display for LogSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write_path(f, file.path()),
            Self::Kmsg(_) => f.write_str(kmsg::DEVICE),
        }
    }
}

/// A path as it may be shown to a person: whatever it holds, escaped.
fn write_path(f: &mut fmt::Formatter<'_>, path: &Path) -> fmt::Result {
    write!(f, "{}", path.as_os_str().as_encoded_bytes().escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_nobody_has_written_to_since_the_machine_was_started_is_not_in_use() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let booted = booted().unwrap();
        assert!(is_written(log.path(), Some(booted)));
        log.as_file().set_modified(booted - Duration::from_secs(1)).unwrap();
        assert!(!is_written(log.path(), Some(booted)));
        assert!(is_written(log.path(), None), "nobody knows better");
        assert!(!is_written(Path::new("/nonexistent/kern.log"), None));
    }
}
