//! Knocks that are wrong in one thing each, and the classic layout's: the warden names what is wrong.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::net::FAMILIES;
use crate::stealth_attempts::{Act, Change, KnockProgram, REFUSED, fresh_port, make, mix};
use crate::stealth_warden::{by_port, milliseconds, net};
use crate::warden::compare;
use crate::warden::report::Report;
use crate::warden::segment::{Ip, Segment, TIMESTAMPS, TcpOption};

const REAL: usize = 3000;
const WRONG: usize = 300;
const PAUSE: Duration = Duration::from_micros(500);

/// What is wrong has to be seen far more clearly than chance can make it look.
const CLEAR: f64 = 1e-12;

/// A mistake: its name, the statistics that it has to show in, and how it is made.
type Wrong = (&'static str, &'static [&'static str], Change);

const WRONG_IN_BOTH: &[Wrong] = &[
    ("a port of bind(0)", &["source port: parity"], |syn, _| {
        syn.source.set_port(syn.source.port() | 1);
    }),
    ("any even port", &["source port: steps"], |syn, _| {
        syn.source.set_port(u16::try_from(32_768 + syn.sequence % 14_000 * 2).unwrap());
    }),
    ("ports below the kernel's", &["source port: range", "source port: steps"], |syn, _| {
        syn.source.set_port(u16::try_from(1024 + syn.sequence % 10_000 * 2).unwrap());
    }),
    ("window", &["window"], |syn, _| syn.window = 65_535),
    ("acknowledgement", &["acknowledgement"], |syn, _| syn.acknowledgement = 1),
    ("urgent pointer", &["urgent pointer"], |syn, _| syn.urgent = 1),
    ("ECN on a host without", &["reserved bits and flags"], |syn, _| syn.flags |= 0x0c0),
    ("a reserved bit", &["reserved bits and flags"], |syn, _| syn.flags |= 0x800),
    ("order of options", &["order of options"], |syn, _| syn.options.swap(1, 2)),
    ("MSS", &["MSS"], |syn, _| syn.options[0].value = 1448_u16.to_be_bytes().to_vec()),
    ("window scale", &["window scale"], |syn, _| syn.options[4].value = vec![7]),
    ("an echoed timestamp", &["timestamp echo"], |syn, _| {
        let (value, _) = syn.timestamps().unwrap();
        syn.set_timestamps(value, 1);
    }),
    ("no timestamps", &["data offset", "order of options", "timestamp echo"], |syn, _| {
        // As Linux without them: MSS, two NOPs, SACK permitted, NOP, window scale.
        let nop = TcpOption { kind: 1, value: Vec::new() };
        syn.options.retain(|option| option.kind != TIMESTAMPS);
        syn.options.splice(1..1, [nop.clone(), nop]);
    }),
    ("a bit that is always set", &["sequence: uniform bits"], |syn, _| syn.sequence |= 1 << 13),
    ("spread evenly", &["sequence: uniform steps"], |syn, number| {
        syn.sequence = number.wrapping_mul(0x9e37_79b9);
    }),
    ("each number twice", &["sequence: value twice"], |syn, number| {
        syn.sequence = (number / 2).wrapping_mul(0x9e37_79b9);
    }),
    ("time since the start", &["timestamp: uniform bytes"], |syn, _| {
        syn.set_timestamps(now() % 10_000_000, 0);
    }),
    ("one clock, real ones have many", &["timestamp: one clock for all"], |syn, _| {
        syn.set_timestamps(now(), 0);
    }),
];

const WRONG_IN_V4: &[Wrong] = &[
    ("TTL", &["TTL"], |syn, _| v4(syn, |_, _, _, ttl| *ttl -= 1)),
    ("TOS", &["TOS"], |syn, _| v4(syn, |tos, _, _, _| *tos = 0x10)),
    ("no DF", &["IP flags and fragment"], |syn, _| v4(syn, |_, _, fragment, _| *fragment = 0)),
    ("ID 0", &["ID: uniform bytes"], |syn, _| v4(syn, |_, id, _, _| *id = 0)),
    ("a counter as ID", &["ID: uniform steps"], |syn, number| {
        v4(syn, |_, id, _, _| *id = u16::try_from(number).unwrap());
    }),
];

const WRONG_IN_V6: &[Wrong] = &[
    ("hop limit", &["hop limit"], |syn, _| v6(syn, |_, _, hop_limit| *hop_limit -= 1)),
    ("traffic class", &["traffic class"], |syn, _| v6(syn, |class, _, _| *class = 0x10)),
    ("flow label 0", &["flow label: uniform bytes"], |syn, _| v6(syn, |_, flow, _| *flow = 0)),
    ("16 bits of flow label", &["flow label: uniform bytes"], |syn, _| {
        v6(syn, |_, flow, _| *flow &= 0xffff);
    }),
];

/// Milliseconds since 1970.
fn now() -> u32 {
    milliseconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap())
}

fn v4(syn: &mut Segment, change: impl FnOnce(&mut u8, &mut u16, &mut u16, &mut u8)) {
    let Ip::V4 { tos, id, fragment, ttl, .. } = &mut syn.ip else { panic!("{syn:?}") };
    change(tos, id, fragment, ttl);
}

fn v6(syn: &mut Segment, change: impl FnOnce(&mut u8, &mut u32, &mut u8)) {
    let Ip::V6 { class, flow_label, hop_limit, .. } = &mut syn.ip else { panic!("{syn:?}") };
    change(class, flow_label, hop_limit);
}

#[test]
fn a_knock_that_is_wrong_in_one_thing_is_told_by_that() {
    for (family, own) in FAMILIES.into_iter().zip([WRONG_IN_V4, WRONG_IN_V6]) {
        let (net, mut pattern) = net(family);
        let real = fresh_port();
        let wrong: Vec<_> =
            WRONG_IN_BOTH.iter().chain(own).map(|wrong| (fresh_port(), wrong)).collect();
        let mut rows = vec![(REAL, Act::Connect(real))];
        rows.extend(
            wrong.iter().map(|(port, (_, _, change))| (WRONG, Act::Imitate(*port, *change))),
        );
        let acts = mix(&mut pattern, &rows);
        let made = make(&net, &mut pattern, family, &acts, PAUSE, REFUSED);
        for (port, (what, tells, _)) in wrong {
            let report = compare(&by_port(&made.attempts, port, real).first_uses());
            assert_told(&format!("{family:?}, {what}"), &report, tells);
        }
    }
}

/// `tells` are told, and nothing but them, other statistics of the same fields, and lengths.
fn assert_told(what: &str, report: &Report, tells: &[&str]) {
    let told = report.telling(CLEAR);
    let field = |name: &str| name.split(':').next().unwrap_or_default().to_owned();
    let is_of =
        |name: &str| name.ends_with(" length") || tells.iter().any(|one| field(one) == field(name));
    assert!(
        tells.iter().all(|name| told.contains(name)) && told.iter().all(|name| is_of(name)),
        "{what}: {told:?}, not {tells:?}\n{report}"
    );
}

/// Real attempts from one port would lie on the clock of their 4-tuple, and no kernel takes a port again at once.
#[test]
fn one_source_port_for_all_knocks_is_told() {
    for family in FAMILIES {
        let (net, mut pattern) = net(family);
        let [knocks, real] = [fresh_port(), fresh_port()];
        let one_port: Change = |syn, _| syn.source.set_port(50_000);
        let rows = [(WRONG, Act::Imitate(knocks, one_port)), (WRONG, Act::Connect(real))];
        let acts = mix(&mut pattern, &rows);
        let made = make(&net, &mut pattern, family, &acts, PAUSE, REFUSED);
        let report = compare(&by_port(&made.attempts, knocks, real));
        let tells =
            ["source port: steps", "4-tuple: used too soon", "4-tuple: sequence on its clock"];
        assert_told(&format!("{family:?}"), &report, &tells);
    }
}

#[test]
fn the_classic_layouts_knocks_are_told() {
    for family in FAMILIES {
        let (net, mut pattern) = net(family);
        let [knocks, real] = [fresh_port(), fresh_port()];
        let program = KnockProgram::classic(&net, family, knocks);
        let rows = [(50, Act::Knock(knocks, &program)), (50, Act::Connect(real))];
        let acts = mix(&mut pattern, &rows);
        let made = make(&net, &mut pattern, family, &acts, PAUSE, REFUSED);
        let report = compare(&by_port(&made.attempts, knocks, real));
        eprintln!("{report}");
        let told = report.telling(CLEAR);
        for name in ["data offset", "acknowledgement", "window", "order of options", "MSS"] {
            assert!(told.contains(&name), "{name} is not among {told:?}");
        }
    }
}
