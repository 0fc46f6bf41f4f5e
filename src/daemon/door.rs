//! What a refused SYN means: the one function that reads as the story of a knock is [`Door::knock`].

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::time::Instant;

use super::config::ServiceText;
use super::policy::{Policy, Refused};
use super::wrong::{Tally, WrongKnocks};
use crate::counter::{Counter, CounterError};
use crate::layout::classic::{self, Keys, OpenError};
use crate::privileged::{Helper, HelperGone, Limits, Reply, Request, Service};
use crate::profile::{ProfileError, ProfileFiles};
use crate::syn::LoggedSyn;

/// Every profile that may knock, found by its knock port: what a log line costs does not grow with their number.
#[derive(Debug)]
pub(super) struct Door {
    guests: HashMap<u16, Guest>,
    /// The knock ports with wrong knocks to tell of: what a wake-up costs does not grow with the profiles either.
    untold: BTreeSet<u16>,
    limits: Limits,
    error_window: u32,
}

/// A profile and where it stands.
#[derive(Debug)]
struct Guest {
    name: String,
    keys: Keys,
    /// The next counter to accept: what is on disk, but for a write that failed.
    next: u32,
    counter: Counter,
    policy: Policy,
    wrong: WrongKnocks,
}

/// What came of a SYN on a knock port.
#[derive(Debug)]
pub(super) enum Outcome {
    /// No profile knocks on this port.
    NoProfile,
    /// No valid knock. Told of now, or counted for later.
    Wrong(Option<Tally>),
    /// A valid knock, but the counter could not be made durable: nothing was opened, the counter did not move.
    NotDurable(CounterError),
    /// A valid knock for something that the profile may not have.
    Refused(Refused),
    /// A valid knock that the firewall did not open for: too many grants, or the kernel refused.
    NotOpened(Request, Reply),
    /// The door is open.
    Opened(Request),
}

impl Door {
    /// Parses the profiles and looks at their counters. What is broken is left out and told of, so that one broken
    /// profile does not lock everybody out. Of two that knock on one port neither stays: nobody could say whose it is.
    #[must_use]
    pub(super) fn new(
        files: Vec<ProfileFiles>,
        limits: Limits,
        rules: Rules,
    ) -> (Self, Vec<DoorError>) {
        let mut guests: HashMap<u16, Guest> = HashMap::with_capacity(files.len());
        let mut shared = HashMap::new();
        let mut broken = Vec::new();
        for files in files {
            match Guest::new(files, rules) {
                Ok((port, guest)) => {
                    let name = guest.name.clone();
                    if let Some(other) = guests.insert(port, guest) {
                        shared.entry(port).or_insert_with(|| vec![other.name]).push(name);
                    }
                }
                Err(error) => broken.push(DoorError::Profile(error)),
            }
        }
        for (port, names) in shared {
            guests.remove(&port);
            broken.push(DoorError::SamePort(port, names));
        }
        (Self { guests, untold: BTreeSet::new(), limits, error_window: rules.error_window }, broken)
    }

    /// Whether there is nobody to open for.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.guests.is_empty()
    }

    /// The ports that are knocked on.
    pub(super) fn knock_ports(&self) -> impl Iterator<Item = u16> {
        self.guests.keys().copied()
    }

    /// The name of the profile that knocks on `port`.
    #[must_use]
    pub(super) fn profile_name(&self, port: u16) -> &str {
        self.guests.get(&port).map_or("", |guest| &guest.name)
    }

    /// A refused SYN becomes an open port, or does not. Every step must succeed before the next one is taken; the
    /// counter is durable before anything is asked of the helper.
    pub(super) fn knock(
        &mut self,
        syn: &LoggedSyn<'_>,
        helper: &mut Helper,
        now: Instant,
    ) -> Result<Outcome, HelperGone> {
        let Some(guest) = self.guests.get_mut(&syn.destination_port) else {
            return Ok(Outcome::NoProfile);
        };
        let (asked, used) =
            match classic::open(&guest.keys, guest.next, self.error_window, &syn.fields) {
                Ok(found) => found,
                Err(OpenError::NoMatch | OpenError::Spent) => {
                    let replayed = guest.has_seen(syn, self.error_window);
                    self.untold.insert(syn.destination_port);
                    return Ok(Outcome::Wrong(guest.wrong.count(syn.source, replayed, now)));
                }
            };
        // `used` is below `SPENT`, so there is a next one.
        if let Err(error) = guest.counter.write(used + 1) {
            return Ok(Outcome::NotDurable(error));
        }
        guest.next = used + 1;
        #[cfg(feature = "misbehave")]
        super::misbehave::misbehave(asked, helper);

        let request = match guest.policy.decide(&self.limits, syn, asked) {
            Ok(request) => request,
            Err(refused) => return Ok(Outcome::Refused(refused)),
        };
        match helper.ask_open(&request)? {
            Reply::Opened => Ok(Outcome::Opened(request)),
            reply => Ok(Outcome::NotOpened(request, reply)),
        }
    }

    /// Wrong knocks that have not been told of and are due: the profile's knock port and what to say.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(u16, Tally)> {
        let mut due = Vec::new();
        self.untold.retain(|port| {
            let Some(guest) = self.guests.get_mut(port) else { return false };
            due.extend(guest.wrong.due(now).map(|tally| (*port, tally)));
            guest.wrong.next_due().is_some()
        });
        due
    }

    /// When [`Door::due`] will next have something to say. None: not until something happens.
    #[must_use]
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.untold.iter().filter_map(|port| self.guests.get(port)?.wrong.next_due()).min()
    }
}

impl Guest {
    fn new(files: ProfileFiles, rules: Rules) -> Result<(u16, Self), ProfileError> {
        let config_path = files.dir().join("config");
        let (profile, counter) = files.parse()?;
        let allow = profile.config.allow.map(services).transpose();
        let allow =
            allow.map_err(|why| ProfileError::BadConfig(config_path, format!("allow: {why}")))?;
        let policy = Policy { default_port: profile.config.port, allow, seconds: rules.seconds };
        let next = counter.read()?;
        let guest = Self {
            name: profile.name,
            keys: profile.keys,
            next,
            counter,
            policy,
            wrong: WrongKnocks::default(),
        };
        Ok((profile.config.knock_port, guest))
    }

    /// Whether this is one of the knocks that were accepted, or passed over, not long ago.
    fn has_seen(&self, syn: &LoggedSyn<'_>, window: u32) -> bool {
        let from = self.next.saturating_sub(window);
        classic::open(&self.keys, from, self.next - from, &syn.fields).is_ok()
    }
}

/// What of the config every profile has in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// How long a grant lasts, in seconds.
    pub(super) seconds: u16,
    /// How many counters ahead are tried.
    pub(super) error_window: u32,
}

fn services(texts: Vec<String>) -> Result<Vec<Service>, String> {
    texts.into_iter().map(|text| ServiceText::try_from(text).map(|service| service.0)).collect()
}

/// Why the profiles cannot be used.
#[derive(Debug)]
pub(super) enum DoorError {
    /// One of them is broken.
    Profile(ProfileError),
    /// Two knock on one port.
    SamePort(u16, Vec<String>),
}

impl fmt::Display for DoorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Profile(error) => error.fmt(f),
            Self::SamePort(port, names) => write!(
                f,
                "the profiles {names:?} all knock on port {port}; give each its own knock_port, on the client too"
            ),
        }
    }
}

impl std::error::Error for DoorError {}

/// Why a SYN opened nothing, or what it opened; `{profile}` says of whom. For the log.
pub(super) struct Told<'a> {
    pub(super) outcome: &'a Outcome,
    pub(super) profile: &'a str,
    pub(super) source: IpAddr,
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { outcome, profile, source } = self;
        match outcome {
            Outcome::NoProfile => write!(f, "{source}: no profile knocks on this port"),
            Outcome::Wrong(tally) => match tally {
                Some(tally) => write!(f, "profile {profile:?}: {tally}"),
                None => write!(f, "{source}: wrong knock (profile {profile:?})"),
            },
            Outcome::NotDurable(error) => {
                write!(f, "opened nothing for {source} (profile {profile:?}): {error}")
            }
            Outcome::Refused(refused) => {
                write!(f, "refused {source} (profile {profile:?}): {refused}")
            }
            Outcome::NotOpened(request, reply) => {
                write!(
                    f,
                    "could not open {}/{} to {source} (profile {profile:?}): ",
                    request.protocol, request.port
                )?;
                match reply {
                    Reply::Full => f.write_str("as many grants as `max_open` allows are open"),
                    Reply::FullForSource => {
                        f.write_str("it has as many grants open as `max_open_per_source` allows")
                    }
                    Reply::Failed(errno) => {
                        write!(f, "the firewall refused: {}", io::Error::from_raw_os_error(*errno))
                    }
                    Reply::NotOurs => {
                        write!(f, "{} is not an address of this host", request.destination)
                    }
                    Reply::Ours => f.write_str("it is an address of this host"),
                    Reply::Ready | Reply::Opened | Reply::Done => {
                        f.write_str("the helper replied out of turn")
                    }
                }
            }
            Outcome::Opened(Request { protocol, port, seconds, .. }) => {
                write!(
                    f,
                    "opened {protocol}/{port} to {source} for {seconds} s (profile {profile:?})"
                )
            }
        }
    }
}
