//! Which knocks the kernel logs: the sequence numbers of those that may come next, kept in step with the counters, and the
//! knock ports of the profiles whose knocks cannot be listed.

use super::classic_profile::ClassicProfile;
use super::error::DaemonError;
use super::expected_sequences::{ExpectedSequences, SequenceChange};
use super::helper_handle::{HelperGone, HelperHandle};
use super::registry::ProfileRegistry;
use super::set_share::SetShare;
use crate::privileged::message::Reply;

/// What the kernel is told to log, as it has it.
#[derive(Debug)]
pub(super) struct ExpectedKnocks {
    sequences: ExpectedSequences,
    /// How many counters of each classic profile that is.
    counters: u32,
    /// What the last change came to, if the kernel refused it.
    refused: Option<Reply>,
}

/// What the kernel logs from the start on.
#[derive(Debug)]
pub(super) struct Listening {
    /// How far knocks are heard.
    pub(super) share: SetShare,
    /// How many sequence numbers are expected.
    pub(super) sequences: usize,
    /// The knock ports where any SYN with an acknowledgement number is logged, within a limit.
    pub(super) ports: Vec<u16>,
}

impl ExpectedKnocks {
    /// Has the kernel log the knocks of all profiles.
    ///
    /// A stealth profile is heard by its `tags`, and a classic one whose requests can be listed by the sequence numbers of
    /// its knocks, each as far as its `share` says: no flood can silence those. Of the other classic ones the knock port is
    /// logged.
    pub(super) fn listen(
        registry: &ProfileRegistry,
        tags: Vec<u32>,
        share: SetShare,
        helper: &mut HelperHandle,
    ) -> Result<(Self, Listening), DaemonError> {
        let counters = share.counters;
        let is_listed = |profile: &ClassicProfile| counters > 0 && profile.state.requests.is_some();
        let by_port =
            registry.classic.iter().filter(|(_, profiles)| !profiles.iter().all(is_listed));
        let mut ports: Vec<u16> = by_port.map(|(port, _)| *port).collect();
        ports.sort_unstable();
        let classic = registry.classic().flat_map(|p| p.sequences(p.expected_from, counters));
        let sequences = ExpectedSequences::new(tags.into_iter().chain(classic).collect());

        let all = sequences.all();
        for reply in [helper.ask_expect(&all)?, helper.ask_knock_ports(&ports)?] {
            if reply != Reply::Done {
                return Err(DaemonError::NotListening(reply));
            }
        }
        let listening = Listening { share, sequences: all.len(), ports };
        Ok((Self { sequences, counters, refused: None }, listening))
    }

    /// Moves what the kernel logs with the tags of stealth knocks.
    pub(super) fn change(
        &mut self,
        SequenceChange { gone, more }: SequenceChange,
        helper: &mut HelperHandle,
    ) -> Result<(), HelperGone> {
        let gone = self.sequences.remove(gone);
        let more = self.sequences.add(more);
        if gone.is_empty() && more.is_empty() {
            return Ok(());
        }
        // First those that go: the set may be full. A number too many or too few opens nothing.
        let replies = [helper.ask_forget(&gone)?, helper.ask_expect(&more)?];
        self.refused = replies.into_iter().find(|reply| *reply != Reply::Done);
        Ok(())
    }

    /// Why the last change was refused by the kernel: some knocks may not be heard.
    pub(super) fn refused(&self) -> Option<Reply> {
        self.refused
    }

    /// Moves what the kernel logs with the counters of these profiles.
    pub(super) fn advance(
        &mut self,
        profiles: &mut [ClassicProfile],
        helper: &mut HelperHandle,
    ) -> Result<(), HelperGone> {
        let counters = self.counters;
        for profile in profiles {
            let (first, next) = (profile.expected_from, profile.receiver.next());
            if first == next || profile.state.requests.is_none() {
                continue;
            }
            let gone = profile.sequences(first, (next - first).min(counters));
            let from = first.saturating_add(counters).max(next);
            let more = profile.sequences(from, next.saturating_add(counters) - from);
            profile.expected_from = next;
            self.change(SequenceChange { gone, more }, helper)?;
        }
        Ok(())
    }

    /// A SYN with this number was logged and opened nothing. Where that happens again and again, it is logged no more.
    pub(super) fn was_logged_in_vain(
        &mut self,
        sequence: u32,
        helper: &mut HelperHandle,
    ) -> Result<(), HelperGone> {
        if self.sequences.was_logged(sequence) {
            helper.ask_forget(&[sequence])?;
        }
        Ok(())
    }
}
