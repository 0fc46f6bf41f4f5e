//! Whose knock is this? Of the stealth layout that is looked up by the SYN's tag. Of the classic one the profiles of a knock
//! port are tried: first within their windows, then, as far as the processor time set aside for strangers lasts, beyond them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::classic_profile::{ClassicProfile, SeenBefore};
use super::rate_limiter::RateLimiter;
use super::registry::ProfileRegistry;
use super::rejected_knocks::{MeantFor, RejectReason};
use super::stealth_profiles::TagMatch;
use super::valid_knock::ValidKnock;
use crate::layout;
use crate::syn::LoggedSyn;

/// Looks beyond the window cost this many times their time: each kind of them takes at most 0.5 % of a processor.
const PRICE: u32 = 200;
/// What one look far ahead costs its knock port: two a second.
const FAR_LOOK: Duration = Duration::from_millis(500);
/// Profiles whose looks are made cheap when somebody sends junk to their knock port: 4 MiB.
const MAX_PREPARED: usize = 64;

/// Tries profiles, within limits on what strangers may cost.
#[derive(Debug, Default)]
pub(super) struct KnockMatcher {
    /// Looks after remembered knocks, looks far ahead, and looks behind, for all profiles.
    near: RateLimiter,
    far: RateLimiter,
    behind: RateLimiter,
    /// Looks far ahead, for one knock port.
    far_by_port: HashMap<u16, RateLimiter>,
    /// How many profiles' looks are cheap.
    prepared: usize,
}

/// What a SYN is.
#[derive(Debug)]
pub(super) enum KnockMatch<'p> {
    /// A valid knock, and what it asks for.
    Valid(ValidKnock<'p>, layout::Request),
    /// A valid knock of this profile, but so many counters ahead that it opens nothing and is remembered.
    FarAhead(String, u32),
    /// A knock that was taken already, once more from the same address: a retry that was not needed.
    Repeated(MeantFor),
    /// No valid knock, though it is one for all that was to be seen before its keys were tried.
    Invalid(MeantFor, RejectReason),
    /// No knock: it has no live tag and is for no knock port.
    Nobodys,
}

impl KnockMatcher {
    /// What `syn` is to all profiles. `step` is the clock's.
    pub(super) fn find<'p>(
        &mut self,
        registry: &'p mut ProfileRegistry,
        syn: &LoggedSyn<'_>,
        now: Instant,
        step: u64,
    ) -> KnockMatch<'p> {
        let has_tag = match registry.stealth.find(syn, step) {
            TagMatch::Valid(profile, request, n) => {
                return KnockMatch::Valid(ValidKnock::Stealth(profile, n), request);
            }
            TagMatch::WrongMac => true,
            TagMatch::NoTag => false,
        };
        match registry.classic.get_mut(&syn.destination_port) {
            // A classic knock is a SYN and nothing else.
            Some(profiles) if !syn.asks_for_ecn => self.find_at_port(profiles, syn, now),
            _ if has_tag => KnockMatch::Invalid(MeantFor::Stealth, RejectReason::NoKeyMatches),
            _ => KnockMatch::Nobodys,
        }
    }

    /// What `syn` is to the `profiles` of its knock port.
    fn find_at_port<'p>(
        &mut self,
        profiles: &'p mut [ClassicProfile],
        syn: &LoggedSyn<'_>,
        now: Instant,
    ) -> KnockMatch<'p> {
        let whom = MeantFor::KnockPort(syn.destination_port);
        let invalid = |reason| KnockMatch::Invalid(whom, reason);
        match profiles.iter().find_map(|profile| profile.seen_before(syn)) {
            Some(SeenBefore::FromSameAddress) => return KnockMatch::Repeated(whom),
            Some(SeenBefore::FromAnother) => return invalid(RejectReason::Replayed),
            None => {}
        }
        if let Some((at, request, counter)) = self.find_in_window(profiles, syn, now) {
            return profiles.get_mut(at).map_or(invalid(RejectReason::NoKeyMatches), |profile| {
                KnockMatch::Valid(ValidKnock::Classic(profile, counter), request)
            });
        }
        if let Some((profile, ahead)) = self.find_far_ahead(profiles, syn, now) {
            return KnockMatch::FarAhead(profile, ahead);
        }
        invalid(if self.is_behind(profiles, syn, now) {
            RejectReason::Replayed
        } else {
            RejectReason::NoKeyMatches
        })
    }

    /// The profile that a knock opens for, by its place, what it asks for, and its counter.
    fn find_in_window(
        &mut self,
        profiles: &[ClassicProfile],
        syn: &LoggedSyn<'_>,
        now: Instant,
    ) -> Option<(usize, layout::Request, u32)> {
        let mut places = profiles.iter().enumerate();
        let found = places.find_map(|(at, profile)| {
            let (request, counter) = profile.receiver.look(&syn.fields)?;
            Some((at, request, counter))
        });
        let has_remembered = || profiles.iter().any(|profile| profile.receiver.has_remembered());
        if found.is_some() || !has_remembered() || !self.near.allows(now) {
            return found;
        }
        let start = Instant::now();
        let found = profiles.iter().enumerate().find_map(|(at, profile)| {
            let (request, counter) = profile.receiver.look_after_remembered(&syn.fields)?;
            Some((at, request, counter))
        });
        self.near.charge(now, start.elapsed() * PRICE);
        found
    }

    /// The profile whose valid knock this is, though it is beyond the window: it is remembered. Says how many counters it
    /// is ahead.
    fn find_far_ahead(
        &mut self,
        profiles: &mut [ClassicProfile],
        syn: &LoggedSyn<'_>,
        now: Instant,
    ) -> Option<(String, u32)> {
        let of_port = self.far_by_port.entry(syn.destination_port).or_default();
        if !of_port.allows(now) || !self.far.allows(now) {
            return None;
        }
        let start = Instant::now();
        for profile in &mut *profiles {
            if self.prepared < MAX_PREPARED && profile.receiver.prepare() {
                self.prepared += 1;
            }
        }
        let found = profiles.iter_mut().find_map(|profile| {
            let ahead = profile.receiver.look_far(&syn.fields)?;
            profile.remember(syn);
            Some((profile.state.name.clone(), ahead))
        });
        of_port.charge(now, FAR_LOOK);
        self.far.charge(now, start.elapsed() * PRICE);
        found
    }

    /// Whether this knock was used, or passed over, not long ago.
    fn is_behind(
        &mut self,
        profiles: &[ClassicProfile],
        syn: &LoggedSyn<'_>,
        now: Instant,
    ) -> bool {
        if !self.behind.allows(now) {
            return false;
        }
        let start = Instant::now();
        let is_behind = profiles.iter().any(|profile| profile.receiver.look_behind(&syn.fields));
        self.behind.charge(now, start.elapsed() * PRICE);
        is_behind
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::daemon::policy::ProfileDefaults;
    use crate::grant::Spend;
    use crate::layout::Request;
    use crate::layout::classic::{Keys, seal};
    use crate::privileged::limits::Limits;
    use crate::profile::files::ProfileFiles;
    use crate::syn::SynFields;

    const NEXT: u32 = 1000;
    const WINDOW: u32 = 20;

    fn keys() -> Keys {
        Keys::new([7; 16], [9; 16])
    }

    /// One profile, whose next counter is [`NEXT`].
    fn registry(dir: &std::path::Path) -> ProfileRegistry {
        for (name, content) in [
            ("cipher.key", "BwcHBwcHBwcHBwcHBwcHBw==\n"),
            ("mac.key", "CQkJCQkJCQkJCQkJCQkJCQ==\n"),
            ("config", "[main]\nknock_port = 666\n"),
            ("counter", "1000\n"),
        ] {
            fs::write(dir.join(name), content).unwrap();
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
        let limits = Limits {
            allow: None,
            max_seconds: 60,
            max_open: 10,
            max_open_per_source: 10,
            ipv4: true,
            ipv6: true,
        };
        let defaults = ProfileDefaults { seconds: 15, error_window: WINDOW, spend: Spend::Any };
        ProfileRegistry::new(vec![ProfileFiles::read(dir).unwrap()], &limits, defaults).0
    }

    fn syn(fields: SynFields) -> LoggedSyn<'static> {
        LoggedSyn {
            source: [192, 0, 2, 7].into(),
            destination: [192, 0, 2, 1].into(),
            source_port: 2000,
            destination_port: 666,
            fields,
            asks_for_ecn: false,
            options_hex: b"",
        }
    }

    fn knock(counter: u32) -> LoggedSyn<'static> {
        syn(seal(&keys(), Request(22), counter).unwrap())
    }

    #[test]
    fn a_knock_is_valid_far_ahead_repeated_replayed_or_nobodys() {
        let dir = tempfile::tempdir().unwrap();
        let (mut registry, mut matcher) = (registry(dir.path()), KnockMatcher::default());
        let now = Instant::now();
        let mut find = |syn: &LoggedSyn<'_>| match matcher.find(&mut registry, syn, now, 0) {
            KnockMatch::Valid(knock, request) => {
                let ValidKnock::Classic(_, counter) = knock else { panic!("{knock:?}") };
                knock.accept(syn).1.unwrap();
                format!("valid {} {counter}", request.0)
            }
            KnockMatch::FarAhead(_, ahead) => format!("{ahead} ahead"),
            KnockMatch::Repeated(_) => "repeated".to_owned(),
            KnockMatch::Invalid(_, reason) => format!("{reason:?}"),
            KnockMatch::Nobodys => "nobody's".to_owned(),
        };
        let first = knock(NEXT + 1);
        let copy = LoggedSyn { source: [192, 0, 2, 8].into(), ..first };
        let nobodys = seal(&Keys::new([1; 16], [2; 16]), Request(22), NEXT).unwrap();
        for (syn, expected) in [
            (first, "valid 22 1001"),
            (first, "repeated"),
            (copy, "Replayed"),
            (knock(NEXT), "Replayed"),
            (knock(NEXT + 100), "98 ahead"),
            (knock(NEXT + 101), "valid 22 1101"),
            (syn(nobodys), "NoKeyMatches"),
            (LoggedSyn { asks_for_ecn: true, ..knock(NEXT + 102) }, "nobody's"),
            (LoggedSyn { destination_port: 667, ..knock(NEXT + 102) }, "nobody's"),
            (knock(NEXT + 102), "valid 22 1102"),
        ] {
            assert_eq!(find(&syn), expected);
        }
    }

    #[test]
    fn looking_behind_is_limited() {
        let dir = tempfile::tempdir().unwrap();
        let (mut registry, mut matcher) = (registry(dir.path()), KnockMatcher::default());
        let now = Instant::now();
        let mut is_known_at = |now| {
            let found = matcher.find(&mut registry, &knock(NEXT - 1), now, 0);
            matches!(found, KnockMatch::Invalid(_, RejectReason::Replayed))
        };
        assert!(is_known_at(now));
        // Every look is charged, so that without a pause they come to an end.
        assert!((0..1_000_000).any(|_| !is_known_at(now)));
        assert!(is_known_at(now + Duration::from_secs(3)));
    }
}
