//! The lock of a profile: one knock-and-connect at a time on this machine.
//!
//! A grant is for an address and a port, admits one connection, and a second knock renews it instead of adding one.
//! Two programs that knock at once would get one grant between them. So whoever knocks in order to connect holds the
//! lock from its knock until its connection stands or has failed, and has closed every other attempt by then.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::client::say::reason;

/// Nobody waits longer for a lock than this. Each holder is done within 10 seconds.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(60);

/// The lock is tried for again after this, then at intervals that double up to the second: flock(2) can be waited for
/// only without a time limit, and only by a thread of its own for each who waits.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const MAX_PAUSE: Duration = Duration::from_millis(16);

/// A lock, until it is dropped.
#[derive(Debug)]
pub(crate) struct ProfileLock {
    /// The profile's directory: it is there on any profile, can be locked without being writable, and nobody else
    /// locks it (the counter has a lock of its own, held for a moment).
    _directory: File,
}

/// Why there was no lock.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// The directory cannot be opened or locked.
    #[error("{0:?}: cannot be locked ({why})", why = reason(.1))]
    Io(PathBuf, io::Error),
    /// Others held it all the time.
    #[error("{0:?}: other programs have been knocking with this profile for {waited} s", waited = .1.as_secs())]
    Busy(PathBuf, Duration),
}

impl ProfileLock {
    /// Waits for the lock of the profile in `dir`, at most for `limit`.
    pub(crate) async fn take(dir: &Path, limit: Duration) -> Result<Self, LockError> {
        let unusable = |why| LockError::Io(dir.to_owned(), why);
        let directory = File::open(dir).map_err(unusable)?;
        let end = Instant::now() + limit;
        let mut pause = FIRST_PAUSE;
        loop {
            match directory.try_lock() {
                Ok(()) => return Ok(Self { _directory: directory }),
                Err(TryLockError::Error(why)) => return Err(unusable(why)),
                Err(TryLockError::WouldBlock) if Instant::now() >= end => {
                    return Err(LockError::Busy(dir.to_owned(), limit));
                }
                Err(TryLockError::WouldBlock) => sleep(pause).await,
            }
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_holds_it_at_a_time_and_the_next_when_that_one_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let lock = ProfileLock::take(dir.path(), MAX_WAIT).await.unwrap();
        let busy = ProfileLock::take(dir.path(), Duration::from_millis(20)).await.unwrap_err();
        assert!(matches!(busy, LockError::Busy(..)), "{busy}");

        let path = dir.path().to_owned();
        let waiting = tokio::spawn(async move { ProfileLock::take(&path, MAX_WAIT).await.is_ok() });
        tokio::task::yield_now().await;
        drop(lock);
        assert!(waiting.await.unwrap());
        // The one that gave up holds nothing.
        ProfileLock::take(dir.path(), MAX_WAIT).await.unwrap();
    }

    #[tokio::test]
    async fn a_directory_that_is_gone_is_an_error_that_names_it() {
        let error =
            ProfileLock::take(Path::new("/nonexistent/profile"), MAX_WAIT).await.unwrap_err();
        assert!(error.to_string().contains("/nonexistent/profile"), "{error}");
    }
}
