//! A profile: keys, a counter and a config, in a directory of its own, as the original keeps them.
//!
//! ```text
//! server  /etc/knockknock.d/profiles/NAME/     client  ~/.knockknock/HOST/
//!     cipher.key   classic: 16 bytes, base64, newline
//!     mac.key      classic: 16 bytes, base64, newline
//!     secret.key   stealth: 32 bytes, base64, newline
//!     counter      the next counter, decimal, newline
//!     config       [main], knock_port = N, or layout = stealth
//! ```
//!
//! Reading and parsing ([`files::ProfileFiles`]) are apart: on the server root opens the files,
//! and only a process without privileges looks at what is in them. Keys are wiped when dropped and never shown.

pub(crate) mod allow;
pub(crate) mod checked_file;
pub mod config;
pub(crate) mod create;
pub mod enrolment;
pub(crate) mod error;
pub mod files;
pub(crate) mod import;
pub(crate) mod ini;
mod preprocess;
pub(crate) mod roots;
mod unfinished;

use std::io;
use std::path::Path;

use crate::layout::keys::LayoutKeys;
use config::ProfileConfig;

/// A profile as its files say, without its counter.
#[derive(Debug)]
pub struct Profile {
    /// The directory's name: on the client the host that it opens.
    pub name: String,
    /// Its keys.
    pub keys: LayoutKeys,
    /// What its `config` says.
    pub config: ProfileConfig,
}

/// The names of the profiles in `profiles_dir`, sorted. Hidden directories are none: a profile is made under a
/// hidden name and then renamed.
pub(crate) fn names(profiles_dir: &Path) -> io::Result<Vec<String>> {
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
