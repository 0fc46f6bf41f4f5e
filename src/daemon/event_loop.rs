//! The loop: log lines in, grants out, until somebody says stop or the helper is gone. Without events it sleeps. No timer
//! runs unless there is something to report, or a stealth profile, whose numbers move with the clock.

use std::os::fd::AsFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;

use super::error::DaemonError;
use super::helper_handle::HelperGone;
use super::line_handler::LineHandler;
use super::log_source::LogSource;
use super::log_source::port_filter::{PortSet, wanted_lines};
use super::refresh_timer::{RefreshTimer, step_now};
use super::say;
use crate::privileged::message::Reply;

/// What the loop works with.
pub(super) struct EventLoop {
    pub(super) source: LogSource,
    /// The ports that lines may be about.
    pub(super) wanted: PortSet,
    pub(super) signals: SignalFd,
    /// None: nothing moves with the clock.
    pub(super) timer: Option<RefreshTimer>,
    pub(super) lines: LineHandler,
}

impl EventLoop {
    /// Watches until a signal says stop. The helper's end, and a log that cannot be read any more, are failures.
    pub(super) fn run(mut self) -> Result<(), DaemonError> {
        let result = self.watch();
        let helper = self.lines.authorizer.helper;
        match result {
            Ok(()) => {
                say::event("told to stop; closing what is open");
                let _ = helper.end();
                Ok(())
            }
            Err(DaemonError::Helper(gone)) => {
                if gone != HelperGone::Ended {
                    say::event(gone);
                }
                Err(DaemonError::HelperEnded(helper.end()))
            }
            Err(error) => Err(error),
        }
    }

    fn watch(&mut self) -> Result<(), DaemonError> {
        // The clock may have gone on, or been set, since the numbers were made.
        self.begin_refresh()?;
        loop {
            let [log, helper, signal, timer] = self.wait()?;
            if signal && self.is_told_to_stop()? {
                return Ok(());
            }
            if helper {
                // It speaks only when it is asked, so anything on its pipe now is its end.
                return Err(HelperGone::Ended.into());
            }
            if log {
                let read = self.read_log();
                self.source.take_reports().into_iter().for_each(say::event);
                read?;
            }
            if timer {
                self.begin_refresh()?;
            }
            // In pieces: what comes meanwhile does not have to wait for all of it.
            if self.lines.authorizer.is_refreshing() {
                self.lines.authorizer.refresh()?;
            }
            self.lines.say_due();
        }
    }

    /// Begins to move what is heard to the present step, and sets the timer for the next time.
    fn begin_refresh(&mut self) -> Result<(), DaemonError> {
        let Some(timer) = &self.timer else { return Ok(()) };
        let cannot = |why: Errno| DaemonError::System("cannot set a timer", why.into());
        timer.take().map_err(cannot)?;
        loop {
            let next = self.lines.authorizer.begin_refresh(step_now());
            // If the clock is set between the two, the step was another one.
            if timer.arm(next).map_err(cannot)? {
                return Ok(());
            }
        }
    }

    /// Waits for an event. Whether there is something of the log, the helper, a signal, the timer.
    fn wait(&self) -> Result<[bool; 4], DaemonError> {
        let fds = [
            Some(self.source.fd()),
            Some(self.lines.authorizer.helper.fd()),
            Some(self.signals.as_fd()),
            self.timer.as_ref().map(AsFd::as_fd),
        ];
        let mut polled: Vec<_> =
            fds.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut polled, self.timeout()) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(why) => return Err(DaemonError::System("cannot wait for events", why.into())),
        }
        let mut polled = polled.into_iter();
        // An event that nix does not know is one, too.
        Ok(fds.map(|fd| fd.and_then(|_| polled.next()).is_some_and(|fd| fd.any() != Some(false))))
    }

    /// Until the next report is due; for ever where none is pending. Not at all while there is more to do.
    fn timeout(&self) -> PollTimeout {
        if self.lines.authorizer.is_refreshing() {
            return PollTimeout::ZERO;
        }
        let Some(due) = self.lines.authorizer.next_due() else { return PollTimeout::NONE };
        // Up to the next millisecond, or the loop would spin through the last fraction of one.
        let wait = due.saturating_duration_since(Instant::now()).as_millis() + 1;
        u16::try_from(wait).map_or(PollTimeout::MAX, PollTimeout::from)
    }

    /// Takes the signals that have come. SIGHUP asks a daemon to read its config again, which this one cannot: it says so.
    fn is_told_to_stop(&mut self) -> Result<bool, DaemonError> {
        const UNGUARD: u32 = Signal::SIGUSR1 as u32;
        const RELOAD: u32 = Signal::SIGHUP as u32;
        let cannot = |why: Errno| DaemonError::System("cannot read a signal", why.into());
        while let Some(signal) = self.signals.read_signal().map_err(cannot)? {
            match signal.ssi_signo {
                UNGUARD => match self.lines.authorizer.helper.ask_unguard()? {
                    Reply::Done => say::event("guard: dropped, as told"),
                    other => say::event(format_args!("guard: cannot be dropped: {other:?}")),
                },
                RELOAD => say::event(
                    "SIGHUP: profiles and config are read at start\nfix: restart to change them: systemctl restart knock-daemon",
                ),
                _ => return Ok(true),
            }
        }
        Ok(false)
    }

    /// Reads what there is, up to a bound, so that a flood does not keep a signal waiting; what is left wakes the loop
    /// again.
    fn read_log(&mut self) -> Result<(), DaemonError> {
        let framing = self.source.framing();
        while let Some(piece) = self.source.read()? {
            for line in wanted_lines(piece, &self.wanted) {
                self.lines.handle(line, framing)?;
            }
        }
        Ok(())
    }
}
