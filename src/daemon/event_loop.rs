//! The loop: log lines in, grants out, until somebody says stop or the helper is gone. Without events it sleeps, and
//! no timer runs unless there is something to report.

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
use super::say;
use crate::privileged::message::Reply;

/// What the loop works with.
pub(super) struct EventLoop {
    pub(super) source: LogSource,
    /// The ports that lines may be about.
    pub(super) wanted: PortSet,
    pub(super) signals: SignalFd,
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
        loop {
            let ready = self.wait()?;
            if ready.signal && self.is_told_to_stop()? {
                return Ok(());
            }
            if ready.helper {
                // It speaks only when it is asked, so anything on its pipe now is its end.
                return Err(HelperGone::Ended.into());
            }
            if ready.log {
                let read = self.read_log();
                self.source.take_reports().into_iter().for_each(say::event);
                read?;
            }
            self.lines.say_due();
        }
    }

    fn wait(&self) -> Result<Ready, DaemonError> {
        let mut polled = [
            PollFd::new(self.source.fd(), PollFlags::POLLIN),
            PollFd::new(self.lines.authorizer.helper.fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut polled, self.timeout()) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(why) => return Err(DaemonError::System("cannot wait for events", why.into())),
        }
        // An event that nix does not know is one, too.
        let [log, helper, signal] = polled.map(|fd| fd.any() != Some(false));
        Ok(Ready { log, helper, signal })
    }

    /// Until the next report is due; for ever where none is pending.
    fn timeout(&self) -> PollTimeout {
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

/// What there is something of.
struct Ready {
    log: bool,
    helper: bool,
    signal: bool,
}
