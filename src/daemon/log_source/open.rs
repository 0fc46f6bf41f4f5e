//! The one way in which a log, or the copy of one, is opened: for reading, and without ever waiting.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

/// Which file: device and inode number. An open file keeps its number from being used again.
pub(super) type FileIdentity = (u64, u64);

/// Opens a log for reading, without ever waiting: the one open that is needed after the start.
///
/// `root` is a descriptor of `/` and `path` absolute. The flags are always the same, so that a system call filter can
/// ask for exactly this call.
pub(super) fn open_log(root: BorrowedFd<'_>, path: &Path) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let inside = path.strip_prefix("/").unwrap_or(path);
    Ok(File::from(openat(root, inside, flags, Mode::empty())?))
}

/// A regular file and which one it is; `None` for anything else.
pub(super) fn regular(file: File) -> io::Result<Option<(File, FileIdentity)>> {
    let metadata = file.metadata()?;
    Ok(metadata.is_file().then(|| (file, (metadata.dev(), metadata.ino()))))
}

/// No such file, or a directory on the way that is none (now).
pub(super) fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}
