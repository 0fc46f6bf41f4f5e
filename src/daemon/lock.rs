//! The lock on a config directory: only one daemon uses the directory, and the lock file names that daemon.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc::{O_CREAT, O_NOFOLLOW};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::getpid;

use super::error::DaemonError;

/// In the config directory.
const FILE_NAME: &str = "lock";

/// Two daemons on one config directory would hand out the same counters. The lock is a file that only root can open:
/// any process that can open a file, or the directory itself, can lock it, and would prevent the daemon from starting.
/// It is held for as long as the daemon runs, so nothing can be written through it.
pub(super) fn lock(dir: &Path) -> Result<File, DaemonError> {
    let mut how = File::options();
    // The standard library's `create` asks for a descriptor that can be written.
    how.read(true).mode(0o600).custom_flags(O_CREAT | O_NOFOLLOW);
    let failed = |why| DaemonError::ConfigDir(dir.to_owned(), why);
    let lock = how.open(dir.join(FILE_NAME)).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => Err(DaemonError::Locked(dir.to_owned())),
        Err(std::fs::TryLockError::Error(why)) => Err(failed(why)),
    }
}

/// Writes the daemon's process id and the name of its table into the lock file. minimal-firewall.sh reads them, to have
/// the daemon drop its copy of the guard.
pub(super) fn sign(dir: &Path, table: &str) -> io::Result<()> {
    // The script reads the process id and sends SIGUSR1, which would end this process if it were not blocked yet.
    SigSet::from(Signal::SIGUSR1).thread_block()?;
    let mut how = File::options();
    how.write(true).truncate(true).custom_flags(O_NOFOLLOW);
    let mut lock = how.open(dir.join(FILE_NAME))?;
    writeln!(lock, "{} {table}", getpid())
}
