//! The fields of which a host has one value, or a few: each is compared as it stands.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use super::attempt::Attempt;
use super::chance::same_counts;
use super::report::{Finding, Verdict};
use super::segment::{Ip, MSS, Segment, TIMESTAMPS, TcpOption, WINDOW_SCALE};
use super::sides::Sides;

/// One finding for each field and option.
pub(super) fn findings(sides: &Sides<'_>) -> Vec<Finding> {
    let of = |field: &'static str| {
        compare(field, sides, |attempt| {
            let all = fields(&attempt.syn);
            all.into_iter().find(|(name, _)| *name == field).map_or_else(absent, |(_, value)| value)
        })
    };
    let names = sides.real.first().map(|attempt| fields(&attempt.syn)).unwrap_or_default();
    names.into_iter().map(|(name, _)| of(name)).collect()
}

/// Compares what each attempt has one of. A value that no real attempt has is told from them whatever its share.
pub(super) fn compare(
    name: &str,
    sides: &Sides<'_>,
    value: impl Fn(&Attempt) -> String,
) -> Finding {
    let mut counts: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for (side, attempts) in [&sides.knocks, &sides.real].into_iter().enumerate() {
        for attempt in attempts {
            counts.entry(value(attempt)).or_default()[side] += 1;
        }
    }
    let is_strange = counts.values().any(|[knocks, real]| *knocks > 0 && *real == 0);
    let row = |side: usize| counts.values().map(|count| count[side]).collect::<Vec<_>>();
    let verdict =
        if is_strange { Verdict::Differs } else { Verdict::Chance(same_counts(&row(0), &row(1))) };
    let detail = match counts.keys().next() {
        Some(value) if counts.len() == 1 => format!("{value}, all"),
        _ => format!("knocks: {}; real: {}", Most(&counts, 0), Most(&counts, 1)),
    };
    Finding { name: name.to_owned(), verdict, detail }
}

/// The most frequent values of one side.
struct Most<'a>(&'a BTreeMap<String, [usize; 2]>, usize);

impl Display for Most<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 3;
        let Self(counts, side) = *self;
        let mut values: Vec<_> = counts.iter().filter(|(_, count)| count[side] > 0).collect();
        values.sort_by_key(|(_, count)| std::cmp::Reverse(count[side]));
        let shown: Vec<String> = values
            .iter()
            .take(SHOWN)
            .map(|(value, count)| format!("{value} ({})", count[side]))
            .collect();
        f.write_str(&shown.join(", "))?;
        match values.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

fn absent() -> String {
    "absent".to_owned()
}

fn right(is_right: bool) -> String {
    if is_right { "right" } else { "wrong" }.to_owned()
}

/// Every field of a SYN but addresses, ports and those that are a new number each time.
fn fields(syn: &Segment) -> Vec<(&'static str, String)> {
    let mut fields = ip_fields(&syn.ip);
    let timestamps = syn.timestamps();
    fields.extend([
        ("data offset", syn.data_offset.to_string()),
        ("reserved bits and flags", format!("{:#05x}", syn.flags)),
        ("acknowledgement", syn.acknowledgement.to_string()),
        ("window", syn.window.to_string()),
        ("TCP checksum", right(syn.has_right_checksum)),
        ("urgent pointer", syn.urgent.to_string()),
        ("order of options", order(&syn.options)),
        ("MSS", syn.option(MSS).map_or_else(absent, hex)),
        ("window scale", syn.option(WINDOW_SCALE).map_or_else(absent, hex)),
        ("timestamp echo", timestamps.map_or_else(absent, |(_, echo)| echo.to_string())),
        ("other options", others(&syn.options)),
    ]);
    fields
}

fn ip_fields(ip: &Ip) -> Vec<(&'static str, String)> {
    match ip {
        Ip::V4 { header_length, tos, total_length, fragment, ttl, has_right_checksum, id: _ } => {
            vec![
                ("header length", header_length.to_string()),
                ("TOS", format!("{tos:#04x}")),
                ("total length", total_length.to_string()),
                ("IP flags and fragment", format!("{fragment:#06x}")),
                ("TTL", ttl.to_string()),
                ("IP checksum", right(*has_right_checksum)),
            ]
        }
        Ip::V6 { class, payload_length, hop_limit, flow_label: _ } => vec![
            ("traffic class", format!("{class:#04x}")),
            ("payload length", payload_length.to_string()),
            ("hop limit", hop_limit.to_string()),
        ],
    }
}

/// The kinds of all options, as they stand.
fn order(options: &[TcpOption]) -> String {
    let kinds: Vec<String> = options.iter().map(|option| option.kind.to_string()).collect();
    if kinds.is_empty() { absent() } else { kinds.join(" ") }
}

/// The values of options that are none of the above.
fn others(options: &[TcpOption]) -> String {
    let is_other = |option: &&TcpOption| {
        !matches!(option.kind, MSS | WINDOW_SCALE | TIMESTAMPS) && !option.value.is_empty()
    };
    let all: Vec<String> = options
        .iter()
        .filter(is_other)
        .map(|TcpOption { kind, value }| format!("{kind}: {}", hex(value)))
        .collect();
    if all.is_empty() { absent() } else { all.join(", ") }
}

fn hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.concat()
}
