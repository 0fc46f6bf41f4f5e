//! A valid knock, of whichever layout. Its number is not used up yet.

use super::classic_profile::ClassicProfile;
use super::profile_state::ProfileState;
use super::stealth_profile::StealthProfile;
use crate::counter::CounterError;
use crate::syn::LoggedSyn;

/// Whose it is, and its number.
#[derive(Debug)]
pub(super) enum ValidKnock<'p> {
    /// Of a classic profile.
    Classic(&'p mut ClassicProfile, u32),
    /// Of a stealth one.
    Stealth(&'p mut StealthProfile, u64),
}

impl<'p> ValidKnock<'p> {
    /// Makes it durable that the number is used, and then goes on after it. Where that fails, nothing has changed.
    pub(super) fn accept(
        self,
        syn: &LoggedSyn<'_>,
    ) -> (&'p ProfileState, Result<(), CounterError>) {
        match self {
            Self::Classic(profile, n) => {
                let accepted = profile.accept(n, syn);
                (&profile.state, accepted)
            }
            Self::Stealth(profile, n) => {
                let accepted = profile.accept(n);
                (&profile.state, accepted)
            }
        }
    }
}
