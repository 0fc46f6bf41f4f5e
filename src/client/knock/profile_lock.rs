//! Turns: for one profile, one knock-and-connect at a time on this machine.
//!
//! A grant is for an address and a port, admits one connection, and a second knock renews it instead of adding one.
//! Two programs that knock at once would get one grant between them. So whoever knocks in order to connect holds the
//! turn from its knock until its connection stands or has failed, and has closed every other attempt by then.

#![forbid(unsafe_code)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;
use std::{fmt, io};

/// Waiting longer for a turn than this is giving up. Each holder is done within [`crate::client::connect::race::TIME_LIMIT`].
pub const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A turn, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    /// The profile's directory: it is there on any profile, can be locked without being writable, and nobody else
    /// locks it (the counter has a lock of its own, held for a moment).
    _directory: File,
}

/// Why there was no turn.
#[derive(Debug)]
pub enum NoTurn {
    /// The directory cannot be opened or locked.
    Io(PathBuf, io::Error),
    /// Others were busy with this profile all the time.
    Busy(PathBuf, Duration),
}

impl fmt::Display for NoTurn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(dir, why) => write!(f, "{dir:?}: cannot be locked: {why}"),
            Self::Busy(dir, waited) => write!(
                f,
                "{dir:?}: other programs have been knocking with this profile for {} s; nothing was sent, no counter spent",
                waited.as_secs()
            ),
        }
    }
}

impl Turn {
    /// Waits for the turn of the profile in `dir`, at most for `limit`.
    pub fn take(dir: &Path, limit: Duration) -> Result<Self, NoTurn> {
        let unusable = |why| NoTurn::Io(dir.to_owned(), why);
        let directory = File::open(dir).map_err(unusable)?;
        if directory.try_lock().is_ok() {
            return Ok(Self { _directory: directory });
        }
        // flock knows no time limit, so a thread waits for it. When nobody wants the turn any more, the send below
        // fails, which closes the file and with it gives the turn back.
        let (sender, receiver) = mpsc::sync_channel(0);
        std::thread::spawn(move || {
            let locked = directory.lock().map(|()| directory);
            let _ = sender.send(locked);
        });
        match receiver.recv_timeout(limit) {
            Ok(locked) => Ok(Self { _directory: locked.map_err(unusable)? }),
            Err(_) => Err(NoTurn::Busy(dir.to_owned(), limit)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_turn_at_a_time_and_the_next_when_it_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let turn = Turn::take(dir.path(), LONGEST_WAIT).unwrap();
        let busy = Turn::take(dir.path(), Duration::from_millis(20)).unwrap_err();
        assert!(busy.to_string().contains("no counter spent"), "{busy}");

        let path = dir.path().to_owned();
        let waiting = std::thread::spawn(move || Turn::take(&path, LONGEST_WAIT).is_ok());
        drop(turn);
        assert!(waiting.join().unwrap());
        // The one that gave up has given its turn back, when it got it.
        Turn::take(dir.path(), LONGEST_WAIT).unwrap();
    }

    #[test]
    fn a_directory_that_is_gone_is_an_error_that_names_it() {
        let error = Turn::take(Path::new("/nonexistent/profile"), LONGEST_WAIT).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/profile"), "{error}");
    }
}
