//! Resource limits of this process and its helper: open files, and file size.

use std::io;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{SFlag, fstat};

use super::error::DaemonError;

/// The largest file, in bytes, that the daemon or its helper may write: a counter has some ten bytes, and pipes do not
/// count.
const MAX_FILE_LEN: u64 = 64 * 1024;

/// How much may be added where stderr is a file.
const MAX_EVENTS_LEN: u64 = 1 << 30;

/// Each profile keeps its counter open.
pub(super) fn raise_file_limit() -> Result<(), DaemonError> {
    getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard))
        .map_err(|why| DaemonError::System("cannot raise the limit of open files", why.into()))
}

/// A compromised daemon or helper cannot fill a disk. A write beyond the limit fails with an error, since SIGXFSZ is
/// blocked.
pub(super) fn cap_writing() -> Result<(), DaemonError> {
    let cap = |stderr| {
        SigSet::from(Signal::SIGXFSZ).thread_block()?;
        let stderr = fstat(stderr)?;
        let is_file = stderr.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits();
        let length = u64::try_from(stderr.st_size).map_err(|_| Errno::EOVERFLOW)?;
        let cap = if is_file { length.saturating_add(MAX_EVENTS_LEN) } else { MAX_FILE_LEN };
        let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE)?;
        setrlimit(Resource::RLIMIT_FSIZE, cap.min(hard), cap.min(hard))
    };
    cap(io::stderr()).map_err(|why| DaemonError::System("cannot limit what is written", why.into()))
}
