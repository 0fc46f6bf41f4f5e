//! The counter of a profile on disk: one decimal number and a newline in the file `counter`, as the original writes it.
//!
//! A counter is durable before it is acted on. It is overwritten in place, through a descriptor that was opened
//! early, and synced: that works inside the daemon's sandbox, which can open no file, and needs no new block, so a
//! disk that is full otherwise does not shut people out. The few bytes lie in one sector, so they are written whole
//! or not at all; the number never gets fewer digits, so nothing of the old one is left behind it.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::layout::classic::SPENT;

/// The file's name in a profile's directory.
pub(crate) const FILE_NAME: &str = "counter";

/// More bytes than any counter has: ten digits, a newline, and some padding.
const MAX_LEN: usize = 64;

/// An open `counter` file.
#[derive(Debug)]
pub struct Counter {
    file: File,
    path: PathBuf,
}

impl Counter {
    /// Opens the counter of the profile in `profile_dir` for reading and writing. Does not create it: a counter that
    /// is gone must be an error, never a 0, because knocks that were used once would open again.
    pub fn open(profile_dir: &Path) -> Result<Self, CounterError> {
        let path = profile_dir.join(FILE_NAME);
        // O_NONBLOCK: a FIFO in its place must not hang us; on a regular file it means nothing.
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(&path);
        match opened {
            Ok(file) => Ok(Self { file, path }),
            Err(why) => Err(CounterError { path, kind: CounterErrorKind::Open(why) }),
        }
    }

    /// Who may do what with the file.
    pub(crate) fn metadata(&self) -> Result<Metadata, CounterError> {
        self.file.metadata().map_err(|why| self.error(CounterErrorKind::Read(why)))
    }

    /// The next counter to use, as it is on disk now.
    pub fn read(&self) -> Result<u32, CounterError> {
        self.parse().map(|(counter, _)| counter)
    }

    /// Makes `counter` durable: written and synced (fdatasync) when this returns.
    ///
    /// A file that was removed, or that another was moved over, takes a write and keeps nothing: whoever opens the
    /// profile next finds an older counter, or none.
    pub fn write(&self, counter: u32) -> Result<(), CounterError> {
        let (_, digits) = self.parse()?;
        if self.metadata()?.nlink() == 0 {
            return Err(self.error(CounterErrorKind::Removed));
        }
        let text = format!("{counter:0digits$}\n");
        self.file
            .write_all_at(text.as_bytes(), 0)
            .and_then(|()| self.file.sync_data())
            .map_err(|why| self.error(CounterErrorKind::Write(why)))
    }

    /// The sender's step: takes the next counter, makes its successor durable, and has `send` use it, under a lock
    /// that every other sender with this profile takes too. The counter is `send`'s alone, whatever happens to it.
    ///
    /// The lock is held until `send` returns, so that counters leave in their order: the receiver has moved on from
    /// one that is overtaken.
    pub fn spend<T>(&self, send: impl FnOnce(u32) -> T) -> Result<T, CounterError> {
        self.file.lock().map_err(|why| self.error(CounterErrorKind::Lock(why)))?;
        let result = self.spend_locked().map(send);
        // Closing the file unlocks it too, so there is nothing to do about a failure here.
        let _ = self.file.unlock();
        result
    }

    fn spend_locked(&self) -> Result<u32, CounterError> {
        let counter = self.read()?;
        if counter == SPENT {
            return Err(self.error(CounterErrorKind::Spent));
        }
        self.write(counter + 1)?;
        Ok(counter)
    }

    /// The number and how many digits it is written with.
    fn parse(&self) -> Result<(u32, usize), CounterError> {
        let mut bytes = [0; MAX_LEN];
        let len = self
            .file
            .read_at(&mut bytes, 0)
            .map_err(|why| self.error(CounterErrorKind::Read(why)))?;
        let text = bytes.get(..len).unwrap_or_default().trim_ascii_end();
        if text.is_empty() {
            return Err(self.error(CounterErrorKind::Empty));
        }
        // The beginning of a number is another number, and may be one that was used long ago: the whole file must be
        // seen, now and with the newline that a write adds.
        let is_whole = len < MAX_LEN && text.len() < MAX_LEN - 1;
        if !is_whole || !text.iter().all(u8::is_ascii_digit) {
            return Err(self.error(CounterErrorKind::NotANumber));
        }
        let number = str::from_utf8(text).ok().and_then(|digits| digits.parse().ok());
        Ok((number.ok_or_else(|| self.error(CounterErrorKind::TooLarge))?, text.len()))
    }

    fn error(&self, kind: CounterErrorKind) -> CounterError {
        CounterError { path: self.path.clone(), kind }
    }
}

/// What is wrong with a counter file, and what to do about it.
#[derive(Debug, Error)]
#[error("{path:?}: {kind}")]
pub struct CounterError {
    path: PathBuf,
    #[source]
    kind: CounterErrorKind,
}

#[derive(Debug, Error)]
enum CounterErrorKind {
    #[error("cannot open the counter: {0}")]
    Open(io::Error),
    #[error("cannot lock the counter: {0}")]
    Lock(io::Error),
    #[error("cannot read the counter: {0}")]
    Read(io::Error),
    #[error("cannot make the counter durable: {0}")]
    Write(io::Error),
    #[error(
        "the counter file is empty\nfix: make a new profile with knock-genprofile; never start it at 0 again, since old knocks would open"
    )]
    Empty,
    #[error(
        "the counter file holds something other than one decimal number\nfix: make a new profile with knock-genprofile"
    )]
    NotANumber,
    #[error("the counter is larger than {SPENT}\nfix: make a new profile with knock-genprofile")]
    TooLarge,
    #[error(
        "every counter of this profile has been used\nfix: make a new profile with knock-genprofile"
    )]
    Spent,
    #[error(
        "the counter file was removed or replaced while in use, so nothing that is written would last\nfix: if the profile is to stay, restart the daemon"
    )]
    Removed,
}

impl CounterError {
    /// Whether the profile is used up: its last counter has been spent.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        matches!(self.kind, CounterErrorKind::Spent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn with_content(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE_NAME), content).unwrap();
        let file = dir.path().join(FILE_NAME);
        (dir, file)
    }

    #[test]
    fn a_number_and_a_newline_are_read_and_written_as_the_original_does() {
        let (dir, file) = with_content(b"9\n");
        let counter = Counter::open(dir.path()).unwrap();
        assert_eq!(counter.read().unwrap(), 9);
        counter.write(10).unwrap();
        assert_eq!(fs::read(file).unwrap(), b"10\n");
    }

    #[test]
    fn nothing_of_a_longer_old_number_is_left_behind_the_new_one() {
        let (dir, file) = with_content(b"0000000041\n");
        let counter = Counter::open(dir.path()).unwrap();
        counter.write(42).unwrap();
        assert_eq!(fs::read(file).unwrap(), b"0000000042\n");
        assert_eq!(counter.read().unwrap(), 42);
    }

    #[test]
    fn whatever_is_no_counter_is_an_error_that_names_the_file() {
        let nul = [0; 4];
        let absurd: [&[u8]; 9] = [
            b"",
            b"\n",
            b"-1\n",
            b"4294967296\n",
            b"1 2\n",
            b"12\n13\n",
            b"abc",
            &nul,
            &[b'9'; 200],
        ];
        for content in absurd {
            let (dir, file) = with_content(content);
            let error = Counter::open(dir.path()).unwrap().read().unwrap_err();
            assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
            assert!(!error.is_spent(), "{error}");
            assert_eq!(
                fs::read(file).unwrap(),
                content,
                "a counter that cannot be read is left alone"
            );
        }
    }

    #[test]
    fn the_beginning_of_a_longer_file_is_no_counter() {
        let (digits, blanks) = (format!("{:080}\n", 9), format!("9{:80}9\n", ""));
        let no_newline = format!("{:063}", 9);
        for content in [digits, blanks, no_newline] {
            let (dir, file) = with_content(content.as_bytes());
            let counter = Counter::open(dir.path()).unwrap();
            assert!(counter.read().is_err() && counter.spend(drop).is_err(), "{content:?}");
            assert_eq!(fs::read(file).unwrap(), content.as_bytes());
        }
    }

    #[test]
    fn a_counter_that_is_not_there_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Counter::open(dir.path()).is_err());
        assert!(!dir.path().join(FILE_NAME).exists());
    }

    #[test]
    fn a_counter_that_was_removed_or_replaced_since_is_not_moved() {
        let (dir, file) = with_content(b"9\n");
        let counter = Counter::open(dir.path()).unwrap();
        fs::write(dir.path().join("new"), b"5\n").unwrap();
        fs::rename(dir.path().join("new"), &file).unwrap();
        let error = counter.write(10).unwrap_err();
        assert!(error.to_string().contains("removed or replaced"), "{error}");
        assert!(counter.spend(drop).is_err());
        assert_eq!(fs::read(&file).unwrap(), b"5\n");
        fs::remove_file(&file).unwrap();
        assert!(counter.write(10).is_err());
    }

    #[test]
    fn the_last_counter_can_be_spent_and_then_no_more() {
        let (dir, file) = with_content(b"4294967294\n");
        assert_eq!(Counter::open(dir.path()).unwrap().spend(|counter| counter).unwrap(), SPENT - 1);
        let error = Counter::open(dir.path()).unwrap().spend(|counter| counter).unwrap_err();
        assert!(error.is_spent());
        assert_eq!(fs::read(file).unwrap(), b"4294967295\n");
    }

    #[test]
    fn no_two_of_many_senders_get_the_same_counter_and_none_is_lost() {
        let (dir, file) = with_content(b"0\n");
        let spenders: Vec<_> = (0..8)
            .map(|_| {
                let dir = dir.path().to_owned();
                std::thread::spawn(move || {
                    (0..25)
                        .map(|_| Counter::open(&dir).unwrap().spend(|counter| counter).unwrap())
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let mut spent: Vec<u32> =
            spenders.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        spent.sort_unstable();
        assert_eq!(spent, (0..200).collect::<Vec<_>>());
        assert_eq!(fs::read(file).unwrap(), b"200\n");
    }
}
