//! Connection attempts of one host, from what was recorded: each SYN that is not a repetition, and what became of it. Pure.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::recording::Recorded;
use super::segment::{Ip, Segment};

const FIN: u16 = 1;
const SYN: u16 = 2;
const RST: u16 = 4;
const ACK: u16 = 16;

/// Linux's ports for outgoing connections, unless somebody changes them: 32768 to 60999.
pub(crate) const FIRST_PORT: u16 = 32_768;
pub(crate) const LAST_PORT: u16 = 60_999;
const RANGE: i32 = (LAST_PORT - FIRST_PORT) as i32 + 1;

/// Linux adds a clock of this many nanoseconds to the initial sequence numbers of one 4-tuple.
const SEQUENCE_TICK: u128 = 64;

/// One try to connect.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    /// Its place among the attempts of the recording.
    pub(crate) index: usize,
    /// When its SYN passed, since 1970.
    pub(crate) at: Duration,
    /// The SYN.
    pub(crate) syn: Segment,
    /// From the source port of the attempt before it to the same port and address, to its own; upwards, modulo Linux's
    /// range.
    pub(crate) port_step: Option<u16>,
    /// Which of the kernel's runs through its ports to this destination it belongs to. Linux begins anew elsewhere each ten
    /// seconds.
    pub(crate) run: usize,
    /// How far the run had come: the steps before it and its own.
    travelled: u32,
    /// Until the next SYN of the host, whatever it is.
    pub(crate) next: Option<Duration>,
    /// The answers and the rest of the talk, in order.
    pub(crate) then: Vec<Then>,
    /// What came before it with the same addresses and ports.
    pub(crate) again: Option<Again>,
}

/// What passed after a SYN, between the same addresses and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// The other side refused.
    Refused,
    /// The other side accepted.
    Accepted,
    /// The host sent its part of the handshake, or data.
    Acknowledged,
    /// The host broke it off.
    BrokenOff,
    /// The host sent the SYN again.
    Repeated(Repetition),
}

/// A SYN that was sent again, against the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Repetition {
    pub(crate) after: Duration,
    /// How much was added to the IP ID.
    pub(crate) id_step: Option<u16>,
    /// Whether the IPv6 flow label is another.
    pub(crate) has_other_flow: Option<bool>,
    /// How much was added to the timestamp, in its units.
    pub(crate) timestamp_step: Option<u32>,
}

/// A 4-tuple that an earlier attempt had.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Again {
    /// The index of the last attempt that had it.
    pub(crate) earlier: usize,
    /// Whether it had it in the same run, less than a whole cycle of ports ago.
    pub(crate) is_too_soon: bool,
    /// How far the sequence number is from where that kernel's clock would have it. Seconds.
    pub(crate) off_clock: f64,
}

/// Linux goes up by 2 to 16, and further past ports in use. What is further is a new run.
const LONGEST_STEP: u16 = 64;

/// Where a host is in its ports for one destination.
#[derive(Clone, Copy)]
struct Course {
    port: u16,
    run: usize,
    /// How far it has come in this run.
    travelled: u32,
}

type Tuple = (SocketAddr, SocketAddr);

/// The attempts of `host` in what was recorded.
pub(crate) fn attempts(recorded: &[Recorded], host: IpAddr) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    let mut last_of: HashMap<Tuple, usize> = HashMap::new();
    let mut courses: HashMap<SocketAddr, Course> = HashMap::new();
    for Recorded { at, frame } in recorded {
        let Some(segment) = Segment::read(frame) else { continue };
        let is_outgoing = segment.source.ip() == host;
        let tuple = if is_outgoing {
            (segment.source, segment.destination)
        } else {
            (segment.destination, segment.source)
        };
        let earlier = last_of.get(&tuple).copied();
        let is_syn = is_outgoing && segment.flags & (FIN | SYN | RST | ACK) == SYN;
        if !is_syn {
            if let Some(attempt) = earlier.map(|index| &mut attempts[index]) {
                follow(attempt, is_outgoing, segment.flags);
            }
            continue;
        }
        if let Some(before) =
            attempts.last_mut().filter(|before: &&mut Attempt| before.next.is_none())
        {
            before.next = Some(at.saturating_sub(before.at));
        }
        match earlier.map(|index| &mut attempts[index]) {
            Some(first) if first.syn.sequence == segment.sequence => {
                first.then.push(Then::Repeated(Repetition::of(first, *at, &segment)));
            }
            same_tuple => {
                let before = courses.get(&segment.destination).copied();
                let (course, port_step) = Course::next(before, segment.source.port());
                courses.insert(segment.destination, course);
                let again = same_tuple.map(|earlier| Again::of(earlier, *at, &segment, course));
                let (index, run, then) = (attempts.len(), course.run, Vec::new());
                last_of.insert(tuple, index);
                let (at, syn) = (*at, segment);
                let travelled = course.travelled;
                attempts.push(Attempt {
                    index,
                    at,
                    syn,
                    port_step,
                    run,
                    travelled,
                    next: None,
                    then,
                    again,
                });
            }
        }
    }
    attempts
}

fn follow(attempt: &mut Attempt, is_outgoing: bool, flags: u16) {
    attempt.then.push(match (is_outgoing, flags & RST != 0, flags & SYN != 0) {
        (true, true, _) => Then::BrokenOff,
        (true, false, _) => Then::Acknowledged,
        (false, true, _) => Then::Refused,
        (false, false, true) => Then::Accepted,
        (false, false, false) => return,
    });
}

impl Course {
    /// Goes on to another port. Gives the step as well, unless it is the first one.
    fn next(before: Option<Self>, port: u16) -> (Self, Option<u16>) {
        let Some(before) = before else { return (Self { port, run: 0, travelled: 0 }, None) };
        let step = (i32::from(port) - i32::from(before.port)).rem_euclid(RANGE);
        let step = u16::try_from(step).unwrap();
        let course = match step {
            ..=LONGEST_STEP => {
                Self { port, run: before.run, travelled: before.travelled + u32::from(step) }
            }
            _ => Self { port, run: before.run + 1, travelled: 0 },
        };
        (course, Some(step))
    }
}

impl Repetition {
    fn of(first: &Attempt, at: Duration, segment: &Segment) -> Self {
        let (id_step, has_other_flow) = match (&first.syn.ip, &segment.ip) {
            (Ip::V4 { id: from, .. }, Ip::V4 { id: to, .. }) => {
                (Some(to.wrapping_sub(*from)), None)
            }
            (Ip::V6 { flow_label: from, .. }, Ip::V6 { flow_label: to, .. }) => {
                (None, Some(from != to))
            }
            _ => (None, None),
        };
        let timestamps = segment.timestamps().zip(first.syn.timestamps());
        let timestamp_step = timestamps.map(|((to, _), (from, _))| to.wrapping_sub(from));
        let after = at.saturating_sub(first.at);
        Self { after, id_step, has_other_flow, timestamp_step }
    }
}

impl Again {
    fn of(earlier: &Attempt, at: Duration, segment: &Segment, course: Course) -> Self {
        let since = i64::from(course.travelled) - i64::from(earlier.travelled);
        let is_too_soon =
            earlier.run == course.run && since < (RANGE - i32::from(LONGEST_STEP)).into();
        let ticks = at.saturating_sub(earlier.at).as_nanos() / SEQUENCE_TICK;
        let expected = u32::try_from(ticks & u128::from(u32::MAX)).unwrap();
        let stepped = segment.sequence.wrapping_sub(earlier.syn.sequence);
        let off = stepped.wrapping_sub(expected);
        let off_clock = f64::from(off.min(off.wrapping_neg())) * 64e-9;
        Self { earlier: earlier.index, is_too_soon, off_clock }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::warden::samples::{Sample, recorded};

    fn of(samples: &[Sample]) -> Vec<Attempt> {
        attempts(&recorded(samples), "10.66.1.2".parse().unwrap())
    }

    #[test]
    fn steps_and_gaps_are_from_one_syn_of_the_host_to_the_next() {
        let seen = of(&[
            Sample::syn(0, 40_000, 22),
            Sample::syn(10, 50_000, 80),
            Sample::syn(30, 40_008, 22),
            Sample::syn(60, 32_770, 22),
        ]);
        let steps: Vec<_> = seen.iter().map(|attempt| attempt.port_step).collect();
        assert_eq!(steps, [None, None, Some(8), Some(60_999 - 40_008 + 32_770 - 32_768 + 1)]);
        let gaps: Vec<_> = seen.iter().map(|attempt| attempt.next).collect();
        assert_eq!(
            gaps,
            [Some(10), Some(20), Some(30), None].map(|ms| ms.map(Duration::from_millis))
        );
    }

    #[test]
    fn a_tuple_is_used_too_soon_before_a_whole_cycle_and_never_in_another_run() {
        let cycle = (40_000..60_990).chain(32_780..40_001).step_by(10);
        let mut samples: Vec<Sample> = cycle.map(|port| Sample::syn(0, port, 22)).collect();
        samples.last_mut().unwrap().segment.sequence = 7;
        let seen = of(&samples);
        let last = seen.last().unwrap();
        assert_eq!(
            (last.run, last.again.unwrap().earlier, last.again.unwrap().is_too_soon),
            (0, 0, false)
        );
        let mut early = Sample::syn(9, 40_000, 22);
        early.segment.sequence = 7;
        let seen = of(&[Sample::syn(0, 40_000, 22), Sample::syn(1, 50_000, 22), early]);
        assert_eq!(seen.iter().map(|attempt| attempt.run).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(!seen[2].again.unwrap().is_too_soon);
    }

    #[test]
    fn what_follows_belongs_to_the_attempt_with_its_addresses_and_ports() {
        let first = Sample::syn(0, 40_000, 22);
        let other = Sample::syn(1, 40_002, 22);
        let seen = of(&[
            first.clone(),
            other.clone(),
            other.answer(2, RST | ACK),
            first.answer(3, SYN | ACK),
            first.reply(4, ACK),
            first.reply(5, RST),
        ]);
        assert_eq!(seen[0].then, [Then::Accepted, Then::Acknowledged, Then::BrokenOff]);
        assert_eq!(seen[1].then, [Then::Refused]);
    }

    #[test]
    fn the_same_sequence_number_is_a_repetition_and_another_one_a_second_attempt() {
        let first = Sample::syn(0, 40_000, 22);
        let mut again = Sample::syn(1000, 40_000, 22);
        again.segment.sequence = first.segment.sequence;
        let mut on_the_clock = Sample::syn(6400, 40_000, 22);
        on_the_clock.segment.sequence = first.segment.sequence + 100_000_000;
        let mut off_it = Sample::syn(6500, 40_000, 22);
        off_it.segment.sequence = on_the_clock.segment.sequence - 15_625_000;
        let seen = of(&[first, again, on_the_clock, off_it]);
        assert_eq!(seen.len(), 3);
        let Then::Repeated(repetition) = seen[0].then[0] else { panic!("{seen:#?}") };
        assert_eq!(repetition.after, Duration::from_secs(1));
        let off = |index: usize| seen[index].again.map(|again| (again.earlier, again.off_clock));
        assert_eq!(off(0), None);
        assert_eq!(off(1), Some((0, 0.0)));
        assert!(seen[1].again.unwrap().is_too_soon);
        let (earlier, seconds) = off(2).unwrap();
        assert!(earlier == 1 && (seconds - 1.1).abs() < 1e-6, "{seconds}");
    }
}
