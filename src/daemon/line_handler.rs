//! Handles a log line about one of our ports: decides, acts and reports.

use std::time::Instant;

use super::authorize::Authorizer;
use super::error::DaemonError;
use super::helper_handle::HelperGone;
use super::kernel_log_line::Framing;
use super::kernel_log_line::not_a_syn::NotASyn;
use super::log_event::{LogEvent, LogPrefixes};
use super::outcome::OutcomeMessage;
use super::refresh_timer::step_now;
use super::say;
use super::unreadable_lines::{UnreadableLines, Verdict};
use crate::privileged::message::Reply;
use crate::syn::LoggedSyn;

/// Takes lines, one after the other.
pub(super) struct LineHandler {
    pub(super) authorizer: Authorizer,
    prefixes: LogPrefixes,
    unreadable: UnreadableLines,
    /// What was said last of what the kernel refused to log.
    refused: Option<Reply>,
    verbose: bool,
}

impl LineHandler {
    pub(super) fn new(authorizer: Authorizer, prefixes: LogPrefixes, verbose: bool) -> Self {
        let unreadable = UnreadableLines::default();
        Self { authorizer, prefixes, unreadable, refused: None, verbose }
    }

    /// Acts on one line, without its newline.
    pub(super) fn handle(&mut self, line: &[u8], framing: Framing) -> Result<(), HelperGone> {
        let event = match self.prefixes.read(line.trim_ascii_end(), framing) {
            Ok(event) => event,
            Err(why) => {
                self.say_unreadable(why);
                return Ok(());
            }
        };
        self.unreadable.understood();
        match event {
            LogEvent::Syn(syn) => self.knock(&syn),
            LogEvent::NewConnection(line) => {
                let used = self.authorizer.connected(line, Instant::now())?;
                used.into_iter().for_each(say::event);
                Ok(())
            }
        }
    }

    fn knock(&mut self, syn: &LoggedSyn<'_>) -> Result<(), HelperGone> {
        let outcome = self.authorizer.knock(syn, Instant::now(), step_now())?;
        // Anybody can cause these at any rate, so without `-v` the message is not even formatted.
        if self.verbose || !outcome.is_detail() {
            let names = |whom| self.authorizer.registry.names_of(whom);
            let profiles = &outcome.meant_for().map(names).unwrap_or_default();
            say::event(OutcomeMessage { outcome: &outcome, source: syn.source, profiles });
        }
        Ok(())
    }

    fn say_unreadable(&mut self, why: NotASyn) {
        // When our table logs the knocks, errors in other firewalls' lines do not matter.
        let is_others = matches!(why, NotASyn::OtherPrefix | NotASyn::NoSequence);
        let verdict = if is_others && self.prefixes.own_is_enough {
            Verdict::Detail(why)
        } else {
            self.unreadable.judge(why)
        };
        match verdict {
            Verdict::Detail(_) => say::detail(self.verbose, verdict),
            verdict => say::event(verdict),
        }
    }

    /// Reports what is due, whether or not there was a line.
    pub(super) fn say_due(&mut self) {
        let now = Instant::now();
        for (whom, report) in self.authorizer.due_reports(now) {
            let profiles = self.authorizer.registry.names_of(whom);
            say::event(format_args!("profile {profiles}: {report}"));
        }
        self.authorizer.expired(now).into_iter().for_each(say::event);
        let refused = self.authorizer.refused();
        if std::mem::replace(&mut self.refused, refused) != refused
            && let Some(reply) = refused
        {
            say::event(DaemonError::NotListening(reply));
        }
    }
}
