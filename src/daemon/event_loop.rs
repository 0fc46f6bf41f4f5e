//! The loop: log lines in, grants out, until somebody says stop or the helper is gone. Without events it sleeps, and
//! no timer runs unless there are wrong knocks to tell of.

#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;

use super::authorize::Authorizer;
use super::error::DaemonError;
use super::kernel_log_line::NotASyn;
use super::outcome::{Outcome, OutcomeMessage};
use super::log_event::{LogPrefixes, LogEvent};
use super::say;
use super::log_source::{PortSet, Source};
use super::unreadable_lines::{UnreadableLines, Verdict};
use crate::privileged::{Helper, Reply};
use crate::syn::LoggedSyn;

/// What the loop works with.
pub(super) struct EventLoop {
    pub(super) source: Source,
    pub(super) door: Authorizer,
    pub(super) helper: Helper,
    pub(super) signals: SignalFd,
    pub(super) prefixes: LogPrefixes,
    pub(super) verbose: bool,
    pub(super) unread: UnreadableLines,
}

impl EventLoop {
    /// Watches until a signal says stop. The helper's end, and a log that cannot be read any more, are failures.
    pub(super) fn run(mut self) -> Result<(), DaemonError> {
        let wanted = self.door.wanted_ports();
        loop {
            let mut woken = self.wait()?;
            if woken.signal && self.is_told_to_stop(&mut woken.helper_gone)? {
                say::event("told to stop; closing what is open");
                let _ = self.helper.end();
                return Ok(());
            }
            if woken.helper_gone {
                return Err(DaemonError::HelperGone(self.helper.end()));
            }
            if woken.log {
                self = self.read(&wanted)?;
            }
            let now = Instant::now();
            for (port, tally) in self.door.due(now) {
                say::event(format_args!("profile {}: {tally}", self.door.profile_names(port)));
            }
            self.door.over(now).into_iter().for_each(say::event);
        }
    }

    fn wait(&self) -> Result<Woken, DaemonError> {
        let mut polled = [
            PollFd::new(self.source.fd(), PollFlags::POLLIN),
            PollFd::new(self.helper.fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut polled, self.timeout()) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(why) => return Err(DaemonError::System("cannot wait for events", why.into())),
        }
        let [log, helper, signal] = polled.map(|fd| fd.any().unwrap_or(false));
        // The helper speaks only when it is asked, so anything on its pipe now is its end.
        Ok(Woken { log, helper_gone: helper, signal })
    }

    /// Takes the signals that have come. A SIGHUP asks a daemon to read its config again, which this one cannot: it says so.
    fn is_told_to_stop(&mut self, helper_gone: &mut bool) -> Result<bool, DaemonError> {
        let hangup = Signal::SIGHUP as u32;
        while let Some(signal) = self
            .signals
            .read_signal()
            .map_err(|why| DaemonError::System("cannot read a signal", why.into()))?
        {
            if signal.ssi_signo == Signal::SIGUSR1 as u32 {
                match self.helper.ask_unguard() {
                    Ok(Reply::Done) => say::event("guard: dropped, as told"),
                    Ok(other) => say::event(format_args!("guard: cannot be dropped: {other:?}")),
                    Err(error) => {
                        say::event(error);
                        *helper_gone = true;
                    }
                }
                continue;
            }
            if signal.ssi_signo != hangup {
                return Ok(true);
            }
            say::event(
                "SIGHUP: profiles and config are read at start; restart to change them: systemctl restart knock-daemon",
            );
        }
        Ok(false)
    }

    /// Until the next line about wrong knocks is due; for ever where none is pending.
    fn timeout(&self) -> PollTimeout {
        let Some(due) = self.door.next_due() else { return PollTimeout::NONE };
        // Up to the next millisecond, or the loop would spin through the last fraction of one.
        let wait = due.saturating_duration_since(Instant::now()).as_millis() + 1;
        u16::try_from(wait).map_or(PollTimeout::MAX, PollTimeout::from)
    }

    /// Reads what there is, up to a bound, so that a flood does not keep a signal waiting; what is left wakes the loop
    /// again.
    fn read(mut self, wanted: &PortSet) -> Result<Self, DaemonError> {
        let Self { source, door, helper, prefixes, verbose, unread, .. } = &mut self;
        let framing = source.framing();
        let mut gone = None;
        let reports = source.read(wanted, &mut |bytes| {
            if gone.is_some() {
                return;
            }
            let done = match prefixes.read(bytes.trim_ascii_end(), framing) {
                Ok(LogEvent::Syn(syn)) => {
                    unread.understood();
                    let outcome = door.knock(&syn, helper, Instant::now());
                    outcome.map(|outcome| say_outcome(*verbose, door, &syn, &outcome))
                }
                Ok(LogEvent::NewConnection(line)) => {
                    unread.understood();
                    let arrival = door.came_in(line, helper, Instant::now());
                    arrival.map(|arrival| arrival.into_iter().for_each(say::event))
                }
                // With our own lines, those of other firewalls may be as they like.
                Err(why @ (NotASyn::OtherPrefix | NotASyn::NoSequence))
                    if prefixes.own_is_enough =>
                {
                    return say::detail(*verbose, format_args!("not a knock: {why}"));
                }
                Err(why) => {
                    return match unread.judge(why) {
                        verdict @ Verdict::Detail(_) => say::detail(*verbose, verdict),
                        verdict => say::event(verdict),
                    };
                }
            };
            gone = done.err();
        });
        for report in reports.map_err(DaemonError::Log)? {
            say::event(report);
        }
        if let Some(error) = gone {
            say::event(error);
            return Err(DaemonError::HelperGone(self.helper.end()));
        }
        Ok(self)
    }
}

fn say_outcome(verbose: bool, door: &Authorizer, syn: &LoggedSyn<'_>, outcome: &Outcome) {
    // What strangers cause at any rate costs not even the wording.
    if !verbose && matches!(outcome, Outcome::NoProfile | Outcome::Repeated | Outcome::Wrong(None))
    {
        return;
    }
    let profiles = &door.profile_names(syn.destination_port);
    say::event(OutcomeMessage { outcome, source: syn.source, profiles });
}

/// Why the loop went on.
struct Woken {
    log: bool,
    helper_gone: bool,
    signal: bool,
}
