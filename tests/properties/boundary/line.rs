//! One line of a log. Any local user may have written it.

use std::net::IpAddr;

use knockknock::daemon::kernel_log_line::header::kmsg_sequence;
use knockknock::daemon::kernel_log_line::{Framing, parse};
use knockknock::syn::{LoggedSyn, SynFields};

pub(crate) const PREFIX: &[u8] = b"REJECT ";

const FRAMINGS: [Framing; 3] = [Framing::Syslog, Framing::Kmsg, Framing::Journal];

/// What each framing puts before the log prefix.
const HEADS: [(Framing, &str); 15] = [
    (Framing::Syslog, "Nov 20 09:39:15 host kernel: [  923.993648] "),
    (Framing::Syslog, "Nov  2 09:39:15 host kernel: "),
    (Framing::Syslog, "2026-11-20T09:39:15.430921+00:00 host kernel: [  923.993648][    T1] "),
    (Framing::Syslog, "Nov 20 09:39:15 host kernel:[  923.993648] "),
    (Framing::Syslog, "Nov 20 09:39:15 host kernel[0]: "),
    (Framing::Syslog, "Nov 20 09:39:15 host kern.debug kernel: [  923.993648] "),
    (Framing::Syslog, "Nov 20 09:39:15 [kernel] "),
    (Framing::Syslog, "Nov 20 09:39:15 host [kernel] [  923.993648] "),
    (Framing::Syslog, "Thu Nov 20 09:39:15 2026 kern.warn kernel: [  923.993648] "),
    (Framing::Syslog, "<7>Nov 20 09:39:15 host kernel: "),
    (Framing::Syslog, "<7>1 2026-11-20T09:39:15.430921+00:00 host kernel - - - \u{feff}"),
    (
        Framing::Syslog,
        "2026-11-20T09:39:15.430921+00:00 host kernel - - [x@1 y=\"\\\"]\"]  [  923.993648] ",
    ),
    (Framing::Syslog, "2026-11-20T09:39:15+00:00 host kern.debug kernel: "),
    (Framing::Kmsg, "4,900,923993648,-;"),
    (Framing::Journal, "MESSAGE="),
];

/// The bytes as a line, in every framing; and as a name in one.
pub(crate) fn holds(line: &[u8]) -> bool {
    no_name_stands_for_a_field(line);
    let mut taken = 0;
    for framing in FRAMINGS {
        let Ok(syn) = parse(line, framing, PREFIX) else { continue };
        taken += 1;
        stands_in_the_outer_part(line, framing, &syn);
        is_read_again_when_printed_again(&syn);
        a_cut_line_tells_of_no_other_syn(line, framing, &syn);
        assert!(framing != Framing::Kmsg || kmsg_sequence(line).is_some());
    }
    assert!(taken <= 1, "the framings are told apart");
    taken > 0
}

/// The line taken apart with no regard for order: what was returned stands there, once, in words of the packet that
/// was refused.
fn stands_in_the_outer_part(line: &[u8], framing: Framing, syn: &LoggedSyn<'_>) {
    let message = match framing {
        Framing::Syslog => after_the_tag(line),
        Framing::Kmsg => after(line, b";").split(|byte| *byte == b'\n').next().unwrap(),
        Framing::Journal => after(line, b"MESSAGE="),
    };
    let packet = message.strip_prefix(PREFIX).expect("the log prefix begins the message");
    let mut words = packet.split(|byte| *byte == b' ').peekable();
    // Interfaces may be called anything, so these words are left out by where they stand.
    assert!(words.next().unwrap().starts_with(b"IN="));
    assert!(words.next().unwrap().starts_with(b"OUT="));
    words.next_if(|word| word.starts_with(b"PHYSIN="));
    words.next_if(|word| word.starts_with(b"PHYSOUT="));
    let words: Vec<&[u8]> = words.collect();
    for word in &words {
        assert!(word.iter().all(u8::is_ascii_graphic), "{:?}", word.escape_ascii().to_string());
        assert!(!word.contains(&b'['), "a quoted packet");
    }

    let only = |key: &str, value: &str| {
        let with_key: Vec<_> =
            words.iter().filter(|word| word.starts_with(key.as_bytes())).collect();
        assert_eq!(with_key, [&format!("{key}{value}").as_bytes()], "{key}");
    };
    only("SRC=", &kernel_address(syn.source));
    only("DST=", &kernel_address(syn.destination));
    only("PROTO=", "TCP");
    only("SPT=", &syn.source_port.to_string());
    only("DPT=", &syn.destination_port.to_string());
    only("SEQ=", &syn.fields.seq.to_string());
    only("ACK=", &syn.fields.ack.to_string());
    only("WINDOW=", &syn.fields.window.to_string());
    only("RES=", if words.contains(&&b"RES=0x04"[..]) { "0x04" } else { "0x00" });
    if syn.source.is_ipv4() {
        only("ID=", &syn.fields.id.to_string());
    } else {
        let label = words.iter().find_map(|word| word.strip_prefix(b"FLOWLBL=")).unwrap();
        let label: u32 = str::from_utf8(label).unwrap().parse().unwrap();
        assert!(label < 1 << 20);
        only("FLOWLBL=", &label.to_string());
        assert_eq!(label & 0xffff, u32::from(syn.fields.id));
    }

    let is_flag = |word: &&[u8]| {
        let flags = [&b"AE"[..], b"CWR", b"ECE", b"URG", b"ACK", b"PSH", b"RST", b"SYN", b"FIN"];
        flags.contains(word)
    };
    let flags: Vec<_> = words.iter().copied().filter(is_flag).collect();
    let has_reserved_ae = words.contains(&&b"RES=0x04"[..]);
    match (flags.strip_prefix(&[&b"AE"[..]]), syn.asks_for_ecn) {
        (None, false) => assert!(flags == [b"SYN"] && !has_reserved_ae),
        (None, true) => assert_eq!(flags, [b"CWR", b"ECE", b"SYN"]),
        (Some(others), _) => {
            assert!(syn.asks_for_ecn && others == [b"CWR", b"ECE", b"SYN"] && !has_reserved_ae);
        }
    }
    let urgent = words.iter().position(|word| word.starts_with(b"URGP=")).unwrap();
    let options = match words.get(urgent + 1..urgent + 3) {
        Some([b"OPT", digits]) => digits.strip_prefix(b"(").unwrap().strip_suffix(b")").unwrap(),
        _ => b"",
    };
    assert_eq!(syn.options_hex, options);
    assert!(options.len() <= 80 && options.len().is_multiple_of(2));
    let place = line.as_ptr_range();
    assert!(options.is_empty() || place.contains(&syn.options_hex.as_ptr()), "lent from the line");
    assert_eq!(syn.timestamp(), timestamp(options));
}

/// The first value of the first timestamps option, by taking the options apart one after the other.
fn timestamp(hex: &[u8]) -> Option<u32> {
    let digits = str::from_utf8(hex).unwrap();
    let bytes: Vec<u8> = (0..digits.len() / 2)
        .map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    let mut rest = &bytes[..];
    loop {
        rest = match rest {
            [1, rest @ ..] => rest,
            [8, 10, a, b, c, d, _, _, _, _, ..] => {
                return Some(u32::from_be_bytes([*a, *b, *c, *d]));
            }
            [0 | 8, ..] | [] | [_] | [_, 0 | 1, ..] => return None,
            [_, len, ..] => rest.get(usize::from(*len)..)?,
        }
    }
}

/// The tag where it first stands; then the rest of an RFC 5424 header, which has no packet's field in it; then a time.
fn after_the_tag(line: &[u8]) -> &[u8] {
    let tags = [&b" kernel: "[..], b" kernel:[", b" kernel[0]: ", b" [kernel] ", b" kernel "];
    let place = |tag: &&[u8]| line.windows(tag.len()).position(|window| window == *tag);
    let (at, tag) = tags.iter().filter_map(|tag| Some((place(tag)?, tag))).min().unwrap();
    let message = match *tag {
        b" kernel:[" => &line[at + b" kernel:".len()..],
        b" kernel " => {
            let packet = line.windows(10).position(|window| window == b"REJECT IN=").unwrap();
            let head = line[at..packet].windows(2).rposition(|window| window == b"] ");
            let head = head.filter(|_| line[at..packet].contains(&b'['));
            &line[head.map_or(packet, |end| at + end + 2)..]
        }
        tag => &line[at + tag.len()..],
    };
    if message.starts_with(b"[") { after(message, b"] ") } else { message }
}

fn after<'l>(text: &'l [u8], mark: &[u8]) -> &'l [u8] {
    let at = text.windows(mark.len()).position(|window| window == mark);
    &text[at.expect("what every line of the framing has") + mark.len()..]
}

fn is_read_again_when_printed_again(syn: &LoggedSyn<'_>) {
    for (framing, head) in HEADS {
        for packet in [printed(syn, "eth0"), printed(syn, "eth0").trim_end().to_owned()] {
            let line = format!("{head}REJECT {packet}");
            assert_eq!(parse(line.as_bytes(), framing, PREFIX).as_ref(), Ok(syn), "{line:?}");
        }
    }
}

/// Each field but the options is followed by something that a cut would take too. One cut a case is enough.
fn a_cut_line_tells_of_no_other_syn(line: &[u8], framing: Framing, syn: &LoggedSyn<'_>) {
    let length = usize::try_from(syn.fields.seq).unwrap() % line.len();
    if let Ok(cut) = parse(&line[..length], framing, PREFIX) {
        assert_eq!(LoggedSyn { options_hex: syn.options_hex, ..cut }, *syn);
    }
}

/// A host or an interface may be called anything that has no blank in it.
fn no_name_stands_for_a_field(name: &[u8]) {
    if name.is_empty() || name.iter().any(|byte| b" \n".contains(byte)) {
        return;
    }
    let packet = printed(&SYN, "\u{1}");
    let (before, behind) = packet.split_once('\u{1}').unwrap();
    let named = |parts: [&[u8]; 3]| {
        assert_eq!(parse(&parts.concat(), Framing::Syslog, PREFIX), Ok(SYN));
    };
    let head = format!("Nov 20 09:39:15 host kernel: REJECT {before}");
    named([head.as_bytes(), name, behind.as_bytes()]);
    let tail = format!(" kernel: REJECT {packet}");
    let hosted = [b"Nov 20 09:39:15 ", name, tail.as_bytes()];
    if name.starts_with(b"[") || name.ends_with(b":") {
        // No host, but a program: this is what it said.
        assert!(parse(&hosted.concat(), Framing::Syslog, PREFIX).is_err());
    } else {
        named(hosted);
    }
}

const SYN: LoggedSyn<'_> = LoggedSyn {
    source: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)),
    destination: IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1)),
    source_port: 2743,
    destination_port: 666,
    fields: SynFields { id: 4660, seq: 305_419_896, ack: 2_271_560_481, window: 4321 },
    asks_for_ecn: true,
    options_hex: b"020405B4",
};

/// The packet in the kernel's words (`net/netfilter/nf_log_syslog.c`).
fn printed(syn: &LoggedSyn<'_>, interface: &str) -> String {
    let LoggedSyn { source, destination, source_port, destination_port, fields, .. } = syn;
    let LoggedSyn { asks_for_ecn, options_hex, .. } = syn;
    let flags = if *asks_for_ecn { "CWR ECE SYN" } else { "SYN" };
    let SynFields { id, seq, ack, window } = fields;
    let (source, destination) = (kernel_address(*source), kernel_address(*destination));
    let header = if syn.source.is_ipv4() {
        format!("LEN=40 TOS=0x00 PREC=0x00 TTL=64 ID={id} DF")
    } else {
        format!("LEN=60 TC=0 HOPLIMIT=64 FLOWLBL={}", 0xf_0000 | u32::from(*id))
    };
    let options = match str::from_utf8(options_hex).unwrap() {
        "" => String::new(),
        digits => format!("OPT ({digits}) "),
    };
    format!(
        "IN={interface} OUT= MAC=0a:f8:61:10:6d:fe:ee:15:10:56:d4:d7:08:00 SRC={source} DST={destination} {header} \
         PROTO=TCP SPT={source_port} DPT={destination_port} SEQ={seq} ACK={ack} WINDOW={window} RES=0x00 {flags} URGP=0 \
         {options}"
    )
}

/// IPv6 addresses come out of the kernel with every zero.
fn kernel_address(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => address.segments().map(|group| format!("{group:04x}")).join(":"),
    }
}
