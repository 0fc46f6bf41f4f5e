//! Reading a small file whole, as far as it is one that may be believed: regular, of a size that such a file can have, and
//! nobody else's to write.

use std::fs::{Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc::O_NONBLOCK;
use thiserror::Error;
use zeroize::Zeroizing;

/// A file's content, and who may read it. No `Debug`: it may be a key, so it is wiped, too.
pub(crate) struct CheckedFile {
    pub(crate) bytes: Zeroizing<Vec<u8>>,
    /// Whether the group or others may.
    pub(crate) readable_by_others: bool,
}

/// Why a file is not read.
#[derive(Debug, Error)]
pub enum FileError {
    /// It cannot be opened or read.
    #[error("{0:?}: cannot be read: {1}")]
    Unreadable(PathBuf, #[source] io::Error),
    /// It is a directory, a FIFO, a device.
    #[error("{0:?}: not a regular file")]
    NotAFile(PathBuf),
    /// The group or others may write to it.
    #[error("{0:?}: others may write to it\nfix: check what is in it, then: chmod go-w {0:?}")]
    WritableByOthers(PathBuf),
    /// It is larger than any such file is.
    #[error("{0:?}: larger than {1} bytes, which no such file is\nfix: check what is in it")]
    TooLarge(PathBuf, u64),
}

impl FileError {
    /// Whether there is no such file.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Unreadable(_, why) if why.kind() == io::ErrorKind::NotFound)
    }
}

/// Reads the file at `path`, which may be a link, if it has at most `max_len` bytes. It is opened once, and what is checked is
/// what is read.
pub(crate) fn read_checked(path: &Path, max_len: u64) -> Result<CheckedFile, FileError> {
    let unreadable = |why| FileError::Unreadable(path.to_owned(), why);
    // A FIFO in its place must not hang us; on a regular file the flag means nothing.
    let opened = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path);
    let file = opened.map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(FileError::NotAFile(path.to_owned()));
    }
    refuse_writable_by_others(path, &metadata)?;
    let too_large = || FileError::TooLarge(path.to_owned(), max_len);
    // Room for all of it and the end at once: a buffer that grows leaves copies of a key behind in memory, and a larger
    // one for each of ten thousand profiles leaves the daemon with hundreds of megabytes.
    let whole = usize::try_from(metadata.len()).map_err(|_| too_large())?;
    if metadata.len() > max_len {
        return Err(too_large());
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(whole + 1));
    file.take(metadata.len() + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > whole {
        return Err(unreadable(io::Error::other("it grew while it was read; try again")));
    }
    Ok(CheckedFile { bytes, readable_by_others: metadata.mode() & 0o077 != 0 })
}

/// Refuses what the group or others may write to.
pub(crate) fn refuse_writable_by_others(path: &Path, metadata: &Metadata) -> Result<(), FileError> {
    let is_writable = metadata.mode() & 0o022 != 0;
    if is_writable { Err(FileError::WritableByOthers(path.to_owned())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_read_whole_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let read = || read_checked(&path, 10);
        assert!(
            matches!(read(), Err(FileError::Unreadable(_, why)) if why.kind() == io::ErrorKind::NotFound)
        );
        for (content, mode, readable) in [("", 0o600, false), ("1234567890", 0o644, true)] {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let file = read().unwrap();
            assert_eq!(
                (file.bytes.as_slice(), file.readable_by_others),
                (content.as_bytes(), readable)
            );
        }
        for mode in [0o620, 0o602] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read(), Err(FileError::WritableByOthers(_))), "{mode:o}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "12345678901").unwrap();
        assert!(matches!(read(), Err(FileError::TooLarge(..))));
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(read(), Err(FileError::NotAFile(_))));
    }
}
