//! The daemon's end of the pipes. Owns the helper's process from the daemon's side: asks it, notices its end, ends it.
//! Runs without any privilege; [`super::helper`] is the other end.
//!
//! System calls: `write`, `poll` (`ppoll`) and `read` to ask; `close`, `wait4`, `kill`, `clock_nanosleep` and
//! `clock_gettime` to end.

#![forbid(unsafe_code)]

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, read, write};

use super::{MAX_NUMBERS, Message, REPLY_LEN, Reply, Request, SplitError};

/// A reply takes some ten microseconds. A helper that takes this long was stopped, or the machine is beyond help.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the helper may take to end by itself, once its pipe is closed.
const GRACE: Duration = Duration::from_secs(1);

/// The helper, as the daemon sees it. Dropping it closes the pipe, which ends the helper.
#[derive(Debug)]
pub struct Helper {
    pid: Pid,
    requests: OwnedFd,
    replies: OwnedFd,
    gone: Option<HelperGone>,
}

/// Why there was no reply. The helper is of no use any more; the daemon ends, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelperGone {
    /// It has ended, [`Helper::end`] tells how.
    Ended,
    /// It did not reply in 5 seconds.
    TimedOut,
    /// What it replied is no reply.
    NotAReply,
    /// The pipe broke in another way.
    Pipe(Errno),
}

/// How the helper ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this exit status; 0: it was told to.
    Exited(i32),
    /// By this signal. `SIGSYS`: it did what its filter forbids.
    Killed(Signal),
    /// Not at all: it is stopped and not ours to kill. It ends by itself when it goes on.
    Not,
}

impl Helper {
    pub(super) fn new(pid: Pid, requests: OwnedFd, replies: OwnedFd) -> Self {
        Self { pid, requests, replies, gone: None }
    }

    /// Waits until the helper says that it is ready, or why it will not be.
    pub(super) fn when_ready(self) -> Result<Self, SplitError> {
        let (mut said, mut piece) = (Vec::new(), [0; 512]);
        let deadline = Instant::now() + PATIENCE;
        // It says `Ready`, or it writes a line and ends.
        while said != Reply::Ready.encode() {
            match self
                .wait(deadline)
                .and_then(|()| read(&self.replies, &mut piece).map_err(HelperGone::Pipe))
            {
                Ok(length @ 1..) => said.extend_from_slice(piece.get(..length).unwrap_or_default()),
                _ => {
                    return Err(SplitError::Helper(
                        String::from_utf8_lossy(&said).into_owned(),
                        self.end(),
                    ));
                }
            }
        }
        Ok(self)
    }

    /// Asks the helper to open what `request` says. Its other end is `answer_open`.
    ///
    /// # Errors
    /// The helper is gone, or of no use: a late reply would be taken for the next one's, so this stays so.
    pub fn ask_open(&mut self, request: &Request) -> Result<Reply, HelperGone> {
        self.ask(&Message::Open(*request))
    }

    /// Asks the helper to close what was opened by such a `request`. Its other end is `answer_close`.
    pub fn ask_close(&mut self, request: &Request) -> Result<Reply, HelperGone> {
        self.ask(&Message::Close(*request))
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
    pub fn ask_unguard(&mut self) -> Result<Reply, HelperGone> {
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
            written => written.map_err(HelperGone::Pipe)?,
        };
        self.wait(Instant::now() + PATIENCE)?;
        let mut bytes = [0; REPLY_LEN];
        match read(&self.replies, &mut bytes).map_err(HelperGone::Pipe)? {
            0 => Err(HelperGone::Ended),
            REPLY_LEN => Reply::decode(&bytes).ok_or(HelperGone::NotAReply),
            _ => Err(HelperGone::NotAReply),
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
                Err(errno) => return Err(HelperGone::Pipe(errno)),
            }
        }
    }

    /// A descriptor that polls as hung up (`POLLHUP`) when the helper has ended. Poll it with no events asked for.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.replies.as_fd()
    }

    /// The helper's process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Ends the helper: takes leave, closes its pipe, waits up to a second, then kills it. Reaps it and says how it ended.
    #[must_use]
    pub fn end(self) -> Ended {
        let Self { pid, requests, replies, .. } = self;
        // If it is gone already, there is nobody to tell.
        let _ = write(&requests, &Message::End.encode());
        drop((requests, replies));
        let deadline = Instant::now() + GRACE;
        let mut killed = false;
        loop {
            match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(_, status)) => return Ended::Exited(status),
                Ok(WaitStatus::Signaled(_, signal, _)) => return Ended::Killed(signal),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return Ended::Not,
            }
            if Instant::now() > deadline && !killed {
                killed = true;
                // It has our user, unless somebody changed that from outside.
                if kill(pid, Signal::SIGKILL).is_err() {
                    return Ended::Not;
                }
            }
            sleep(Duration::from_millis(1));
        }
    }
}

impl std::error::Error for HelperGone {}

impl fmt::Display for HelperGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended => f.write_str("the helper has ended"),
            Self::TimedOut => {
                write!(f, "the helper did not reply in {} seconds", PATIENCE.as_secs())
            }
            Self::NotAReply => f.write_str("the helper replied with nonsense"),
            Self::Pipe(errno) => write!(f, "the pipe to the helper broke: {}", errno.desc()),
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exit status {status}"),
            Self::Killed(Signal::SIGSYS) => {
                f.write_str("killed for a system call that it may not make")
            }
            Self::Killed(signal) => write!(f, "killed by {signal}"),
            Self::Not => f.write_str("it is stopped, and ends when it goes on"),
        }
    }
}
