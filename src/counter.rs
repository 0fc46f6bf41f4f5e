//! The counter of a profile on disk: one decimal number and a newline in the file `counter`, as the original writes it.
//! A client with the stealth layout may have two more numbers behind it ([`Counter::sender`]).
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
use crate::layout::steps::StealthSender;

/// The file's name in a profile's directory.
pub(crate) const FILE_NAME: &str = "counter";

/// More bytes than any counter has: three numbers of at most twenty digits, a newline, and some padding.
const MAX_LEN: usize = 64;

/// The digits of the largest number, 2^64 - 1.
const MAX_DIGITS: usize = 20;

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
        Self::open_with(profile_dir, &OpenOptions::new())
    }

    /// The same, but makes an empty file where there is none: for a sender whose clock says which number comes next.
    pub(crate) fn create(profile_dir: &Path) -> Result<Self, CounterError> {
        Self::open_with(profile_dir, OpenOptions::new().create(true).mode(0o600))
    }

    fn open_with(profile_dir: &Path, options: &OpenOptions) -> Result<Self, CounterError> {
        let path = profile_dir.join(FILE_NAME);
        let mut options = options.clone();
        // O_NONBLOCK: a FIFO in its place must not hang us; on a regular file it means nothing.
        options.read(true).write(true).custom_flags(nix::libc::O_NONBLOCK);
        match options.open(&path) {
            Ok(file) => Ok(Self { file, path }),
            Err(why) => Err(CounterError { path, kind: CounterErrorKind::Open(why) }),
        }
    }

    /// Who may do what with the file.
    pub(crate) fn metadata(&self) -> Result<Metadata, CounterError> {
        self.file.metadata().map_err(|why| self.error(CounterErrorKind::Read(why)))
    }

    /// The next counter to use, as it is on disk now: a `u32` in the classic layout, a `u64` in the stealth layout.
    pub fn read<N: TryFrom<u64>>(&self) -> Result<N, CounterError> {
        let (counter, _) = self.parse(&self.text()?)?;
        N::try_from(counter).map_err(|_| self.error(CounterErrorKind::TooLarge))
    }

    /// Makes `counter` durable: written and synced (fdatasync) when this returns.
    ///
    /// A file that was removed, or that another was moved over, takes a write and keeps nothing: whoever opens the
    /// profile next finds an older counter, or none.
    pub fn write(&self, counter: impl Into<u64>) -> Result<(), CounterError> {
        let (_, digits) = self.parse(&self.text()?)?;
        self.write_line(&format!("{:0digits$}\n", counter.into()))
    }

    /// Where a sender with the stealth layout stands: its counter and, behind that, what it keeps of the numbers that the
    /// clock alone gave. An empty file is a sender that knows its clock alone.
    pub fn sender(&self) -> Result<StealthSender, CounterError> {
        let text = self.text()?;
        let mut numbers = text.split(|byte| *byte == b' ');
        let mut next = || numbers.next().map(|number| self.parse(number)).transpose();
        if text.is_empty() {
            return Ok(StealthSender::default());
        }
        let [counter, by_clock, turn] = [next()?, next()?, next()?];
        let number = |parsed: Option<(u64, usize)>| parsed.map_or(0, |(number, _)| number);
        if numbers.next().is_some() || number(turn) > 1 || by_clock.is_some() != turn.is_some() {
            return Err(self.error(CounterErrorKind::NotANumber));
        }
        Ok(StealthSender {
            counter: number(counter),
            by_clock: number(by_clock),
            clock_is_next: number(turn) == 1,
        })
    }

    fn write_line(&self, line: &str) -> Result<(), CounterError> {
        if self.metadata()?.nlink() == 0 {
            return Err(self.error(CounterErrorKind::Removed));
        }
        self.file
            .write_all_at(line.as_bytes(), 0)
            .and_then(|()| self.file.sync_data())
            .map_err(|why| self.error(CounterErrorKind::Write(why)))
    }

    /// The sender's step: takes the next counter, makes its successor durable, and has `send` use it, under a lock
    /// that every other sender with this profile takes too. The counter is `send`'s alone, whatever happens to it.
    ///
    /// The lock is held until `send` returns, so that counters leave in their order: the receiver has moved on from
    /// one that is overtaken.
    pub fn spend<T>(&self, send: impl FnOnce(u32) -> T) -> Result<T, CounterError> {
        self.locked(
            || {
                let counter = self.read()?;
                if counter == SPENT {
                    return Err(self.error(CounterErrorKind::Spent));
                }
                self.write(counter + 1)?;
                Ok(counter)
            },
            send,
        )
    }

    /// The same in the stealth layout, where the clock has a say: `step` is the time's
    /// ([`step_of`](crate::layout::steps::step_of)).
    pub fn spend_in<T>(&self, step: u64, send: impl FnOnce(u64) -> T) -> Result<T, CounterError> {
        self.locked(
            || {
                let mut sender = self.sender()?;
                let number = sender.next(step);
                let number = number.ok_or_else(|| self.error(CounterErrorKind::Spent))?;
                self.write_sender(&sender)?;
                Ok(number)
            },
            send,
        )
    }

    fn locked<N, T>(
        &self,
        take: impl FnOnce() -> Result<N, CounterError>,
        send: impl FnOnce(N) -> T,
    ) -> Result<T, CounterError> {
        self.file.lock().map_err(|why| self.error(CounterErrorKind::Lock(why)))?;
        let result = take().map(send);
        // Closing the file unlocks it too, so there is nothing to do about a failure here.
        let _ = self.file.unlock();
        result
    }

    fn write_sender(&self, sender: &StealthSender) -> Result<(), CounterError> {
        let StealthSender { counter, by_clock, clock_is_next } = sender;
        let old = self.text()?;
        let digits = old.split(|byte| *byte == b' ').next().map_or(0, <[u8]>::len);
        let mut line = format!("{counter:0digits$}");
        // They begin with the first turn of the clock, and stay, so that the line never gets shorter.
        if *clock_is_next || old.contains(&b' ') {
            line = format!("{line} {by_clock:0MAX_DIGITS$} {}", u8::from(*clock_is_next));
        }
        self.write_line(&format!("{line}\n"))
    }

    /// What the file says, without the newline.
    ///
    /// The beginning of a number is another number, and may be one that was used long ago: the whole file must be seen,
    /// now and with the newline that a write adds.
    fn text(&self) -> Result<Vec<u8>, CounterError> {
        let mut bytes = [0; MAX_LEN];
        let len = self
            .file
            .read_at(&mut bytes, 0)
            .map_err(|why| self.error(CounterErrorKind::Read(why)))?;
        let text = bytes.get(..len).unwrap_or_default().trim_ascii_end();
        if len == MAX_LEN || text.len() >= MAX_LEN - 1 {
            return Err(self.error(CounterErrorKind::NotANumber));
        }
        Ok(text.to_vec())
    }

    /// A number and how many digits it is written with.
    fn parse(&self, text: &[u8]) -> Result<(u64, usize), CounterError> {
        if text.is_empty() {
            return Err(self.error(CounterErrorKind::Empty));
        }
        if !text.iter().all(u8::is_ascii_digit) {
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
    #[error(
        "the counter is larger than the profile's layout has any\nfix: make a new profile with knock-genprofile"
    )]
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
    /// Whether there is no such file.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(&self.kind, CounterErrorKind::Open(why) if why.kind() == io::ErrorKind::NotFound)
    }

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
        assert_eq!(counter.read::<u32>().unwrap(), 9);
        counter.write(10_u32).unwrap();
        assert_eq!(fs::read(file).unwrap(), b"10\n");
    }

    #[test]
    fn nothing_of_a_longer_old_number_is_left_behind_the_new_one() {
        let (dir, file) = with_content(b"0000000041\n");
        let counter = Counter::open(dir.path()).unwrap();
        counter.write(42_u32).unwrap();
        assert_eq!(fs::read(file).unwrap(), b"0000000042\n");
        assert_eq!(counter.read::<u32>().unwrap(), 42);
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
            let error = Counter::open(dir.path()).unwrap().read::<u32>().unwrap_err();
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
            assert!(counter.read::<u32>().is_err() && counter.spend(drop).is_err(), "{content:?}");
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
        let error = counter.write(10_u32).unwrap_err();
        assert!(error.to_string().contains("removed or replaced"), "{error}");
        assert!(counter.spend(drop).is_err());
        assert_eq!(fs::read(&file).unwrap(), b"5\n");
        fs::remove_file(&file).unwrap();
        assert!(counter.write(10_u32).is_err());
    }

    #[test]
    fn the_last_counter_can_be_spent_and_then_no_more() {
        let (dir, file) = with_content(b"4294967294\n");
        assert_eq!(Counter::open(dir.path()).unwrap().spend(|counter| counter).unwrap(), SPENT - 1);
        let error = Counter::open(dir.path()).unwrap().spend(|counter| counter).unwrap_err();
        assert!(error.is_spent());
        assert_eq!(fs::read(file).unwrap(), b"4294967295\n");
    }

    /// A step of the year 2026.
    const NOW: u64 = 179_000_000;

    #[test]
    fn a_sender_goes_by_counter_and_clock_and_keeps_both() {
        let (dir, file) = with_content(b"0\n");
        let spend = |step| Counter::open(dir.path()).unwrap().spend_in(step, |n| n).unwrap();
        assert_eq!([spend(NOW), spend(NOW), spend(NOW - 1)], [0, 1, 2].map(|n| NOW * 256 + n));
        assert_eq!(fs::read(&file).unwrap(), b"45824000003\n", "the server reads it, too");
        // The clock was a year ahead and is right again: the counter and the clock take turns.
        let ahead = NOW + 3_153_600;
        assert_eq!(spend(ahead), ahead * 256);
        let torn = [spend(NOW), spend(NOW), spend(NOW)];
        assert_eq!(torn, [ahead * 256 + 1, NOW * 256, ahead * 256 + 2]);
        assert_eq!(fs::read(&file).unwrap(), b"46631321603 00000000045824000001 1\n");
        assert_eq!(spend(ahead), ahead * 256 + 3);
        assert_eq!(spend(NOW), NOW * 256 + 1, "it is the clock's turn still");
    }

    #[test]
    fn nothing_of_a_longer_old_line_is_left_behind_a_sender_s_new_one() {
        let (dir, file) = with_content(b"000000000000000000000000041\n");
        let counter = Counter::open(dir.path()).unwrap();
        assert_eq!(counter.spend_in(0, |n| n).unwrap(), 41);
        assert_eq!(fs::read(&file).unwrap(), b"000000000000000000000000042\n");
        fs::write(&file, "0046631321603 00000000045824000001 1\n").unwrap();
        assert_eq!(counter.spend_in(NOW, |n| n).unwrap(), NOW * 256 + 1);
        assert_eq!(fs::read(&file).unwrap(), b"0046631321603 00000000045824000002 0\n");
    }

    #[test]
    fn only_a_file_that_is_not_there_is_not_found() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Counter::open(dir.path()).unwrap_err().is_not_found());
        fs::create_dir(dir.path().join(FILE_NAME)).unwrap();
        assert!(!Counter::open(dir.path()).unwrap_err().is_not_found());
        let (dir, _) = with_content(b"x");
        assert!(!Counter::open(dir.path()).unwrap().read::<u64>().unwrap_err().is_not_found());
    }

    #[test]
    fn a_sender_without_a_file_or_with_an_empty_one_goes_by_the_clock() {
        let dir = tempfile::tempdir().unwrap();
        let counter = Counter::create(dir.path()).unwrap();
        assert_eq!(counter.spend_in(NOW, |n| n).unwrap(), NOW * 256);
        assert_eq!(counter.read::<u64>().unwrap(), NOW * 256 + 1);
        assert!(counter.read::<u32>().is_err(), "the classic layout has no such counter");
        assert_eq!(Counter::create(dir.path()).unwrap().spend_in(0, |n| n).unwrap(), NOW * 256 + 1);
    }

    #[test]
    fn whatever_is_no_sender_s_state_is_refused_and_left_alone() {
        for content in
            ["1 2", "1 2 2", "1 2 1 1", "1  1", " 1", "x", "1 2 -1", "18446744073709551616"]
        {
            let (dir, file) = with_content(content.as_bytes());
            let counter = Counter::open(dir.path()).unwrap();
            assert!(counter.spend_in(NOW, drop).is_err(), "{content:?}");
            assert_eq!(fs::read(file).unwrap(), content.as_bytes());
        }
        let (dir, _) = with_content(b"7 9 1\n");
        let counter = Counter::open(dir.path()).unwrap();
        assert!(counter.read::<u64>().is_err(), "no server has such a counter");
        let sender = StealthSender { counter: 7, by_clock: 9, clock_is_next: true };
        assert_eq!(counter.sender().unwrap(), sender);
    }

    #[test]
    fn no_two_of_many_senders_get_the_same_number() {
        let (dir, _) = with_content(b"");
        let senders = (0..8).map(|_| {
            let dir = dir.path().to_owned();
            let spend = move || Counter::open(&dir).unwrap().spend_in(NOW, |n| n).unwrap();
            std::thread::spawn(move || (0..25).map(|_| spend()).collect::<Vec<_>>())
        });
        let senders: Vec<_> = senders.collect();
        let mut sent: Vec<u64> = senders.into_iter().flat_map(|one| one.join().unwrap()).collect();
        sent.sort_unstable();
        assert_eq!(sent, (NOW * 256..NOW * 256 + 200).collect::<Vec<_>>());
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
