//! What a refused SYN means: the one function that reads as the story of a knock is [`Door::knock`].

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::expected::Expected;
use super::guest::{Again, Guest, Rules};
use super::line::CameIn;
use super::meter::Meter;
use super::openings::{Arrival, Opening, Openings};
use super::outcome::Outcome;
use super::source::PortSet;
use super::wrong::{Kind, Tally, WrongKnocks};
use crate::layout;
use crate::layout::receiver::FAR;
use crate::privileged::{Helper, HelperGone, Limits, MAX_EXPECTED, Reply, Request};
use crate::profile::{ProfileError, ProfileFiles};
use crate::syn::{LoggedSyn, SynFields};

/// Looks beyond the window cost this many times their time: each kind of them takes at most 0.5 % of a processor.
const PRICE: u32 = 200;
/// What one look far ahead costs its knock port: two a second.
const FAR_LOOK: Duration = Duration::from_millis(500);
/// Profiles whose looks are made cheap when somebody sends junk to their knock port: 4 MiB.
const MOST_PREPARED: usize = 64;

/// Every profile that may knock, found by its knock port: what a log line costs does not grow with their number.
#[derive(Debug)]
pub(super) struct Door {
    ports: HashMap<u16, KnockPort>,
    /// The knock ports with wrong knocks to tell of: what a wake-up costs does not grow with the profiles either.
    untold: BTreeSet<u16>,
    limits: Limits,
    /// What is open, where the kernel tells what becomes of it.
    openings: Openings,
    means: Means,
    /// The sequence numbers that the kernel logs, and how many counters of each profile they are. None: somebody else's
    /// firewall logs.
    expected: Option<(Expected, u32)>,
    /// Looks far ahead, looks after remembered knocks, and looks behind, for all profiles.
    far: Meter,
    near: Meter,
    behind: Meter,
    /// How many profiles' looks are cheap.
    prepared: usize,
}

/// What the firewall of this host can do for us.
#[derive(Clone, Copy, Debug)]
pub(super) struct Means {
    /// Our own table logs the knocks.
    pub(super) logs: bool,
    /// It tells of connections that came in.
    pub(super) tells: bool,
}

/// What the kernel logs from the start on.
#[derive(Debug, Default)]
pub(super) struct Listening {
    /// How many sequence numbers are expected,
    pub(super) numbers: usize,
    /// and how many counters of each profile that is.
    pub(super) counters: u32,
    /// The knock ports where any SYN with an acknowledgement number is logged, within a limit.
    pub(super) ports: Vec<u16>,
}

/// A knock port and the profiles that knock on it: the MAC says which.
#[derive(Debug, Default)]
struct KnockPort {
    guests: Vec<Guest>,
    wrong: WrongKnocks,
    /// The last one. Where a firewall logs too what our table has logged, it counts once.
    last_wrong: Option<(SynFields, IpAddr, u16)>,
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
        means: Means,
    ) -> (Self, Vec<ProfileError>) {
        let mut ports: HashMap<u16, KnockPort> = HashMap::with_capacity(files.len());
        let mut broken = Vec::new();
        for files in files {
            match Guest::new(files, &limits, rules) {
                Ok((port, guest)) => {
                    let guests = &mut ports.entry(port).or_default().guests;
                    // One is the rule; a vector takes room for four.
                    guests.reserve_exact(1);
                    guests.push(guest);
                }
                Err(error) => broken.push(error),
            }
        }
        let (far, near, behind) = <(Meter, Meter, Meter)>::default();
        let (openings, untold) = (Openings::default(), BTreeSet::new());
        let door = Self {
            ports,
            untold,
            limits,
            openings,
            means,
            expected: None,
            far,
            near,
            behind,
            prepared: 0,
        };
        (door, broken)
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

    /// Has the kernel log the knocks, where that is ours to do. Says what it logs, or the helper's refusal.
    ///
    /// A profile whose requests can be listed is heard by the sequence numbers of its knocks, which no flood can silence.
    /// All of them share the kernel's set; of the others the knock port is logged.
    pub(super) fn listen(
        &mut self,
        helper: &mut Helper,
        window: u32,
    ) -> Result<Result<Listening, Reply>, HelperGone> {
        if !self.means.logs {
            return Ok(Ok(Listening::default()));
        }
        let guests = || self.ports.values().flat_map(|port| &port.guests);
        let requests: usize =
            guests().filter_map(|guest| guest.requests.as_ref()).map(Vec::len).sum();
        let room = MAX_EXPECTED
            .checked_div(requests)
            .map_or(FAR, |room| u32::try_from(room).unwrap_or(FAR).min(FAR));
        // Below the window there is no use in it.
        let counters = if room < window { 0 } else { room };
        let numbers = guests().flat_map(|guest| guest.sequences(guest.expected_from, counters));
        let expected = Expected::new(numbers.collect());
        let is_heard = |guest: &Guest| counters > 0 && guest.requests.is_some();
        let by_port = self.ports.iter().filter(|(_, port)| !port.guests.iter().all(is_heard));
        let mut ports: Vec<u16> = by_port.map(|(number, _)| *number).collect();
        ports.sort_unstable();

        let all = expected.all();
        for reply in [helper.ask_expect(&all)?, helper.ask_knock_ports(&ports)?] {
            if reply != Reply::Done {
                return Ok(Err(reply));
            }
        }
        self.expected = Some((expected, counters));
        Ok(Ok(Listening { numbers: all.len(), counters, ports }))
    }

    /// The ports that lines may be about: those of knocks, and those where somebody may come in.
    pub(super) fn wanted_ports(&self) -> PortSet {
        let mut wanted: PortSet = self.knock_ports().collect();
        if self.means.tells {
            for guest in self.ports.values().flat_map(|port| &port.guests) {
                match &guest.requests {
                    Some(requests) => requests.iter().for_each(|request| wanted.insert(request.0)),
                    None => (0..=u16::MAX).for_each(|port| wanted.insert(port)),
                }
            }
        }
        wanted
    }

    /// The names, quoted, of the profiles whose knocks cannot be listed: without `allow`, or with one too wide.
    pub(super) fn unlisted(&self) -> Vec<String> {
        let guests = self.ports.values().flat_map(|port| &port.guests);
        let mut names: Vec<_> = guests
            .filter(|guest| guest.requests.is_none())
            .map(|guest| format!("{:?}", guest.name))
            .collect();
        names.sort_unstable();
        names
    }

    /// The names of the profiles that knock on `port`, quoted.
    #[must_use]
    pub(super) fn profile_names(&self, port: u16) -> String {
        let guests = self.ports.get(&port).map(|port| port.guests.as_slice()).unwrap_or_default();
        let names: Vec<_> = guests.iter().map(|guest| format!("{:?}", guest.name)).collect();
        names.join(", ")
    }

    /// A SYN to a knock port becomes an open port, or does not; then the kernel learns which knocks may come next.
    pub(super) fn knock(
        &mut self,
        syn: &LoggedSyn<'_>,
        helper: &mut Helper,
        now: Instant,
    ) -> Result<Outcome, HelperGone> {
        let outcome = self.decide(syn, helper, now)?;
        self.expect_next(syn, &outcome, helper)?;
        Ok(outcome)
    }

    /// Every step must succeed before the next one is taken; the counter is durable before anything is asked of the helper.
    fn decide(
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
            let found = port.far_ahead(syn, &mut self.far, &mut self.prepared, now);
            if let Some((profile, ahead)) = found {
                return Ok(Outcome::Ahead(profile, ahead));
            }
            let kind = if port.is_behind(syn, &mut self.behind, now) {
                Kind::Replayed
            } else {
                Kind::NoKeyFits
            };
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
        if self.means.tells {
            for outcome in &outcomes {
                if let Outcome::Opened(profile, request) = outcome {
                    self.openings.opened(profile, syn.destination_port, request, now);
                }
            }
        }
        // One service is the rule; of two each is told of.
        Ok(if outcomes.len() == 1 { outcomes.remove(0) } else { Outcome::Each(outcomes) })
    }

    /// Moves what the kernel logs with the counters, and drops a number that is logged again and again for nothing.
    fn expect_next(
        &mut self,
        syn: &LoggedSyn<'_>,
        outcome: &Outcome,
        helper: &mut Helper,
    ) -> Result<(), HelperGone> {
        let Some((expected, counters)) = &mut self.expected else { return Ok(()) };
        let Some(port) = self.ports.get_mut(&syn.destination_port) else { return Ok(()) };
        for guest in &mut port.guests {
            let (first, next) = (guest.expected_from, guest.receiver.next());
            if first == next || guest.requests.is_none() {
                continue;
            }
            let gone = expected.remove(guest.sequences(first, (next - first).min(*counters)));
            let from = first.saturating_add(*counters).max(next);
            let more = expected.add(guest.sequences(from, next.saturating_add(*counters) - from));
            guest.expected_from = next;
            // A reply that is not `Done` leaves a number too many, or a far one too few: neither opens anything.
            helper.ask_forget(&gone)?;
            helper.ask_expect(&more)?;
        }
        if !outcome.has_opened() && expected.was_logged(syn.fields.seq) {
            helper.ask_forget(&[syn.fields.seq])?;
        }
        Ok(())
    }

    /// A connection through a grant stands. Behind the last one that was knocked for, the door is shut.
    pub(super) fn came_in(
        &mut self,
        line: CameIn,
        helper: &mut Helper,
        now: Instant,
    ) -> Result<Option<Arrival>, HelperGone> {
        let Some(arrival) = self.openings.came_in(line, now) else { return Ok(None) };
        if arrival.is_last {
            helper.ask_close(&arrival.request)?;
            self.forget(&arrival.profile, arrival.knock_port, &arrival.request);
        }
        Ok(Some(arrival))
    }

    /// What is open no more by the kernel's clock.
    pub(super) fn over(&mut self, now: Instant) -> Vec<Opening> {
        self.openings.over(now)
    }

    /// What is closed counts no more against its profile.
    fn forget(&mut self, profile: &str, knock_port: u16, request: &Request) {
        let guests = self.ports.get_mut(&knock_port).map(|port| port.guests.iter_mut());
        for guest in guests.into_iter().flatten().filter(|guest| guest.name == profile) {
            guest.grants.forget(request);
        }
    }

    fn wrong(&mut self, syn: &LoggedSyn<'_>, kind: Kind, now: Instant) -> Outcome {
        let Some(port) = self.ports.get_mut(&syn.destination_port) else {
            return Outcome::NoProfile;
        };
        let this = Some((syn.fields, syn.source, syn.source_port));
        if std::mem::replace(&mut port.last_wrong, this) == this {
            return Outcome::Repeated;
        }
        self.untold.insert(syn.destination_port);
        Outcome::Wrong(port.wrong.count(syn.source, kind, now))
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

    /// When [`Door::due`] or [`Door::over`] will next have something to say. None: not until something happens.
    #[must_use]
    pub(super) fn next_due(&self) -> Option<Instant> {
        let wrong = self.untold.iter().filter_map(|port| self.ports.get(port)?.wrong.next_due());
        wrong.chain(self.openings.next_end()).min()
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
        prepared: &mut usize,
        now: Instant,
    ) -> Option<(String, u32)> {
        if !self.far.may(now) || !of_all.may(now) {
            return None;
        }
        let start = Instant::now();
        for guest in &mut self.guests {
            if *prepared < MOST_PREPARED && guest.receiver.prepare() {
                *prepared += 1;
            }
        }
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
    fn is_behind(&self, syn: &LoggedSyn<'_>, behind: &mut Meter, now: Instant) -> bool {
        if !behind.may(now) {
            return false;
        }
        let start = Instant::now();
        let is_behind = self.guests.iter().any(|guest| guest.receiver.look_behind(&syn.fields));
        behind.charge(now, start.elapsed() * PRICE);
        is_behind
    }
}
