//! The copy that `logrotate`'s `copytruncate` makes of a log before it cuts it.
//!
//! Owns the search for it: what had not been read when the log was cut stands in the copy alone. A copy is recognized
//! by its content, not by its name: before the current read position, it holds the bytes that were read last.

use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::dir::Dir;

use super::open::{FileIdentity, open_log, regular};
use super::tail::Tail;

/// How many files beside the log are looked into, a few milliseconds' worth. Two years of daily rotations have fewer, and
/// which of them comes first in a directory cannot be chosen.
const MAX_NEIGHBOURS: usize = 1024;

/// The rest of a log that was cut, from the copy beside it whose name begins like the log's (`kern.log.1`,
/// `kern.log-20261120`, `kern.1.log`), if there is one that goes on where reading had come to.
///
/// `log` is the log's real path, links resolved. Files that are `followed` are read as what they are.
pub(super) fn unread_rest(
    root: BorrowedFd<'_>,
    log: &Path,
    tail: &Tail,
    followed: &[FileIdentity],
) -> Option<Tail> {
    let (directory, name, stem) = (log.parent()?, log.file_name()?, log.file_stem()?);
    let mut listing = Dir::from_fd(OwnedFd::from(open_log(root, directory).ok()?)).ok()?;
    listing
        .iter()
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let beside = OsStr::from_bytes(entry.file_name().to_bytes());
            let begins_alike = beside.as_bytes().starts_with(stem.as_bytes()) && beside != name;
            begins_alike.then(|| directory.join(beside))
        })
        .take(MAX_NEIGHBOURS)
        .filter_map(|path| {
            let (file, identity) = open_log(root, &path).and_then(regular).ok()??;
            if followed.contains(&identity) { None } else { tail.continued_in(file, identity) }
        })
        .max_by_key(|(unread, _)| *unread)
        .map(|(_, copy)| copy)
}
