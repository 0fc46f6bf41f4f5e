//! What can be wrong with a profile, or with making one, said so that its owner knows which file to look at and what to do.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::checked_file::FileError;
use super::roots::NotRoots;
use crate::counter::CounterError;

/// What is wrong with a profile on disk.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// A file or the directory cannot be read, or is not what it must be.
    #[error(transparent)]
    File(#[from] FileError),
    /// On the server: somebody else than root could change it.
    #[error(transparent)]
    NotRoots(#[from] NotRoots),
    /// A key file does not hold one base64 line of as many bytes as its key has.
    #[error(
        "{0:?}: not a key ({1} bytes as one line of base64)\nfix: copy it again, or make a new profile"
    )]
    BadKey(PathBuf, usize),
    /// The keys are those of the example that everybody can read.
    #[error(
        "{0:?}: the keys of the published example, which everybody knows\nfix: make a new profile with knock-genprofile"
    )]
    ExampleKeys(PathBuf),
    /// `config` is not what a profile's config is.
    #[error("{0:?}: {1}")]
    BadConfig(PathBuf, String),
    /// The counter cannot be used.
    #[error(transparent)]
    Counter(#[from] CounterError),
}

/// Why no profile was made. Nothing half-made is left behind.
#[derive(Debug, Error)]
pub(crate) enum CreateError {
    /// The name is no plain file name.
    #[error(
        "{0:?} cannot be a profile's name: it must begin with a letter, a digit or _, and hold only those and . - @ +"
    )]
    BadName(String),
    /// Something has this name.
    #[error("{0:?} exists\nfix: choose another name, or remove it first")]
    Exists(PathBuf),
    /// Port 0 cannot be knocked on.
    #[error("invalid knock port 0\nfix: use 1 to 65535")]
    PortZero,
    /// Another profile knocks on this port.
    #[error("the profile {1:?} has knock port {0}\nfix: choose another port")]
    PortTaken(u16, String),
    /// Another profile is broken, so nobody knows which port it knocks on.
    #[error("another profile is broken: {0}")]
    BrokenOther(#[from] ProfileError),
    /// The server's `config` cannot be understood, or not be added to.
    #[error("{0:?}: {1}")]
    BadConfig(PathBuf, String),
    /// Whoever was to get its line did not.
    #[error("the profile's line could not be printed, so the profile is removed ({0})")]
    NotHandedOver(#[source] io::Error),
    /// A file or directory could not be read or made.
    #[error("{0:?}: {1}{hint}", hint = hint(.1))]
    Io(PathBuf, #[source] io::Error),
}

fn hint(why: &io::Error) -> &'static str {
    match why.kind() {
        io::ErrorKind::PermissionDenied => "\nfix: run it as root, with sudo",
        _ => "",
    }
}
