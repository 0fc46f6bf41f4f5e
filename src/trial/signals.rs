//! The signals that end a trial, which has something to clean up first.

use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::daemon::trial_plan::Interrupted;

/// How often a wait checks for a signal.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// Takes SIGINT, SIGTERM and SIGHUP over, in this thread and those that it starts. Restores the mask when dropped.
#[derive(Debug)]
pub(super) struct Signals {
    fd: SignalFd,
    before: SigSet,
}

impl Signals {
    pub(super) fn take() -> Result<Self, Errno> {
        let before = SigSet::thread_get_mask()?;
        let ours: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        ours.thread_block()?;
        let fd = SignalFd::with_flags(&ours, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { fd, before })
    }

    /// Whether the trial may go on.
    pub(super) fn check(&self) -> Result<(), Interrupted> {
        match self.fd.read_signal() {
            Ok(Some(_)) => Err(Interrupted),
            _ => Ok(()),
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let _ = self.before.thread_set_mask();
    }
}
