//! What a log line costs: one that is not for us, one that is, and the decision whether a knock is valid.
//! `cargo bench --bench parser`; needs no root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark that cannot go on stops, and printing is what it is for"
)]

mod support;

use std::hint::black_box;

use knockknock::daemon::kernel_log_line::{Framing, parse};
use knockknock::daemon::log_source::port_filter::{PortSet, wanted_lines};
use knockknock::layout::Request;
use knockknock::layout::classic::{Keys, open, seal};
use knockknock::layout::receiver::FAR;
use support::lines::{junk, knock_line};
use support::measure::{Samples, Table, rate, seconds, time};

const ROUNDS: usize = 15;
const LINES: usize = 100_000;
const KNOCKS: usize = 20_000;
const FAR_LOOKS: usize = 10;
/// As much as the daemon reads at once.
const PIECE: usize = 64 * 1024;
const PREFIX: &str = "REJECT ";

fn main() {
    the_log();
    the_knock();
}

/// Lines through the search that each line passes, and through the parser that only lines for a knock port reach.
fn the_log() {
    let elsewhere = |ports: u16| {
        let set: PortSet = (0..ports).map(|nth| 20_000 + nth).collect();
        (format!("other ports, {ports} profiles"), set)
    };
    let mut cases: Vec<(String, PortSet, Vec<u8>)> = [1, 10, 10_000]
        .map(elsewhere)
        .map(|(name, set)| {
            (
                name,
                set,
                junk(LINES, PREFIX, |random| 1 + u16::try_from(random.below(19_999)).unwrap()),
            )
        })
        .into();
    let knock_port: PortSet = [666].into_iter().collect();
    cases.push(("the knock port, parsed".into(), knock_port, junk(LINES, PREFIX, |_| 666)));

    let mut times = vec![Samples::default(); cases.len()];
    for _ in 0..ROUNDS {
        for ((_, set, log), times) in cases.iter().zip(&mut times) {
            let (taken, parsed) = time(|| read(log, set));
            assert!(parsed == 0 || parsed == LINES, "{parsed}");
            times.add_time(taken);
        }
    }
    let mut table = Table::new(["junk lines for", "time a line", "lines", "bytes"]);
    for ((name, _, log), times) in cases.iter().zip(&times) {
        table.row([
            name.clone(),
            times.show(|total| seconds(total / LINES as f64)),
            rate(LINES as f64 / times.median(), " lines"),
            rate(log.len() as f64 / times.median(), "B"),
        ]);
    }
    table.print(&format!("Log lines, in memory ({ROUNDS} rounds of {LINES})"));
}

/// What the daemon does with what it has read, up to the door. How many lines were SYNs on a knock port.
fn read(log: &[u8], wanted: &PortSet) -> usize {
    let (mut rest, mut parsed) = (log, 0);
    while !rest.is_empty() {
        let piece = &rest[..rest.len().min(PIECE)];
        let end = memchr::memrchr(b'\n', piece).expect("a line is shorter than a piece") + 1;
        for line in wanted_lines(&rest[..end], wanted) {
            let syn = parse(line.trim_ascii_end(), Framing::Syslog, PREFIX.as_bytes());
            parsed += usize::from(black_box(syn).is_ok());
        }
        rest = &rest[end..];
    }
    parsed
}

/// The classic layout, at the server.
fn the_knock() {
    const WINDOW: u32 = 20;
    let keys = Keys::new([7; 16], [9; 16]);
    let mut prepared = keys.clone();
    let (preparing, ()) = time(|| prepared.prepare());
    let good = |ahead: u32| seal(&keys, Request(22), 1000 + ahead).expect("an ID that is not 0");
    let other = Keys::new([1; 16], [2; 16]);
    let junk = seal(&other, Request(22), 5).expect("as above");
    let cases = [
        ("a knock that is next", &keys, good(0), true),
        ("a knock 19 counters ahead", &keys, good(19), true),
        ("the first junk: 20 counters tried", &keys, junk, false),
        ("more junk: 20 counters tried", &prepared, junk, false),
    ];
    let mut times = vec![Samples::default(); cases.len() + 2];
    let line = knock_line(PREFIX, [192, 0, 2, 7].into(), 666, &cases[0].2);
    for _ in 0..ROUNDS {
        for ((_, keys, fields, opens), times) in cases.iter().zip(&mut times) {
            let (taken, found) = time(|| {
                let tries = (0..KNOCKS).map(|_| open(black_box(keys), 1000, WINDOW, fields));
                tries.flatten().count()
            });
            assert_eq!(found, if *opens { KNOCKS } else { 0 });
            times.add_time(taken);
        }
        let (taken, parsed) = time(|| {
            let line = line.trim_end().as_bytes();
            let parse =
                |_: &usize| parse(black_box(line), Framing::Syslog, PREFIX.as_bytes()).is_ok();
            (0..KNOCKS).filter(parse).count()
        });
        assert_eq!(parsed, KNOCKS);
        times[cases.len()].add_time(taken);
        let (taken, found) = time(|| {
            let looks =
                |_: &usize| open(black_box(&prepared), 1000 + WINDOW, FAR - WINDOW, &junk).is_ok();
            (0..FAR_LOOKS).filter(looks).count()
        });
        assert_eq!(found, 0);
        times[cases.len() + 1].add_time(taken * u32::try_from(KNOCKS / FAR_LOOKS).unwrap());
    }
    let mut table = Table::new(["one SYN on a knock port", "time", "a second"]);
    let names = cases
        .iter()
        .map(|(name, ..)| *name)
        .chain(["its line parsed", "junk: 4,096 counters tried (metered)"]);
    for (name, times) in names.zip(&times) {
        table.row([
            name.into(),
            times.show(|total| seconds(total / KNOCKS as f64)),
            rate(KNOCKS as f64 / times.median(), ""),
        ]);
    }
    table.row([
        "cheap looks prepared, once".into(),
        seconds(preparing.as_secs_f64()),
        String::new(),
    ]);
    table.print(&format!("The classic layout ({ROUNDS} rounds of {KNOCKS}, window {WINDOW})"));
}
