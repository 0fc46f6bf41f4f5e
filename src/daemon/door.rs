//! What a refused SYN means: the one function that reads as the story of a knock is [`Door::knock`].

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::guest::{Again, Guest, Rules};
use super::meter::Meter;
use super::outcome::Outcome;
use super::wrong::{Kind, Tally, WrongKnocks};
use crate::layout;
use crate::privileged::{Helper, HelperGone, Limits, Reply, Request};
use crate::profile::{ProfileError, ProfileFiles};
use crate::syn::LoggedSyn;

/// Looks beyond the window cost this many times their time: two kinds of them take at most 1 % of a processor.
const PRICE: u32 = 200;
/// What one look far ahead costs its knock port: two a second.
const FAR_LOOK: Duration = Duration::from_millis(500);

/// Every profile that may knock, found by its knock port: what a log line costs does not grow with their number.
#[derive(Debug)]
pub(super) struct Door {
    ports: HashMap<u16, KnockPort>,
    /// The knock ports with wrong knocks to tell of: what a wake-up costs does not grow with the profiles either.
    untold: BTreeSet<u16>,
    limits: Limits,
    /// Looks far ahead, and looks after remembered knocks, for all profiles.
    far: Meter,
    near: Meter,
}

/// A knock port and the profiles that knock on it: the MAC says which.
#[derive(Debug, Default)]
struct KnockPort {
    guests: Vec<Guest>,
    wrong: WrongKnocks,
    far: Meter,
}

impl Door {
    /// Parses the profiles and looks at their counters. What is broken is left out and told of, so that one broken
    /// profile does not lock everybody out.
    #[must_use]
    pub(super) fn new(
        files: Vec<ProfileFiles>,
        limits: Limits,
        rules: Rules,
    ) -> (Self, Vec<ProfileError>) {
        let mut ports: HashMap<u16, KnockPort> = HashMap::with_capacity(files.len());
        let mut broken = Vec::new();
        for files in files {
            match Guest::new(files, rules) {
                Ok((port, guest)) => ports.entry(port).or_default().guests.push(guest),
                Err(error) => broken.push(error),
            }
        }
        let (far, near) = (Meter::default(), Meter::default());
        (Self { ports, untold: BTreeSet::new(), limits, far, near }, broken)
    }

    /// Whether there is nobody to open for.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    /// The ports that are knocked on.
    pub(super) fn knock_ports(&self) -> impl Iterator<Item = u16> {
        self.ports.keys().copied()
    }

    /// The names of the profiles that knock on `port`, quoted.
    #[must_use]
    pub(super) fn profile_names(&self, port: u16) -> String {
        let guests = self.ports.get(&port).map(|port| port.guests.as_slice()).unwrap_or_default();
        let names: Vec<_> = guests.iter().map(|guest| format!("{:?}", guest.name)).collect();
        names.join(", ")
    }

    /// A refused SYN becomes an open port, or does not. Every step must succeed before the next one is taken; the
    /// counter is durable before anything is asked of the helper.
    pub(super) fn knock(
        &mut self,
        syn: &LoggedSyn<'_>,
        helper: &mut Helper,
        now: Instant,
    ) -> Result<Outcome, HelperGone> {
        let Some(port) = self.ports.get_mut(&syn.destination_port) else {
            return Ok(Outcome::NoProfile);
        };
        match port.guests.iter().find_map(|guest| guest.has_heard(syn)) {
            Some(Again::Repeated) => return Ok(Outcome::Repeated),
            Some(Again::Replayed) => return Ok(self.wrong(syn, Kind::Replayed, now)),
            None => {}
        }
        let Some((guest, asked, used)) = port.opening(syn, &mut self.near, now) else {
            if let Some((profile, ahead)) = port.far_ahead(syn, &mut self.far, now) {
                return Ok(Outcome::Ahead(profile, ahead));
            }
            let kind = if port.is_behind(syn) { Kind::Replayed } else { Kind::NoKeyFits };
            return Ok(self.wrong(syn, kind, now));
        };
        let profile = guest.name.clone();
        if let Err(error) = guest.accept(used) {
            return Ok(Outcome::NotDurable(profile, error));
        }
        guest.hear(syn);
        #[cfg(feature = "misbehave")]
        super::misbehave::misbehave(asked, helper);

        let requests = match guest.policy.decide(&self.limits, syn, asked) {
            Ok(requests) => requests,
            Err(refused) => return Ok(Outcome::Refused(profile, refused)),
        };
        let open = |request| guest.open(request, helper, now);
        let mut outcomes = requests.into_iter().map(open).collect::<Result<Vec<_>, _>>()?;
        // One service is the rule; of two each is told of.
        Ok(if outcomes.len() == 1 { outcomes.remove(0) } else { Outcome::Each(outcomes) })
    }

    fn wrong(&mut self, syn: &LoggedSyn<'_>, kind: Kind, now: Instant) -> Outcome {
        let told = self
            .ports
            .get_mut(&syn.destination_port)
            .and_then(|port| port.wrong.count(syn.source, kind, now));
        self.untold.insert(syn.destination_port);
        Outcome::Wrong(told)
    }

    /// Wrong knocks that have not been told of and are due: the knock port and what to say.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(u16, Tally)> {
        let mut due = Vec::new();
        self.untold.retain(|number| {
            let Some(port) = self.ports.get_mut(number) else { return false };
            due.extend(port.wrong.due(now).map(|tally| (*number, tally)));
            port.wrong.next_due().is_some()
        });
        due
    }

    /// When [`Door::due`] will next have something to say. None: not until something happens.
    #[must_use]
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.untold.iter().filter_map(|port| self.ports.get(port)?.wrong.next_due()).min()
    }
}

impl Guest {
    /// Opens what `request` says, within the profile's quota.
    fn open(
        &mut self,
        request: Request,
        helper: &mut Helper,
        now: Instant,
    ) -> Result<Outcome, HelperGone> {
        let profile = self.name.clone();
        if self.grants.room_for(&request, now).is_err() {
            return Ok(Outcome::OverQuota(profile, request));
        }
        match helper.ask_open(&request)? {
            Reply::Opened => {
                self.grants.record(&request, now);
                Ok(Outcome::Opened(profile, request))
            }
            reply => Ok(Outcome::NotOpened(profile, request, reply)),
        }
    }
}

impl KnockPort {
    /// The profile that a knock opens for, what it asks for, and its counter.
    fn opening(
        &mut self,
        syn: &LoggedSyn<'_>,
        near: &mut Meter,
        now: Instant,
    ) -> Option<(&mut Guest, layout::Request, u32)> {
        let in_window =
            |(at, guest): (usize, &Guest)| Some((at, guest.receiver.look(&syn.fields)?));
        let mut found = self.guests.iter().enumerate().find_map(in_window);
        if found.is_none()
            && self.guests.iter().any(|guest| guest.receiver.has_remembered())
            && near.may(now)
        {
            let start = Instant::now();
            found = self.guests.iter().enumerate().find_map(|(at, guest)| {
                Some((at, guest.receiver.look_after_remembered(&syn.fields)?))
            });
            near.charge(now, start.elapsed() * PRICE);
        }
        let (at, (asked, used)) = found?;
        self.guests.get_mut(at).map(|guest| (guest, asked, used))
    }

    /// The profile whose valid knock this is, though it is beyond the window: it opens nothing and is remembered. Says
    /// how many counters it is ahead.
    fn far_ahead(
        &mut self,
        syn: &LoggedSyn<'_>,
        of_all: &mut Meter,
        now: Instant,
    ) -> Option<(String, u32)> {
        if !self.far.may(now) || !of_all.may(now) {
            return None;
        }
        let start = Instant::now();
        let found = self.guests.iter_mut().find_map(|guest| {
            let ahead = guest.receiver.look_far(&syn.fields)?;
            guest.hear(syn);
            Some((guest.name.clone(), ahead))
        });
        self.far.charge(now, FAR_LOOK);
        of_all.charge(now, start.elapsed() * PRICE);
        found
    }

    /// Whether this knock was used, or passed over, not long ago.
    fn is_behind(&self, syn: &LoggedSyn<'_>) -> bool {
        self.guests.iter().any(|guest| guest.receiver.look_behind(&syn.fields))
    }
}
