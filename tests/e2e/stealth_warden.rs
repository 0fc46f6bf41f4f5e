//! The warden cannot tell real attempts from each other, and not from SYNs that are made right by hand; it tells the classic
//! layout's knocks at a look, and says of a right one where it is given away.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use crate::imitation::Pattern;
use crate::net::{FAMILIES, Family, Net};
use crate::stealth_attempts::{Act, Made, REFUSED, UNANSWERED, fresh_port, make, mix, right};
use crate::warden::attempt::Attempt;
use crate::warden::compare;
use crate::warden::sides::{Side, Sides};

/// So many of each. The kernel has 14,116 source ports for one destination, climbs by 9 of 28,232 on average, and begins
/// elsewhere each ten seconds: among so many some 4-tuples are used again. Such a knock is told, as a test below says, and is
/// left out of the others.
pub(crate) const N: usize = 3000;

/// With this probability at most, something that is the same is said to differ, in all statistics together.
pub(crate) const CHANCE: f64 = 1e-6;

pub(crate) const PAUSE: Duration = Duration::from_millis(1);

/// Tells the attempts to one port from those to another.
pub(crate) fn by_port(attempts: &[Attempt], knocks: u16, real: u16) -> Sides<'_> {
    Sides::of(attempts, |attempt| match attempt.syn.destination.port() {
        port if port == knocks => Side::Knock,
        port if port == real => Side::Real,
        _ => Side::Other,
    })
}

/// Tells those that the kernel made from the others.
pub(crate) fn by_act<'a>(attempts: &'a [Attempt], acts: &[Act<'_>]) -> Sides<'a> {
    assert_eq!(attempts.len(), acts.len());
    Sides::of(attempts, |attempt| match acts[attempt.index] {
        Act::Connect(_) => Side::Real,
        _ => Side::Knock,
    })
}

/// Tells every second attempt from the others.
fn by_turns(attempts: &[Attempt]) -> Sides<'_> {
    Sides::of(
        attempts,
        |attempt| {
            if attempt.index.is_multiple_of(2) { Side::Knock } else { Side::Real }
        },
    )
}

#[track_caller]
fn assert_at_chance(sides: &Sides<'_>) {
    let report = compare(sides);
    eprintln!("{report}");
    assert!(report.telling(CHANCE).is_empty(), "{:?}\n{report}", report.telling(CHANCE));
}

/// Nothing tells those whose 4-tuples nobody had before; among 6,000, some have one that was used, and those are told.
#[track_caller]
pub(crate) fn assert_told_by_a_second_use_alone(sides: &Sides<'_>) {
    assert_at_chance(&sides.clone().first_uses());
    let report = compare(sides);
    eprintln!("{report}");
    assert_eq!(report.telling(CHANCE), ["4-tuple: sequence on its clock"]);
}

/// A network and what the client's SYNs in it look like.
pub(crate) fn net(family: Family) -> (Net, Pattern) {
    let net = Net::lan();
    let pattern = Pattern::of(&net, family, fresh_port());
    (net, pattern)
}

#[test]
fn real_attempts_to_two_closed_ports_are_not_told_apart() {
    for family in FAMILIES {
        let (net, mut pattern) = net(family);
        let ports = [fresh_port(), fresh_port()];
        let acts = mix(&mut pattern, &ports.map(|port| (N, Act::Connect(port))));
        let made = make(&net, &mut pattern, family, &acts, PAUSE, REFUSED);
        assert_eq!(made.attempts.len(), 2 * N);
        assert_at_chance(&by_port(&made.attempts, ports[0], ports[1]));
    }
}

/// Among so many, some 4-tuples are used again: their sequence numbers lie on the kernel's clock.
#[test]
fn real_attempts_to_one_closed_port_are_not_told_apart() {
    for family in FAMILIES {
        let (net, mut pattern) = net(family);
        let acts = vec![Act::Connect(fresh_port()); 2 * N];
        let made = make(&net, &mut pattern, family, &acts, PAUSE, REFUSED);
        assert!(made.attempts.iter().any(|attempt| attempt.again.is_some()));
        assert_at_chance(&by_turns(&made.attempts));
    }
}

#[test]
fn real_attempts_that_nothing_answers_are_not_told_apart() {
    for family in FAMILIES {
        let (net, mut pattern) = net(family);
        let ports = [fresh_port(), fresh_port()];
        drop_silently(&net, &ports);
        let acts = mix(&mut pattern, &ports.map(|port| (N, Act::Connect(port))));
        let made = make(&net, &mut pattern, family, &acts, Duration::from_millis(2), UNANSWERED);
        assert_eq!(made.attempts.len(), 2 * N);
        assert_at_chance(&by_port(&made.attempts, ports[0], ports[1]));
    }
}

#[test]
fn right_knocks_are_not_told_from_real_attempts() {
    for family in FAMILIES {
        let (net, mut pattern) = net(family);
        let [knocks, real] = [fresh_port(), fresh_port()];
        let rows = [(N, Act::Imitate(knocks, right)), (N, Act::Connect(real))];
        let acts = mix(&mut pattern, &rows);
        let made = make(&net, &mut pattern, family, &acts, PAUSE, REFUSED);
        assert_at_chance(&by_port(&made.attempts, knocks, real).first_uses());
        assert_p0f_says_the_same(&net, &made, knocks, real);
    }
}

/// As they are used, knocks and connections to the same port. Where a 4-tuple is used again, the kernel's sequence numbers
/// lie on a clock, a knock's anywhere.
#[test]
fn a_4_tuple_used_twice_tells_right_knocks_and_nothing_else_does() {
    for family in FAMILIES {
        let (net, mut pattern) = net(family);
        let port = fresh_port();
        let rows = [(N, Act::Imitate(port, right)), (N, Act::Connect(port))];
        let acts = mix(&mut pattern, &rows);
        let made = make(&net, &mut pattern, family, &acts, PAUSE, REFUSED);
        assert_told_by_a_second_use_alone(&by_act(&made.attempts, &acts));
    }
}

/// What SECURITY.md and docs/stealth.md say about where a knock is seen.
#[test]
fn what_follows_gives_a_right_knock_away_on_an_open_port_and_on_a_silent_path() {
    for family in FAMILIES {
        let (net, mut pattern) = net(family);
        let [open, silent, twice] = [fresh_port(), fresh_port(), fresh_port()];
        let _echo = net.server.echo(open);
        drop_silently(&net, &[silent, twice]);
        let mut rows = vec![(50, Act::ImitateTwice(twice)), (50, Act::Connect(twice))];
        for port in [open, silent] {
            rows.extend([(50, Act::Imitate(port, right)), (50, Act::Connect(port))]);
        }
        let acts = mix(&mut pattern, &rows);
        let made = make(&net, &mut pattern, family, &acts, Duration::from_millis(2), UNANSWERED);
        let telling = |port: u16| {
            let is_knock = |attempt: &Attempt| match acts[attempt.index] {
                Act::Connect(of) if of == port => Side::Real,
                Act::Imitate(of, _) | Act::ImitateTwice(of) if of == port => Side::Knock,
                _ => Side::Other,
            };
            let report = compare(&Sides::of(&made.attempts, is_knock));
            eprintln!("{report}");
            report.telling(CHANCE).into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(telling(open), ["what follows"]);
        assert_eq!(telling(silent), ["what follows", "repeated SYN"]);
        assert_eq!(telling(twice), ["repeated SYN"]);
    }
}

/// As Linux was before each connection had an offset of its own (165573e41f2f).
#[test]
fn a_kernel_with_one_timestamp_clock_for_each_pair_of_hosts_gives_right_knocks_away() {
    for family in FAMILIES {
        let (net, mut pattern) = net(family);
        let [knocks, real] = [fresh_port(), fresh_port()];
        let rows = [(300, Act::Imitate(knocks, right)), (300, Act::Connect(real))];
        let acts = mix(&mut pattern, &rows);
        let mut made = make(&net, &mut pattern, family, &acts, PAUSE, REFUSED);
        for attempt in &mut made.attempts {
            if attempt.syn.destination.port() == real {
                attempt.syn.set_timestamps(milliseconds(attempt.at).wrapping_add(77_777), 0);
            }
        }
        let report = compare(&by_port(&made.attempts, knocks, real).first_uses());
        eprintln!("{report}");
        let expected = [
            "timestamp: as the real ones'",
            "timestamp: steps as the real ones'",
            "timestamp: one clock for all",
        ];
        assert_eq!(report.telling(CHANCE), expected);
    }
}

#[test]
fn a_host_that_sends_no_timestamps_gives_knocks_away() {
    for family in FAMILIES {
        let (net, mut pattern) = net(family);
        net.client.inside(|| fs::write("/proc/sys/net/ipv4/tcp_timestamps", "0").unwrap());
        let [knocks, real] = [fresh_port(), fresh_port()];
        let rows = [(50, Act::Imitate(knocks, right)), (50, Act::Connect(real))];
        let acts = mix(&mut pattern, &rows);
        let made = make(&net, &mut pattern, family, &acts, PAUSE, REFUSED);
        let report = compare(&by_port(&made.attempts, knocks, real).first_uses());
        eprintln!("{report}");
        assert!(report.telling(CHANCE).contains(&"order of options"));
    }
}

/// Milliseconds since 1970, as far as 32 bits go.
pub(crate) fn milliseconds(since_1970: Duration) -> u32 {
    u32::try_from(since_1970.as_millis() & u128::from(u32::MAX)).unwrap()
}

fn drop_silently(net: &Net, ports: &[u16]) {
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    net.server.nft(&format!(
        "table inet t {{ chain in {{ type filter hook input priority filter; tcp dport {{ {} }} drop; }}; }}",
        ports.join(", ")
    ));
}

/// p0f has one signature for all knocks, and real attempts have it. (One in 65,536 of those has the ID 0, which p0f sees.)
pub(crate) fn assert_p0f_says_the_same(net: &Net, made: &Made, knocks: u16, real: u16) {
    let [knocks, real] = [knocks, real].map(|port| p0f_signatures(net, made, port));
    eprintln!("p0f says of the knocks {knocks:?}, of the real ones {real:?}");
    assert!(knocks.len() == 1 && knocks.is_subset(&real), "{knocks:?}, not {real:?}");
}

/// What p0f makes of the SYNs to a port: each different signature.
fn p0f_signatures(net: &Net, made: &Made, port: u16) -> BTreeSet<String> {
    let log = net.path("p0f.log");
    let paths = [&made.file, &log].map(|path| path.to_str().unwrap());
    net.client.run(&["p0f", "-r", paths[0], "-o", paths[1]]);
    let text = fs::read_to_string(&log).unwrap();
    fs::remove_file(&log).unwrap();
    let to = format!("/{port}|subj=cli|");
    let lines = text.lines().filter(|line| line.contains("mod=syn|") && line.contains(&to));
    let signatures: BTreeSet<String> =
        lines.map(|line| line.split_once("|os=").unwrap().1.to_owned()).collect();
    assert!(!signatures.is_empty(), "p0f saw no SYN to {port}: {text}");
    signatures
}
