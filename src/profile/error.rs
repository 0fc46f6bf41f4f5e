//! What can be wrong with a profile, said so that its owner knows which file to look at and what to do.

use std::path::PathBuf;
use std::{fmt, io};

use super::NotRoots;
use crate::counter::CounterError;
use crate::layout::classic::KEY_LEN;

/// What is wrong with a profile on disk.
#[derive(Debug)]
pub enum ProfileError {
    /// A file cannot be opened or read.
    Unreadable(PathBuf, io::Error),
    /// A file is larger than any such file is.
    TooLarge(PathBuf),
    /// A file is a directory, a FIFO, a device.
    NotAFile(PathBuf),
    /// Users other than the owner can write to it.
    WritableByOthers(PathBuf),
    /// On the server: somebody else than root could change it.
    NotRoots(NotRoots),
    /// A key file does not hold one base64 line of 16 bytes.
    BadKey(PathBuf),
    /// The keys are those of the example that everybody can read.
    ExampleKeys(PathBuf),
    /// `config` is not what a profile's config is.
    BadConfig(PathBuf, String),
    /// The counter cannot be used.
    Counter(CounterError),
}

impl fmt::Display for ProfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(path, why) => write!(f, "{path:?}: cannot be read: {why}"),
            Self::TooLarge(path) => write!(f, "{path:?}: too large for a file of a profile"),
            Self::NotAFile(path) => write!(f, "{path:?}: not a regular file"),
            Self::WritableByOthers(path) => {
                write!(
                    f,
                    "{path:?}: others may write to it; check what is in it, then: chmod go-w {path:?}"
                )
            }
            Self::NotRoots(error) => error.fmt(f),
            Self::BadKey(path) => write!(
                f,
                "{path:?}: not a key ({KEY_LEN} bytes as one line of base64); copy it again, or make a new profile"
            ),
            Self::ExampleKeys(path) => write!(
                f,
                "{path:?}: these are the keys of the published example, which everybody knows; make a profile of your own with knock-genprofile"
            ),
            Self::BadConfig(path, why) => write!(f, "{path:?}: {why}"),
            Self::Counter(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ProfileError {}

impl From<CounterError> for ProfileError {
    fn from(error: CounterError) -> Self {
        Self::Counter(error)
    }
}

impl From<NotRoots> for ProfileError {
    fn from(error: NotRoots) -> Self {
        Self::NotRoots(error)
    }
}
