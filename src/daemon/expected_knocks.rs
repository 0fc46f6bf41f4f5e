//! Which knocks the kernel logs: the sequence numbers of those that may come next, kept in step with the counters, and the
//! knock ports of the profiles whose knocks cannot be listed.

use super::error::DaemonError;
use super::expected_sequences::ExpectedSequences;
use super::helper_handle::{HelperGone, HelperHandle};
use super::profile_state::ProfileState;
use super::registry::ProfileRegistry;
use crate::layout::receiver::FAR;
use crate::privileged::firewall::nftables::MAX_EXPECTED;
use crate::privileged::message::Reply;

/// What the kernel is told to log, as it has it.
#[derive(Debug)]
pub(super) struct ExpectedKnocks {
    sequences: ExpectedSequences,
    /// How many counters of each profile that is.
    counters: u32,
}

/// What the kernel logs from the start on.
#[derive(Debug)]
pub(super) struct Listening {
    /// How many sequence numbers are expected,
    pub(super) sequences: usize,
    /// and how many counters of each profile that is.
    pub(super) counters: u32,
    /// The knock ports where any SYN with an acknowledgement number is logged, within a limit.
    pub(super) ports: Vec<u16>,
}

impl ExpectedKnocks {
    /// Has the kernel log the knocks of all profiles.
    ///
    /// A profile whose requests can be listed is heard by the sequence numbers of its knocks, which no flood can silence.
    /// All of them share the kernel's set; of the others the knock port is logged.
    pub(super) fn listen(
        registry: &ProfileRegistry,
        helper: &mut HelperHandle,
        window: u32,
    ) -> Result<(Self, Listening), DaemonError> {
        let requests: usize = registry.profiles().flat_map(|p| &p.requests).map(Vec::len).sum();
        // As many counters of each as the kernel's set has room for. Below the window there is no use in it.
        let room = MAX_EXPECTED
            .checked_div(requests)
            .map_or(FAR, |room| u32::try_from(room).map_or(FAR, |room| room.min(FAR)));
        let counters = if room < window { 0 } else { room };
        let is_listed = |profile: &ProfileState| counters > 0 && profile.requests.is_some();
        let by_port = registry.ports().filter(|(_, profiles)| !profiles.iter().all(is_listed));
        let mut ports: Vec<u16> = by_port.map(|(port, _)| port).collect();
        ports.sort_unstable();
        let sequences = registry.profiles().flat_map(|p| p.sequences(p.expected_from, counters));
        let sequences = ExpectedSequences::new(sequences.collect());

        let all = sequences.all();
        for reply in [helper.ask_expect(&all)?, helper.ask_knock_ports(&ports)?] {
            if reply != Reply::Done {
                return Err(DaemonError::NotListening(reply));
            }
        }
        let listening = Listening { sequences: all.len(), counters, ports };
        Ok((Self { sequences, counters }, listening))
    }

    /// Moves what the kernel logs with the counters of these profiles.
    pub(super) fn advance(
        &mut self,
        profiles: &mut [ProfileState],
        helper: &mut HelperHandle,
    ) -> Result<(), HelperGone> {
        let counters = self.counters;
        for profile in profiles {
            let (first, next) = (profile.expected_from, profile.receiver.next());
            if first == next || profile.requests.is_none() {
                continue;
            }
            let gone = profile.sequences(first, (next - first).min(counters));
            let gone = self.sequences.remove(gone);
            let from = first.saturating_add(counters).max(next);
            let more = profile.sequences(from, next.saturating_add(counters) - from);
            let more = self.sequences.add(more);
            profile.expected_from = next;
            // A reply that is not `Done` leaves a number too many, or a far one too few: neither opens anything.
            helper.ask_forget(&gone)?;
            helper.ask_expect(&more)?;
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
