//! The daemon's end of the pipes to the helper. Owns the helper's process from that side: asks it, detects
//! its exit, ends it.
//! Runs without any privilege; `privileged::helper` is the other end.
//!
//! System calls: `write`, `poll` (`ppoll`) and `read` to ask; `close`, `wait4`, `kill`, `clock_nanosleep` and
//! `clock_gettime` to end.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, read, write};
use thiserror::Error;

use crate::grant::Grant;
use crate::privileged::message::{MAX_NUMBERS, Message, REPLY_LEN, Reply};
use crate::privileged::spawn::Spawned;

/// A reply takes some ten microseconds. A helper that has not replied after this time is stopped or hangs.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the helper may take to exit after its pipe is closed.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// The helper, as the daemon sees it. Dropping it closes the pipe, which ends the helper.
#[derive(Debug)]
pub struct HelperHandle {
    pid: Pid,
    requests: OwnedFd,
    replies: OwnedFd,
    gone: Option<HelperGone>,
}

/// Why there was no reply. The helper cannot be used any more; the daemon exits, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HelperGone {
    /// It has exited; [`HelperHandle::end`] tells how.
    #[error("the helper has ended")]
    Ended,
    /// It did not reply in time.
    #[error("the helper did not reply in {} seconds", REPLY_TIMEOUT.as_secs())]
    TimedOut,
    /// No reply has these bytes.
    #[error("the helper sent an invalid reply")]
    InvalidReply,
    /// The pipe broke in another way.
    #[error("the pipe to the helper broke: {}", .0.desc())]
    Pipe(#[from] Errno),
}

/// Why the helper is not ready, and will not be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotReady {
    /// It said so.
    #[error("helper: {}", .0.escape_debug())]
    Because(String),
    /// It ended without a message, like this.
    #[error("the helper ended before it was ready: {0}")]
    Ended(Ended),
}

/// How the helper ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this exit status; 0: it was told to exit.
    Exited(i32),
    /// By this signal. `SIGSYS`: it made a system call that its filter forbids.
    Killed(Signal),
    /// It has not ended: it is stopped, and we may not kill it. It exits when it is continued.
    Stopped,
}

impl HelperHandle {
    /// Waits until the helper reports that it is ready, or why it cannot start.
    pub fn when_ready(Spawned { pid, requests, replies }: Spawned) -> Result<Self, NotReady> {
        let handle = Self { pid, requests, replies, gone: None };
        let (mut said, mut piece) = (Vec::new(), [0; 512]);
        let deadline = Instant::now() + REPLY_TIMEOUT;
        // It sends `Ready`, or it writes an error message and exits.
        while said != Reply::Ready.encode() {
            let read = handle.wait(deadline).and_then(|()| Ok(read(&handle.replies, &mut piece)?));
            let Ok(length @ 1..) = read else {
                let ended = handle.end();
                return Err(match String::from_utf8_lossy(&said) {
                    said if said.is_empty() => NotReady::Ended(ended),
                    said => NotReady::Because(said.into_owned()),
                });
            };
            said.extend_from_slice(piece.get(..length).unwrap_or_default());
        }
        Ok(handle)
    }

    /// Asks the helper for `grant`. Its other end is `answer_open`.
    ///
    /// # Errors The helper has exited or does not reply in time. Later requests fail too: a late reply would be taken
    /// for the next request's.
    pub fn ask_open(&mut self, grant: &Grant) -> Result<Reply, HelperGone> {
        self.ask(&Message::Open(*grant))
    }

    /// Asks the helper to revoke such a `grant`. Its other end is `answer_close`.
    pub fn ask_close(&mut self, grant: &Grant) -> Result<Reply, HelperGone> {
        self.ask(&Message::Close(*grant))
    }

    /// Asks the helper to have SYNs with these sequence numbers logged. [`Reply::Done`], or the first other reply; what was
    /// asked for before it stays.
    pub fn ask_expect(&mut self, numbers: &[u32]) -> Result<Reply, HelperGone> {
        self.ask_in_parts(numbers, Message::Expect)
    }

    /// Asks the helper to have them logged no longer.
    pub fn ask_forget(&mut self, numbers: &[u32]) -> Result<Reply, HelperGone> {
        self.ask_in_parts(numbers, Message::Forget)
    }

    /// Asks the helper to have SYNs to these ports logged, too.
    pub fn ask_knock_ports(&mut self, ports: &[u16]) -> Result<Reply, HelperGone> {
        self.ask_in_parts(ports, Message::KnockPorts)
    }

    /// Asks the helper to drop our copy of the guard. [`Reply::Done`], too, where there is none.
    pub(crate) fn ask_unguard(&mut self) -> Result<Reply, HelperGone> {
        self.ask(&Message::Unguard)
    }

    fn ask_in_parts<T: Copy>(
        &mut self,
        all: &[T],
        message: impl Fn(Vec<T>) -> Message,
    ) -> Result<Reply, HelperGone> {
        for part in all.chunks(MAX_NUMBERS) {
            let reply = self.ask(&message(part.to_vec()))?;
            if reply != Reply::Done {
                return Ok(reply);
            }
        }
        Ok(Reply::Done)
    }

    fn ask(&mut self, message: &Message) -> Result<Reply, HelperGone> {
        if let Some(gone) = self.gone {
            return Err(gone);
        }
        let reply = self.exchange(message);
        self.gone = reply.err();
        reply
    }

    fn exchange(&self, message: &Message) -> Result<Reply, HelperGone> {
        match write(&self.requests, &message.encode()) {
            Err(Errno::EPIPE) => return Err(HelperGone::Ended),
            written => written?,
        };
        self.wait(Instant::now() + REPLY_TIMEOUT)?;
        let mut bytes = [0; REPLY_LEN];
        match read(&self.replies, &mut bytes)? {
            0 => Err(HelperGone::Ended),
            REPLY_LEN => Reply::decode(&bytes).ok_or(HelperGone::InvalidReply),
            _ => Err(HelperGone::InvalidReply),
        }
    }

    /// Waits until there is something to read, or the end.
    fn wait(&self, deadline: Instant) -> Result<(), HelperGone> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.replies.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(0) => return Err(HelperGone::TimedOut),
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// A descriptor that polls as hung up (`POLLHUP`) when the helper has ended. Poll it with no events asked for.
    #[must_use]
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.replies.as_fd()
    }

    /// The helper's process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Ends the helper: sends [`Message::End`], closes the pipe, waits up to a second, then kills it. Reaps it and returns how
    /// it ended.
    #[must_use]
    pub fn end(self) -> Ended {
        let Self { pid, requests, replies, .. } = self;
        // If the helper has exited, this write fails, which does not matter.
        let _ = write(&requests, &Message::End.encode());
        drop((requests, replies));
        let deadline = Instant::now() + END_TIMEOUT;
        let mut killed = false;
        loop {
            match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(_, status)) => return Ended::Exited(status),
                Ok(WaitStatus::Signaled(_, signal, _)) => return Ended::Killed(signal),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return Ended::Stopped,
            }
            if Instant::now() > deadline && !killed {
                killed = true;
                // It has our user id, unless another process changed that.
                if kill(pid, Signal::SIGKILL).is_err() {
                    return Ended::Stopped;
                }
            }
            sleep(Duration::from_millis(1));
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exit status {status}"),
            Self::Killed(Signal::SIGSYS) => f.write_str("killed for a forbidden system call"),
            Self::Killed(signal) => write!(f, "killed by {signal}"),
            Self::Stopped => f.write_str("stopped; it exits when it is continued"),
        }
    }
}
