//! One open log file, read by whole lines from where reading had come to.
//!
//! Owns the position in the file and the proof that the file is still the one that was read: the bytes before that
//! position are read again with every piece and compared, so a file that was cut and has grown again is noticed even
//! when it is longer than before. An unfinished line stays in the file and is read again when it has grown.
//! Knows no path and no directory.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt};

use nix::unistd::{Whence, lseek};

/// The longest line that is handed on, its newline included; also how much is read at a time.
pub(super) const LONGEST_LINE: usize = 64 * 1024;

/// How many bytes before the position are compared: more than one kernel line, whose time of day or uptime differs
/// from every other line's. Fewer would take the equal ends of two lines of one scan for each other.
const MARK: usize = 512;

/// Which file: device and inode number. An open file keeps its number from being used again.
pub(super) type Identity = (u64, u64);

/// What one piece of reading came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Lines were handed on as far as there were any; there is more.
    More,
    /// As `More`, and a line longer than [`LONGEST_LINE`] is being left out.
    TooLong,
    /// There is nothing more for now.
    End,
    /// What was read before is not in the file any more. Nothing was handed on.
    Truncated,
}

/// A place for one piece of reading: shared by all files, so that memory does not grow with them.
pub(super) fn buffer() -> Vec<u8> {
    vec![0; MARK + LONGEST_LINE]
}

/// An open file and the position in it.
#[derive(Debug)]
pub(super) struct Tail {
    file: File,
    identity: Identity,
    /// Where the first byte stands that no line handed on (or left out) has had.
    offset: u64,
    /// The bytes before `offset`: [`MARK`] of them, or all.
    mark: Vec<u8>,
    /// The rest of the line at `offset` is left out.
    skipping: bool,
    /// A copy of a log, which nobody writes to: done with when its end is reached.
    pub(super) is_copy: bool,
    /// A failed read has been reported.
    pub(super) failing: bool,
}

impl Tail {
    /// A file that came after we began to watch: all of it is news.
    pub(super) fn from_beginning(file: File, identity: Identity) -> Self {
        Self {
            file,
            identity,
            offset: 0,
            mark: Vec::new(),
            skipping: false,
            is_copy: false,
            failing: false,
        }
    }

    /// A file that was there before us: lines count that begin after its present end.
    pub(super) fn from_end(file: File, identity: Identity) -> io::Result<Self> {
        let mut tail = Self::from_beginning(file, identity);
        tail.move_to(tail.file.metadata()?.len())?;
        tail.skipping = tail.mark.last().is_some_and(|byte| *byte != b'\n');
        Ok(tail)
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    pub(super) fn into_file(self) -> File {
        self.file
    }

    /// Whether anything has been written to the file.
    pub(super) fn has_begun(&self) -> bool {
        self.offset > 0 || self.file.metadata().is_ok_and(|metadata| metadata.len() > 0)
    }

    /// Whether no directory holds the file any more.
    pub(super) fn is_deleted(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
    }

    /// Reads one piece and hands `each` the whole lines in it, together, the last newline included.
    pub(super) fn step(
        &mut self,
        buffer: &mut [u8],
        each: &mut dyn FnMut(&[u8]),
    ) -> io::Result<Step> {
        let known = self.mark.len();
        let before = u64::try_from(known).unwrap_or(0);
        let space = buffer.get_mut(..known + LONGEST_LINE).unwrap_or_default();
        let length = self.file.read_at(space, self.offset.saturating_sub(before))?;
        let read = space.get(..length).unwrap_or_default();
        let Some(fresh) = read.strip_prefix(self.mark.as_slice()) else {
            return Ok(Step::Truncated);
        };

        let full = fresh.len() == LONGEST_LINE;
        let mut step = if full { Step::More } else { Step::End };
        let mut taken = 0;
        if self.skipping {
            let end = memchr::memchr(b'\n', fresh);
            taken = end.map_or(fresh.len(), |newline| newline + 1);
            self.skipping = end.is_none();
        }
        let lines = fresh.get(taken..).unwrap_or_default();
        if let Some(last) = memchr::memrchr(b'\n', lines) {
            each(lines.get(..=last).unwrap_or_default());
            taken += last + 1;
        } else if full && taken == 0 {
            // Leading NULs are a hole that a truncation left, not part of the line.
            taken = fresh.iter().take_while(|&&byte| byte == 0).count();
            if taken == 0 {
                taken = fresh.len();
                self.skipping = true;
                step = Step::TooLong;
            }
        }
        let end = known + taken;
        self.mark = read.get(end.saturating_sub(MARK)..end).unwrap_or_default().to_vec();
        self.offset += u64::try_from(taken).unwrap_or(0);
        Ok(step)
    }

    /// If that file has the bytes that were read last here, at the same place, and more after them: how many more, and
    /// the file as one to read from there.
    pub(super) fn continued_in(&self, file: File, identity: Identity) -> Option<(u64, Self)> {
        let mut copy = Self::from_beginning(file, identity);
        copy.move_to(self.offset).ok()?;
        let unread = copy.file.metadata().ok()?.len().checked_sub(self.offset)?;
        (copy.skipping, copy.is_copy) = (self.skipping, true);
        (unread > 0 && !self.mark.is_empty() && copy.mark == self.mark).then_some((unread, copy))
    }

    /// Begins again with what the file holds now, after the hole that a writer left which kept its old position.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        self.skipping = false;
        let first_data = lseek(&self.file, 0, Whence::SeekData).unwrap_or(0);
        self.move_to(u64::try_from(first_data).unwrap_or(0))
    }

    /// Goes to an offset and remembers what stands before it.
    fn move_to(&mut self, offset: u64) -> io::Result<()> {
        self.offset = offset;
        let length = usize::try_from(offset).unwrap_or(MARK).min(MARK);
        self.mark = vec![0; length];
        self.file.read_exact_at(&mut self.mark, offset - u64::try_from(length).unwrap_or(0))
    }
}
