//! A profile's directory in the making: under a hidden name, synced, its owner's alone, and gone again unless it was put
//! where it belongs.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::enrolment::Enrolment;

/// The name that a new profile has in the directory of profiles until it is whole. Who makes one holds the lock of that
/// directory, so it is nobody else's.
pub(super) const HIDDEN: &str = ".new";

/// A directory that goes away again unless it is kept.
pub(super) struct Unfinished(PathBuf);

impl Unfinished {
    /// Writes the profile into the directory `path`, which is not there yet. `config` is its config.
    pub(super) fn write(path: PathBuf, enrolment: &Enrolment, config: &str) -> io::Result<Self> {
        private_dir(false).create(&path)?;
        let made = Self(path);
        // What the umask took away is given back to the owner; others never had anything.
        fs::set_permissions(&made.0, Permissions::from_mode(0o700))?;
        for (name, line) in enrolment.key_files() {
            write_file(&made.0.join(name), line.as_bytes())?;
        }
        write_file(&made.0.join("counter"), b"0\n")?;
        write_file(&made.0.join("config"), config.as_bytes())?;
        File::open(&made.0)?.sync_all()?;
        Ok(made)
    }

    /// Removes what was left under the hidden name by a process that was killed, keys included. Needs the lock.
    pub(super) fn remove_left(path: &Path) -> io::Result<()> {
        match fs::remove_dir_all(path) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => Err(why),
            _ => Ok(()),
        }
    }

    /// Gives it the name `dir`, which nothing has.
    pub(super) fn move_to(&mut self, dir: &Path) -> io::Result<()> {
        renameat2(AT_FDCWD, &self.0, AT_FDCWD, dir, RenameFlags::RENAME_NOREPLACE)?;
        dir.clone_into(&mut self.0);
        Ok(())
    }

    /// Exchanges its name with that of `dir`, at once: there is a profile at `dir` all the time. Returns the name that what
    /// was there has now; that is not removed.
    pub(super) fn exchange_with(self, dir: &Path) -> io::Result<PathBuf> {
        renameat2(AT_FDCWD, &self.0, AT_FDCWD, dir, RenameFlags::RENAME_EXCHANGE)?;
        Ok(self.keep())
    }

    /// It stays. Returns where it is.
    pub(super) fn keep(mut self) -> PathBuf {
        std::mem::take(&mut self.0)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // What is kept has no name here.
        if !self.0.as_os_str().is_empty() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// How to make a directory that is its owner's alone.
pub(super) fn private_dir(with_parents: bool) -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.recursive(with_parents).mode(0o700);
    builder
}

fn write_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(content)?;
    file.sync_all()
}
