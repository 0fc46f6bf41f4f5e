//! The result of a SYN, and its log message.

use std::fmt;
use std::io;
use std::net::IpAddr;

use super::open_grants::{GrantUse, OpenGrant};
use super::policy::Denial;
use super::rejected_knocks::{MeantFor, RejectedReport};
use crate::counter::CounterError;
use crate::grant::Grant;
use crate::privileged::message::Reply;

/// The result of a SYN, with the profile's name where there is one.
#[derive(Debug)]
pub(super) enum Outcome {
    /// No knock: it has no live tag and is for no knock port.
    NoKnock,
    /// A knock that was accepted before, from the same address: the client has sent it again.
    Repeated(MeantFor),
    /// No valid knock. Reported now, or counted for later.
    Invalid(MeantFor, Option<RejectedReport>),
    /// A valid knock, this many counters ahead: a second one has to follow before the port opens.
    FarAhead(String, u32),
    /// A valid knock, but the counter could not be made durable: nothing was opened, the counter did not move.
    NotDurable(String, CounterError),
    /// A valid knock for something that the profile may not have.
    Denied(String, Denial),
    /// A valid knock, but the profile has as many grants open as it may have.
    OverQuota(String, Grant),
    /// A valid knock that the firewall did not open for: too many grants, or the kernel refused.
    NotOpened(String, Grant, Reply),
    /// The port is open.
    Opened(String, Grant),
    /// A valid knock for a port that is allowed for TCP and for UDP: the result of each.
    Each(Vec<Outcome>),
}

impl Outcome {
    /// Whether anything was opened.
    pub(super) fn has_opened(&self) -> bool {
        match self {
            Self::Opened(..) => true,
            Self::Each(outcomes) => outcomes.iter().any(Self::has_opened),
            _ => false,
        }
    }

    /// Whom it may have been meant for, where that is not known.
    pub(super) fn meant_for(&self) -> Option<MeantFor> {
        match self {
            Self::Repeated(whom) | Self::Invalid(whom, _) => Some(*whom),
            _ => None,
        }
    }

    /// Whether strangers can cause it at any rate: then it is reported with `-v` only.
    pub(super) fn is_detail(&self) -> bool {
        matches!(self, Self::NoKnock | Self::Repeated(_) | Self::Invalid(_, None))
    }
}

/// An outcome, the address that the SYN came from, and the profiles that may have been meant. For the log.
pub(super) struct OutcomeMessage<'a> {
    pub(super) outcome: &'a Outcome,
    pub(super) source: IpAddr,
    pub(super) profiles: &'a str,
}

impl fmt::Display for OutcomeMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { outcome, source, profiles } = self;
        match outcome {
            Outcome::Each(outcomes) => outcomes.iter().enumerate().try_for_each(|(at, outcome)| {
                f.write_str(if at == 0 { "" } else { "; " })?;
                OutcomeMessage { outcome, source: *source, profiles }.fmt(f)
            }),
            Outcome::NoKnock => write!(f, "{source}: no knock of any profile"),
            Outcome::Repeated(_) => {
                write!(f, "{source}: the same knock again (profile {profiles})")
            }
            Outcome::Invalid(_, Some(report)) => write!(f, "profile {profiles}: {report}"),
            Outcome::Invalid(_, None) => write!(f, "{source}: invalid knock (profile {profiles})"),
            Outcome::FarAhead(profile, ahead) => write!(
                f,
                "profile {profile:?}: right keys, {ahead} ahead: the next knock will be believed (from {source})"
            ),
            Outcome::NotDurable(profile, error) => {
                write!(f, "opened nothing for {source} (profile {profile:?}): {error}")
            }
            Outcome::Denied(profile, denial) => {
                write!(f, "refused {source} (profile {profile:?}): {denial}")
            }
            Outcome::OverQuota(profile, grant) => {
                write_not_opened(f, profile, grant)?;
                f.write_str("the profile has as many grants open as `max_open_per_profile` allows")
            }
            Outcome::NotOpened(profile, grant, reply) => {
                write_not_opened(f, profile, grant)?;
                match reply {
                    Reply::Full => f.write_str("as many grants as `max_open` allows are open"),
                    Reply::FullForSource => f.write_str(
                        "its address (IPv6: its /64) has as many grants open as `max_open_per_source` allows",
                    ),
                    Reply::Failed(errno) => {
                        write!(f, "the firewall refused: {}", io::Error::from_raw_os_error(*errno))
                    }
                    Reply::NotOurs => {
                        write!(f, "{} is not an address of this host", grant.destination)
                    }
                    Reply::Ours => f.write_str("it is an address of this host"),
                    Reply::Ready | Reply::Opened | Reply::Done => {
                        f.write_str("the helper replied out of turn")
                    }
                }
            }
            Outcome::Opened(profile, Grant { protocol, port, seconds, .. }) => write!(
                f,
                "opened {protocol}/{port} to {source} for {seconds} s (profile {profile:?})"
            ),
        }
    }
}

fn write_not_opened(
    f: &mut fmt::Formatter<'_>,
    profile: &str,
    Grant { address, protocol, port, .. }: &Grant,
) -> fmt::Result {
    write!(f, "could not open {protocol}/{port} to {address} (profile {profile:?}): ")
}

/// A connection through a grant. For the log.
impl fmt::Display for GrantUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Grant { address, protocol, port, .. } = self.grant;
        let (profile, after) = (&self.profile, self.after.as_millis());
        write!(f, "{address} came in at {protocol}/{port} after {after} ms (profile {profile:?})")?;
        f.write_str(if self.is_last { ": closed behind it" } else { ": open for another" })
    }
}

/// A grant whose time is over. For the log.
impl fmt::Display for OpenGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Grant { address, protocol, port, .. } = self.grant;
        let used = if self.was_not_used() { "not used" } else { "its time is over" };
        write!(f, "{protocol}/{port} for {address} (profile {:?}): {used}", self.profile)
    }
}
