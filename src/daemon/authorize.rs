//! What a SYN means: the one function that reads as the story of a knock, of whichever layout, is [`Authorizer::decide`].

use std::time::Instant;

use super::error::DaemonError;
use super::expected_knocks::{ExpectedKnocks, Listening};
use super::helper_handle::{HelperGone, HelperHandle};
use super::kernel_log_line::packet::NewConnection;
use super::match_knock::{KnockMatch, KnockMatcher};
use super::open_grants::{GrantUse, OpenGrant, OpenGrants};
use super::outcome::Outcome;
use super::registry::ProfileRegistry;
use super::rejected_knocks::{Counted, MeantFor, RejectReason, RejectedKnocks, RejectedReport};
use super::set_share::SetShare;

use crate::grant::Grant;
use crate::privileged::limits::Limits;
use crate::privileged::message::Reply;
use crate::syn::LoggedSyn;

/// Turns knocks into grants.
#[derive(Debug)]
pub(super) struct Authorizer {
    pub(super) registry: ProfileRegistry,
    pub(super) helper: HelperHandle,
    limits: Limits,
    /// How many grants one profile may have open at once.
    max_open_per_profile: usize,
    /// Whether the kernel tells of connections, so that it is known what becomes of a grant.
    knows_connections: bool,
    matcher: KnockMatcher,
    open: OpenGrants,
    rejected: RejectedKnocks,
    /// What the kernel logs for us. None: somebody else's firewall logs.
    expected: Option<ExpectedKnocks>,
}

impl Authorizer {
    /// With nothing open yet.
    pub(super) fn new(
        registry: ProfileRegistry,
        helper: HelperHandle,
        limits: Limits,
        max_open_per_profile: usize,
        knows_connections: bool,
    ) -> Self {
        Self {
            registry,
            helper,
            limits,
            max_open_per_profile,
            knows_connections,
            matcher: KnockMatcher::default(),
            open: OpenGrants::default(),
            rejected: RejectedKnocks::default(),
            expected: None,
        }
    }

    /// Makes the tags of stealth knocks live from the clock's `step` on and, with `in_kernel`, has our table log the knocks.
    /// Says what it logs.
    pub(super) fn listen(
        &mut self,
        window: u32,
        step: u64,
        in_kernel: bool,
    ) -> Result<Listening, DaemonError> {
        let share = match self.registry.share(window) {
            // Then there is no set to share.
            Err(_) if !in_kernel => SetShare::LEAST,
            share => share?,
        };
        let tags = self.registry.stealth.begin(share.reach, step);
        if !in_kernel {
            return Ok(Listening { share, sequences: 0, ports: Vec::new() });
        }
        let (expected, listening) =
            ExpectedKnocks::listen(&self.registry, tags, share, &mut self.helper)?;
        self.expected = Some(expected);
        Ok(listening)
    }

    /// A SYN becomes a grant, or does not; then what may come next is made known. `step` is the clock's.
    pub(super) fn knock(
        &mut self,
        syn: &LoggedSyn<'_>,
        now: Instant,
        step: u64,
    ) -> Result<Outcome, HelperGone> {
        let outcome = self.decide(syn, now, step)?;
        if !matches!(outcome, Outcome::NoKnock) {
            self.expect_next(syn, &outcome, step)?;
        }
        Ok(outcome)
    }

    /// Every step must succeed before the next one is taken; the counter is durable before anything is asked of the helper.
    fn decide(
        &mut self,
        syn: &LoggedSyn<'_>,
        now: Instant,
        step: u64,
    ) -> Result<Outcome, HelperGone> {
        let (knock, request) = match self.matcher.find(&mut self.registry, syn, now, step) {
            KnockMatch::Valid(knock, request) => (knock, request),
            KnockMatch::FarAhead(profile, ahead) => return Ok(Outcome::FarAhead(profile, ahead)),
            KnockMatch::Repeated(whom) => return Ok(Outcome::Repeated(whom)),
            KnockMatch::Invalid(whom, reason) => return Ok(self.reject(syn, whom, reason, now)),
            KnockMatch::Nobodys => return Ok(Outcome::NoKnock),
        };
        let (profile, accepted) = knock.accept(syn);
        let name = profile.name.clone();
        if let Err(error) = accepted {
            return Ok(Outcome::NotDurable(name, error));
        }
        #[cfg(feature = "misbehave")]
        super::misbehave::misbehave(request, &mut self.helper);

        let grants = match profile.policy.decide(&self.limits, syn, request) {
            Ok(grants) => grants,
            Err(denial) => return Ok(Outcome::Denied(name, denial)),
        };
        let open = |grant| self.open(&name, grant, now);
        let mut outcomes = grants.into_iter().map(open).collect::<Result<Vec<_>, _>>()?;
        // One service is the rule; of two each has an outcome.
        Ok(if outcomes.len() == 1 { outcomes.remove(0) } else { Outcome::Each(outcomes) })
    }

    fn reject(
        &mut self,
        syn: &LoggedSyn<'_>,
        whom: MeantFor,
        reason: RejectReason,
        now: Instant,
    ) -> Outcome {
        match self.rejected.count(syn, whom, reason, now) {
            Counted::Report(report) => Outcome::Invalid(whom, Some(report)),
            Counted::Pending => Outcome::Invalid(whom, None),
            Counted::Duplicate => Outcome::Repeated(whom),
        }
    }

    /// Has the helper open a port, within the profile's quota.
    fn open(&mut self, profile: &str, grant: Grant, now: Instant) -> Result<Outcome, HelperGone> {
        let name = profile.to_owned();
        if !self.open.has_room(profile, &grant, self.max_open_per_profile, now) {
            return Ok(Outcome::OverQuota(name, grant));
        }
        match self.helper.ask_open(&grant)? {
            Reply::Opened => {
                self.open.opened(profile, &grant, now);
                Ok(Outcome::Opened(name, grant))
            }
            reply => Ok(Outcome::NotOpened(name, grant, reply)),
        }
    }

    fn expect_next(
        &mut self,
        syn: &LoggedSyn<'_>,
        outcome: &Outcome,
        step: u64,
    ) -> Result<(), HelperGone> {
        let tags = self.registry.stealth.move_on(syn.fields.seq, step);
        let Some(expected) = &mut self.expected else { return Ok(()) };
        expected.change(tags, &mut self.helper)?;
        let Some(profiles) = self.registry.classic.get_mut(&syn.destination_port) else {
            return Ok(());
        };
        expected.advance(profiles, &mut self.helper)?;
        if !outcome.has_opened() {
            expected.was_logged_in_vain(syn.fields.seq, &mut self.helper)?;
        }
        Ok(())
    }

    /// Begins to move what is heard to the clock's `step`, which it has come to or was set to. The step by which it is to
    /// be moved again.
    pub(super) fn begin_refresh(&mut self, step: u64) -> u64 {
        self.registry.stealth.begin_moving(step);
        step.saturating_add(self.registry.stealth.reach().ahead)
    }

    /// Whether that is not done yet.
    pub(super) fn is_refreshing(&self) -> bool {
        self.registry.stealth.are_moving()
    }

    /// Goes on with it, for some milliseconds.
    pub(super) fn refresh(&mut self) -> Result<(), HelperGone> {
        let tags = self.registry.stealth.move_some();
        match &mut self.expected {
            Some(expected) => expected.change(tags, &mut self.helper),
            None => Ok(()),
        }
    }

    /// Why the kernel did not take the last change of what it is to log.
    pub(super) fn refused(&self) -> Option<Reply> {
        self.expected.as_ref()?.refused()
    }

    /// A connection through a grant stands. With the last one that was knocked for, the grant is closed.
    pub(super) fn connected(
        &mut self,
        line: NewConnection,
        now: Instant,
    ) -> Result<Option<GrantUse>, HelperGone> {
        let used = self.open.connected(line, now);
        if let Some(GrantUse { grant, is_last: true, .. }) = &used {
            self.helper.ask_close(grant)?;
        }
        Ok(used)
    }

    /// The grants that have ended by the kernel's clock, where it is known what became of them.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<OpenGrant> {
        let mut expired = self.open.expired(now);
        expired.retain(|_| self.knows_connections);
        expired
    }

    /// The reports about rejected knocks that are due, and whom they are about.
    pub(super) fn due_reports(&mut self, now: Instant) -> Vec<(MeantFor, RejectedReport)> {
        self.rejected.due(now)
    }

    /// When [`Authorizer::due_reports`] or [`Authorizer::expired`] will next have something to say. None: not until
    /// something happens.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.rejected.next_due().into_iter().chain(self.open.next_expiry()).min()
    }
}
