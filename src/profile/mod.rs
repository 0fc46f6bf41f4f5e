//! A profile: two keys, a counter and a knock port, in a directory of its own, as the original keeps them.
//!
//! ```text
//! server  /etc/knockknock.d/profiles/NAME/     client  ~/.knockknock/HOST/
//!     cipher.key   16 bytes, base64, newline
//!     mac.key      16 bytes, base64, newline
//!     counter      the next counter, decimal, newline
//!     config       [main], knock_port = N
//! ```
//!
//! Reading ([`ProfileFiles`]) and parsing ([`ProfileFiles::parse`]) are apart: on the server root opens the files,
//! and only a process without privileges looks at what is in them. Keys are wiped when dropped and never shown.

#![forbid(unsafe_code)]

mod allow;
mod config;
mod create;
mod error;
mod files;
mod ini;
mod plain;
mod roots;
mod service;

use std::io;
use std::path::Path;

pub use allow::{FirewallChoice, InConfig};
pub use config::{Layout, ProfileConfig};
pub use create::{CreateError, create};
pub use error::ProfileError;
pub use files::ProfileFiles;
pub(crate) use ini::Ini;
pub use roots::{NotRoots, roots_alone};
pub use service::{NamedService, Transport, listed};

use crate::counter::Counter;
use crate::layout::classic::Keys;

/// A profile as its files say, without its counter.
#[derive(Debug)]
pub struct Profile {
    /// The directory's name: on the client the host that it opens.
    pub name: String,
    /// The keys of the classic layout.
    pub keys: Keys,
    /// What its `config` says.
    pub config: ProfileConfig,
}

impl Profile {
    /// Reads and parses the profile in `dir`, and opens its counter.
    pub fn load(dir: &Path) -> Result<(Self, Counter), ProfileError> {
        ProfileFiles::read(dir)?.parse()
    }
}

/// The names of the profiles in `profiles_dir`, sorted. Hidden directories are none: a profile is made under a
/// hidden name and then renamed.
pub fn names(profiles_dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in profiles_dir.read_dir()? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && entry.path().is_dir() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}
