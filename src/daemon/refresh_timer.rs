//! The clock, as far as stealth knocks go by it: which step it is at, and a timer that tells when it comes to a later one,
//! or was set.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::layout::steps::{STEP, step_of};

/// With these the timer is armed: it is absolute, and ends early when the clock is set.
pub(super) const ARM_FLAGS: TimerSetTimeFlags =
    TimerSetTimeFlags::TFD_TIMER_ABSTIME.union(TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET);

/// The step that the clock is at now.
pub(super) fn step_now() -> u64 {
    // A clock before 1970 is at its beginning.
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    step_of(since_1970.as_secs())
}

/// A timer that ends when the clock comes to a step, or is set.
#[derive(Debug)]
pub(super) struct RefreshTimer(TimerFd);

impl RefreshTimer {
    /// Not armed yet.
    pub(super) fn new() -> Result<Self, Errno> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        TimerFd::new(ClockId::CLOCK_REALTIME, flags).map(Self)
    }

    /// Ends when the clock comes to `step`, or is set. `false`: it was set already, since the timer was armed the last time.
    pub(super) fn arm(&self, step: u64) -> Result<bool, Errno> {
        let time =
            TimeSpec::from_duration(Duration::from_secs(step.saturating_mul(STEP).min(LAST)));
        unless_set(self.0.set(Expiration::OneShot(time), ARM_FLAGS))
    }

    /// Takes note of its end, if it has ended: it is readable no more. Whether it has.
    pub(super) fn take(&self) -> Result<bool, Errno> {
        // That the clock was set ends it, too.
        match self.0.wait() {
            Ok(()) => Ok(true),
            Err(Errno::EAGAIN) => Ok(false),
            Err(errno) => Err(errno),
        }
    }
}

/// The year 9999, in seconds: later times do not fit into a timer everywhere.
const LAST: u64 = 253_402_300_799;

/// Whether the timer is armed and the clock was not set meanwhile.
fn unless_set(armed: Result<(), Errno>) -> Result<bool, Errno> {
    match armed {
        Ok(()) => Ok(true),
        Err(Errno::ECANCELED) => Ok(false),
        Err(errno) => Err(errno),
    }
}

impl AsFd for RefreshTimer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_at_its_step_and_not_before() {
        let timer = RefreshTimer::new().unwrap();
        assert!(!timer.take().unwrap());
        assert!(timer.arm(u64::MAX).unwrap() && !timer.take().unwrap());
        assert!(timer.arm(step_now() + 100).unwrap() && !timer.take().unwrap());
        // A time that has come.
        assert!(timer.arm(step_now()).unwrap());
        while !timer.take().unwrap() {}
        assert!(!timer.take().unwrap(), "once");
        assert!(timer.arm(1).unwrap());
        while !timer.take().unwrap() {}
    }

    #[test]
    fn a_clock_that_was_set_is_no_error() {
        assert_eq!(unless_set(Ok(())), Ok(true));
        assert_eq!(unless_set(Err(Errno::ECANCELED)), Ok(false));
        assert_eq!(unless_set(Err(Errno::EINVAL)), Err(Errno::EINVAL));
    }
}
