//! One open log file, read by whole lines from where reading had come to.
//!
//! Owns the position in the file and the proof that the file is still the one that was read: the bytes before that
//! position are read again with every piece and compared, so a file that was cut and has grown again is noticed even
//! when it is longer than before. An unfinished line stays in the file and is read again when it has grown.
//! Knows no path and no directory.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt};

use nix::unistd::{Whence, lseek};

use super::open::FileIdentity;

/// The longest line that is handed on, its newline included; also how much is read at a time.
pub(super) const MAX_LINE_LEN: usize = 64 * 1024;

/// How many bytes before the position are compared: more than one kernel line, whose time of day or uptime differs
/// from every other line's. Fewer would take the equal ends of two lines of one scan for each other.
const MARK_LEN: usize = 512;

/// How a piece of reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PieceEnd {
    /// There is more to read.
    More,
    /// There is more to read, and a line longer than [`MAX_LINE_LEN`] is being left out.
    LineTooLong,
    /// There is nothing more for now.
    EndOfFile,
    /// What was read before is not in the file any more. Nothing was read.
    Truncated,
}

/// A place for one piece of reading: shared by all files, so that memory does not grow with them.
pub(super) fn buffer() -> Vec<u8> {
    vec![0; MARK_LEN + MAX_LINE_LEN]
}

/// An open file and the position in it.
#[derive(Debug)]
pub(super) struct Tail {
    file: File,
    identity: FileIdentity,
    /// Where the first byte stands that no line handed on (or left out) has had.
    offset: u64,
    /// The bytes before `offset`: [`MARK_LEN`] of them, or all.
    mark: Vec<u8>,
    /// The rest of the line at `offset` is left out.
    skipping: bool,
    /// A copy of a log, which nobody writes to: done with when its end is reached.
    pub(super) is_copy: bool,
    /// A failed read has been reported.
    pub(super) failing: bool,
}

impl Tail {
    /// A file that was created after the watch began: all of its lines are new.
    pub(super) fn from_beginning(file: File, identity: FileIdentity) -> Self {
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

    /// A file that existed before the start: only lines that begin after its present end count.
    pub(super) fn from_end(file: File, identity: FileIdentity) -> io::Result<Self> {
        let mut tail = Self::from_beginning(file, identity);
        tail.move_to(tail.file.metadata()?.len())?;
        tail.skipping = tail.mark.last().is_some_and(|byte| *byte != b'\n');
        Ok(tail)
    }

    pub(super) fn identity(&self) -> FileIdentity {
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

    /// Reads one piece into `buffer`. The range of it that holds whole lines, the last newline included, and how the piece
    /// ended.
    pub(super) fn read_piece(&mut self, buffer: &mut [u8]) -> io::Result<(Range<usize>, PieceEnd)> {
        let known = self.mark.len();
        let space = buffer.get_mut(..known + MAX_LINE_LEN).ok_or(ErrorKind::InvalidInput)?;
        let from = self.offset.checked_sub(offset(known)?).ok_or(ErrorKind::InvalidInput)?;
        let length = self.file.read_at(space, from)?;
        let read = space.get(..length).ok_or(ErrorKind::InvalidData)?;
        let Some(fresh) = read.strip_prefix(self.mark.as_slice()) else {
            return Ok((0..0, PieceEnd::Truncated));
        };

        let full = fresh.len() == MAX_LINE_LEN;
        let mut end = if full { PieceEnd::More } else { PieceEnd::EndOfFile };
        let mut taken = 0;
        if self.skipping {
            let newline = memchr::memchr(b'\n', fresh);
            taken = newline.map_or(fresh.len(), |newline| newline + 1);
            self.skipping = newline.is_none();
        }
        let first = taken;
        let rest = fresh.get(first..).ok_or(ErrorKind::InvalidData)?;
        if let Some(last) = memchr::memrchr(b'\n', rest) {
            taken += last + 1;
        }
        let lines = known + first..known + taken;
        if full && taken == 0 {
            // Leading NULs are a hole that a truncation left, not part of the line.
            taken = fresh.iter().take_while(|&&byte| byte == 0).count();
            if taken == 0 {
                taken = fresh.len();
                self.skipping = true;
                end = PieceEnd::LineTooLong;
            }
        }
        let read_to = known + taken;
        let mark = read.get(read_to.saturating_sub(MARK_LEN)..read_to);
        self.mark = mark.ok_or(ErrorKind::InvalidData)?.to_vec();
        self.offset += offset(taken)?;
        Ok((lines, end))
    }

    /// If that file has the bytes that were read last here, at the same place, and more after them: how many more, and
    /// the file as one to read from there.
    pub(super) fn continued_in(&self, file: File, identity: FileIdentity) -> Option<(u64, Self)> {
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
        self.move_to(u64::try_from(first_data).map_err(io::Error::other)?)
    }

    /// Goes to an offset and remembers what stands before it.
    fn move_to(&mut self, to: u64) -> io::Result<()> {
        self.offset = to;
        // A number that does not fit is larger than the mark.
        let length = usize::try_from(to).map_or(MARK_LEN, |to| to.min(MARK_LEN));
        self.mark = vec![0; length];
        self.file.read_exact_at(&mut self.mark, to.saturating_sub(offset(length)?))
    }
}

/// A length as a distance in a file.
fn offset(length: usize) -> io::Result<u64> {
    u64::try_from(length).map_err(io::Error::other)
}
