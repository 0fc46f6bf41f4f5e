//! The kernel's log from the kernel: `/dev/kmsg`, one record a read.
//!
//! Owns the descriptor and the count of records. Records are handed on whole; that only facility 0 speaks for the
//! kernel is checked where a record is parsed. Never writes to the device.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::error::{Report, SourceError};
use crate::daemon::kernel_log_line::header::kmsg_sequence;

/// The device.
pub(super) const DEVICE: &str = "/dev/kmsg";

/// A read must hold a whole record; the kernel's are at most 8 KiB.
const BUFFER_LEN: usize = 16 * 1024;

/// Records in one turn: a few milliseconds of work.
const MAX_RECORDS: usize = 1024;

/// The kernel's log, open after its newest record.
#[derive(Debug)]
pub struct KmsgLog {
    device: File,
    count: RecordCount,
    buffer: Vec<u8>,
    /// How many reads this turn still has.
    left: usize,
}

impl KmsgLog {
    /// Opens the device after its newest record. Needs root or `CAP_SYSLOG`; reading afterwards does not.
    pub(crate) fn open() -> Result<Self, SourceError> {
        let cannot = |error| SourceError::Open(PathBuf::from(DEVICE), error);
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
        let mut device = options.open(DEVICE).map_err(cannot)?;
        device.seek(SeekFrom::End(0)).map_err(cannot)?;
        Ok(Self {
            device,
            count: RecordCount::default(),
            buffer: vec![0; BUFFER_LEN],
            left: MAX_RECORDS,
        })
    }

    /// Reads the next record, at most a bounded number of them in a turn. See [`super::LogSource::read`].
    pub(super) fn read(&mut self) -> Result<Option<&[u8]>, SourceError> {
        while self.left > 0 {
            self.left -= 1;
            match self.device.read(&mut self.buffer) {
                Ok(length) => {
                    let record = self.buffer.get(..length).unwrap_or_default();
                    self.count.read(record);
                    // The text ends at the first newline; a dictionary may follow, which is not to be searched.
                    let end = memchr::memchr(b'\n', record).unwrap_or(length);
                    return Ok(self.buffer.get(..end));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Records were overwritten (EPIPE), or one is larger than the buffer (EINVAL). Reading goes on after
                // them, and the next record's number tells how many there were.
                Err(error) if is(&error, Errno::EPIPE) || is(&error, Errno::EINVAL) => {
                    self.count.overran();
                }
                Err(error) => return Err(SourceError::Read(PathBuf::from(DEVICE), error)),
            }
        }
        self.left = MAX_RECORDS;
        Ok(None)
    }

    /// What was lost since this was last asked.
    pub(super) fn take_reports(&mut self) -> Vec<Report> {
        self.count.lost().into_iter().collect()
    }
}

impl AsFd for KmsgLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

fn is(error: &std::io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

/// Which record comes next, and how many have been missed since that was last reported.
#[derive(Debug, Default)]
struct RecordCount {
    /// Known once one has been read.
    next: Option<u64>,
    missed: u64,
    /// Records were missed before the first one was read, so their number is unknown.
    missed_unknown: bool,
}

impl RecordCount {
    fn read(&mut self, record: &[u8]) {
        if let Some(number) = kmsg_sequence(record) {
            self.missed += self.next.map_or(0, |next| number.saturating_sub(next));
            self.next = Some(number.saturating_add(1));
        }
    }

    fn overran(&mut self) {
        self.missed_unknown |= self.next.is_none();
    }

    fn lost(&mut self) -> Option<Report> {
        match (std::mem::take(&mut self.missed), std::mem::take(&mut self.missed_unknown)) {
            (0, false) => None,
            (0, true) => Some(Report::Lost(None)),
            (missed, _) => Some(Report::Lost(Some(missed))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_that_were_overwritten_are_counted_by_the_numbers_that_are_missing() {
        let mut count = RecordCount::default();
        count.read(b"6,100,1,-;first");
        count.read(b"6,101,1,-;second");
        assert_eq!(count.lost(), None);
        count.overran();
        assert_eq!(count.lost(), None, "the next record tells");
        count.read(b"6,131,1,-;much later");
        assert_eq!(count.lost(), Some(Report::Lost(Some(29))));
        count.read(b"6,132,1,-;and on");
        assert_eq!(count.lost(), None);
    }

    #[test]
    fn records_lost_before_the_first_one_are_reported_without_a_number() {
        let mut count = RecordCount::default();
        count.overran();
        count.read(b"6,131,1,-;much later");
        assert_eq!(count.lost(), Some(Report::Lost(None)));
        count.read(b"no record");
        count.read(b"6,132,1,-;and on");
        assert_eq!(count.lost(), None);
    }
}
