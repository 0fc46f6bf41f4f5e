//! Lines that Linux printed for real packets, in each framing, against a table made by other means
//! (`tests/vectors/kernel-log-expected.py`); and lines that somebody would like to pass for them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::similar_names,
    reason = "clippy does not see that a harness for tests is a test: what cannot go on stops"
)]

use std::collections::BTreeSet;

use knockknock::daemon::kernel_log_line::header::kmsg_sequence;
use knockknock::daemon::kernel_log_line::not_a_syn::NotASyn;
use knockknock::daemon::kernel_log_line::{Framing, parse};
use knockknock::syn::LoggedSyn;

const TRADITIONAL: &str = include_str!("vectors/kernel-log/rsyslog-traditional.log");
const ISO: &str = include_str!("vectors/kernel-log/rsyslog-iso.log");
const KMSG: &str = include_str!("vectors/kernel-log/kmsg.txt");
const EXPECTED: &str = include_str!("vectors/kernel-log/expected.txt");

const PREFIX: &[u8] = b"REJECT ";

/// A knock as the original would have sent it, in the kernel's words.
const PACKET: &str = "IN=eth0 OUT= MAC=0a:f8:61:10:6d:fe:ee:15:10:56:d4:d7:08:00 SRC=192.0.2.7 DST=198.51.100.1 LEN=40 \
                      TOS=0x00 PREC=0x00 TTL=64 ID=4660 PROTO=TCP SPT=2743 DPT=666 SEQ=305419896 ACK=2271560481 \
                      WINDOW=4321 RES=0x00 SYN URGP=0 ";

const PACKET6: &str = "IN=eth0 OUT= MAC= SRC=2001:0db8:0000:0000:0000:0000:0000:0007 \
                       DST=2001:0db8:0000:0000:0000:0000:0000:0001 LEN=60 TC=0 HOPLIMIT=64 FLOWLBL=1048575 PROTO=TCP \
                       SPT=2743 DPT=666 SEQ=1 ACK=0 WINDOW=4321 RES=0x00 SYN URGP=0 ";

fn journal(message: &str) -> String {
    format!("MESSAGE={message}")
}

fn syslog(line: &str) -> Result<LoggedSyn<'_>, NotASyn> {
    parse(line.as_bytes(), Framing::Syslog, PREFIX)
}

/// The packet line, after the log prefix, with nothing before it.
fn packet(text: &str) -> Result<(), NotASyn> {
    let line = format!("7,1,2,-;REJECT {text}");
    parse(line.as_bytes(), Framing::Kmsg, PREFIX).map(|_| ())
}

/// One row of the table. Addresses are written as the kernel wrote them, so they are put back into that form.
fn row(syn: &LoggedSyn<'_>) -> String {
    let address = |address: std::net::IpAddr| match address {
        std::net::IpAddr::V4(address) => address.to_string(),
        std::net::IpAddr::V6(address) => {
            address.segments().map(|group| format!("{group:04x}")).join(":")
        }
    };
    let options = if syn.options_hex.is_empty() { b"none" } else { syn.options_hex };
    format!(
        "{} {} {} {} {} {} {} {} {}{}",
        address(syn.source),
        address(syn.destination),
        syn.source_port,
        syn.destination_port,
        syn.fields.id,
        syn.fields.seq,
        syn.fields.ack,
        syn.fields.window,
        str::from_utf8(options).unwrap(),
        if syn.asks_for_ecn { " ecn" } else { "" }
    )
}

fn table(lines: impl Iterator<Item: AsRef<str>>, framing: Framing) -> Vec<String> {
    let read = |line: &str| match parse(line.as_bytes(), framing, PREFIX) {
        Ok(syn) => row(&syn),
        Err(_) => "-".to_owned(),
    };
    lines.map(|line| read(line.as_ref())).collect()
}

#[test]
fn the_kernels_lines_are_read_as_expected_in_each_framing() {
    let expected: Vec<&str> = EXPECTED.lines().collect();
    assert_eq!(expected.len(), 69);
    assert_eq!(table(TRADITIONAL.lines(), Framing::Syslog), expected);
    assert_eq!(table(ISO.lines(), Framing::Syslog), expected);
    assert_eq!(table(KMSG.lines(), Framing::Kmsg), expected);
    let exported: Vec<String> = KMSG
        .lines()
        .filter_map(|line| line.split_once(';'))
        .map(|(_, text)| journal(text))
        .collect();
    assert_eq!(table(exported.iter(), Framing::Journal), expected);
}

#[test]
fn each_line_that_is_no_syn_says_why() {
    let reason = |record: &str| parse(record.as_bytes(), Framing::Kmsg, PREFIX).err();
    for record in KMSG.lines() {
        let expected = match record {
            _ if record.contains("PROTO=TCP INCOMPLETE [0 bytes]") => Some(NotASyn::Incomplete),
            _ if record.contains("PROTO=UDP") || record.contains("PROTO=ICMP") => {
                Some(NotASyn::NotTcp)
            }
            _ if record.contains("RES=0x00 SYN URGP") => None,
            _ if record.contains("RES=0x00 CWR ECE SYN URGP") => None,
            _ => Some(NotASyn::OtherFlags),
        };
        assert_eq!(reason(record), expected, "{record}");
    }
}

#[test]
fn a_quoted_packet_is_never_read() {
    let quoting: Vec<&str> = KMSG.lines().filter(|record| record.contains("[SRC=")).collect();
    assert_eq!(quoting.len(), 6);
    for record in quoting {
        assert_eq!(
            parse(record.as_bytes(), Framing::Kmsg, PREFIX),
            Err(NotASyn::NotTcp),
            "{record}"
        );
    }
    let tail = format!("{PACKET}[SRC=10.0.0.1 DST=10.0.0.2 ] ");
    assert_eq!(packet(&tail), Err(NotASyn::Malformed("the end of the line")));
}

#[test]
fn only_a_message_of_the_kernel_is_read() {
    let good = format!("Nov 20 09:39:15 host kernel: [  923.993648] REJECT {PACKET}");
    assert!(syslog(&good).is_ok());
    for (line, reason) in [
        // What a program says that anybody may run.
        ("Nov 20 09:39:15 host user: kernel: REJECT ", NotASyn::NotKernel),
        ("Nov 20 09:39:15 host kernel[12]: REJECT ", NotASyn::NotKernel),
        ("Nov 20 09:39:15 host su: [  923.993648] REJECT ", NotASyn::NotKernel),
        ("Nov 20 09:39:15 host  kernel: REJECT ", NotASyn::NotKernel),
        ("Nov 20 09:39:15 kernel: [  923.993648] REJECT ", NotASyn::NotKernel),
        ("Nov 20 09:39:15 host xkernel: REJECT ", NotASyn::NotKernel),
        ("2026-11-20T09:39:15Z host su - - - REJECT ", NotASyn::NotKernel),
        ("Thu Nov 20 09:39:15 2026 kern.debug su: REJECT ", NotASyn::NotKernel),
        ("<7>1 2026-11-20T09:39:15Z host kernel -  - REJECT ", NotASyn::NotKernel),
        ("<7>1 2026-11-20T09:39:15Z host kernel - - [a[b] REJECT ", NotASyn::NotKernel),
        // What the kernel says, but not about a packet.
        ("Nov 20 09:39:15 host kernel: process said REJECT ", NotASyn::OtherPrefix),
        ("Nov 20 09:39:15 host kernel: kernel: REJECT ", NotASyn::OtherPrefix),
        ("Nov 20 09:39:15 host kernel: [ 1.000000] [ 1.000000] REJECT ", NotASyn::OtherPrefix),
        ("Nov 20 09:39:15 host kernel: [x] REJECT ", NotASyn::OtherPrefix),
        ("Nov 20 09:39:15 host kernel: [5 REJECT ", NotASyn::OtherPrefix),
        ("Nov 20 09:39:15 host kernel: [.000000] REJECT ", NotASyn::OtherPrefix),
        ("Nov 20 09:39:15 host kernel: [ 1.000000][ 1] REJECT ", NotASyn::OtherPrefix),
        ("Nov 20 09:39:15 host kernel: [ 1.000000][ T] REJECT ", NotASyn::OtherPrefix),
        ("Nov 20 09:39:15 host kernel: REJECT  ", NotASyn::Malformed("IN=")),
        ("Nov 20 09:39:15 host kernel: REJECT REJECT ", NotASyn::Malformed("IN=")),
        // No line of this log.
        ("", NotASyn::Framing),
        (" Nov 20 09:39:15 host kernel: REJECT ", NotASyn::Framing),
        ("Nov 20 9:39:15 host kernel: REJECT ", NotASyn::Framing),
        ("Nov 2 09:39:15 host kernel: REJECT ", NotASyn::Framing),
        ("Foo 20 09:39:15 host kernel: REJECT ", NotASyn::Framing),
        ("ov F20 09:39:15 host kernel: REJECT ", NotASyn::Framing),
        ("2026-11-20T09:39:15. host kernel: REJECT ", NotASyn::Framing),
        ("2026-11-20T09:39:15.Z host kernel: REJECT ", NotASyn::Framing),
        ("2026-11-20 09:39:15 host kernel: REJECT ", NotASyn::Framing),
        ("7,900,923993648,-;REJECT ", NotASyn::Framing),
    ] {
        assert_eq!(syslog(&format!("{line}{PACKET}")), Err(reason), "{line}");
    }
}

#[test]
fn both_time_formats_of_rsyslog_are_read_with_and_without_the_time_since_boot() {
    for line in [
        "Nov 20 09:39:15 host kernel: ",
        "Nov  2 09:39:15 host kernel: ",
        "Nov 02 09:39:15 host kernel: [12345678.000001] ",
        "2026-11-20T09:39:15+00:00 host kernel: ",
        "2026-11-20T09:39:15.4-03:30 host.example.org kernel: [  923.993648] ",
        "2026-11-20T09:39:15.430921Z host kernel: [    0.000000] ",
        "2026-11-20T09:39:15.430921Z host kernel: [    0.000000][    T1] ",
        "2026-11-20T09:39:15.430921Z host kernel: [    0.000000][   C12] ",
    ] {
        assert!(syslog(&format!("{line}REJECT {PACKET}")).is_ok(), "{line}");
    }
}

#[test]
fn the_lines_of_other_loggers_are_read() {
    for line in [
        // busybox syslogd
        "Nov 20 09:39:15 host kern.debug kernel: ",
        "Jan  1 00:00:00 host kern.warn kernel: [  923.993648] ",
        // a tag with the process id that the kernel has, and one that no blank follows
        "Nov 20 09:39:15 host kernel[0]: ",
        "Nov 20 09:39:15 host kernel:[  923.993648] ",
        "2026-11-20T09:39:15.430921Z host kernel:[    0.000000][    T1] ",
        // metalog
        "Nov 20 09:39:15 [kernel] ",
        "Nov 20 09:39:15 host [kernel] ",
        "Nov  2 09:39:15 [kernel] [  923.993648] ",
        // OpenWrt's logread
        "Thu Nov 20 09:39:15 2026 kern.debug kernel: [  923.993648] ",
        "Mon Nov  2 09:39:15 2026 kern.notice kernel: ",
        // RFC 5424
        "<7>1 2026-11-20T09:39:15.430921+00:00 host kernel - - - ",
        "<7>1 2026-11-20T09:39:15.430921Z host kernel - - - \u{feff}",
        "<4>1 2026-11-20T09:39:15Z host kernel 0 nf [meta seq=\"1\"][x y=\"a \\\" \\] ] [b\"] [  923.993648] ",
        "<4>1 2026-11-20T09:39:15Z host kernel 0 nf [x\\] ",
        "2026-11-20T09:39:15.430921+00:00 host kernel - - - [  923.993648] ",
        "2026-11-20T09:39:15.430921+00:00 host kernel - - -  [  923.993648] ",
        // syslog-ng: its default, and ts-format(iso)
        "Nov 20 09:39:15 host kernel: [  923.993648] ",
        "2026-11-20T09:39:15+00:00 host kernel: [  923.993648] ",
        // as it goes over the wire
        "<7>Nov 20 09:39:15 host kernel: ",
        "<7>2026-11-20T09:39:15+00:00 host kernel: ",
    ] {
        let line = format!("{line}REJECT {PACKET}");
        let syn = syslog(&line).unwrap_or_else(|why| panic!("{line}: {why}"));
        assert_eq!(
            row(&syn),
            "192.0.2.7 198.51.100.1 2743 666 4660 305419896 2271560481 4321 none"
        );
        // Cut short, it is none.
        assert!(syslog(&line[..line.len() - 20]).is_err());
    }
}

#[test]
fn what_a_program_says_is_not_the_kernels_in_any_logger_s_lines() {
    for line in [
        // busybox syslogd, with and without its host
        "Nov 20 09:39:15 host user.notice su: kernel: ",
        "Nov 20 09:39:15 host user.notice kernel: ",
        "Nov 20 09:39:15 host user.notice kern.debug kernel: ",
        "Nov 20 09:39:15 host kern.debug su: kernel: ",
        "Nov 20 09:39:15 host kern.other kernel: ",
        "Nov 20 09:39:15 host kern.debug kern.debug kernel: ",
        "Nov 20 09:39:15 su: kernel: ",
        "Nov 20 09:39:15 su[12]: kern.debug kernel: ",
        "Nov 20 09:39:15 kernel: kernel: ",
        // tags
        "Nov 20 09:39:15 host kernel[1]: ",
        "Nov 20 09:39:15 host kernel[00]: ",
        "Nov 20 09:39:15 host kernel:",
        "Nov 20 09:39:15 host kernel:[x] ",
        "Nov 20 09:39:15 host kernel:  [kernel] ",
        // metalog
        "Nov 20 09:39:15 [su] kernel: ",
        "Nov 20 09:39:15 [su] [kernel] ",
        "Nov 20 09:39:15 [su] kern.debug kernel: ",
        "Nov 20 09:39:15 [kernel] kernel: ",
        "Nov 20 09:39:15 host [su] [kernel] ",
        "Nov 20 09:39:15 host [kernel ] ",
        "2026-11-20T09:39:15Z [kernel] ",
        // OpenWrt's logread
        "Thu Nov 20 09:39:15 2026 user.notice su: kernel: ",
        "Thu Nov 20 09:39:15 2026 user.notice kernel: ",
        "Thu Nov 20 09:39:15 2026 kern.debug su: kernel: ",
        "Thu Nov 20 09:39:15 2026 kernel: ",
        "Thu Nov 20 09:39:15 2026 host kern.debug kernel: ",
        // RFC 5424
        "<15>1 2026-11-20T09:39:15Z host kernel - - - ",
        "<8>1 2026-11-20T09:39:15Z host kernel - - - ",
        "<7>1 2026-11-20T09:39:15Z host su - - - kernel - - - ",
        "<7>1 2026-11-20T09:39:15Z host su kernel - - ",
        "<7>1 2026-11-20T09:39:15Z host kernel: ",
        "<7>1 2026-11-20T09:39:15Z host kernel 12 - - ",
        "<7>1 2026-11-20T09:39:15Z host kernel - - ",
        "<7>1 2026-11-20T09:39:15Z host kernel - - [x y=\"] ",
        "<7>1 2026-11-20T09:39:15Z host kernel - - [x] y] ",
        "<7>1 Nov 20 09:39:15 host kernel - - - ",
        "<7>2 2026-11-20T09:39:15Z host kernel - - - ",
        "<7> 2026-11-20T09:39:15Z host kernel: ",
        "<07>2026-11-20T09:39:15Z host kernel: ",
        "<7>",
        "2026-11-20T09:39:15Z host su - - - kernel: ",
        "Nov 20 09:39:15 host kernel - - - ",
        "<15>Nov 20 09:39:15 host kernel: ",
    ] {
        let why = syslog(&format!("{line}REJECT {PACKET}")).err();
        assert!(
            matches!(why, Some(NotASyn::NotKernel | NotASyn::Framing | NotASyn::OtherPrefix)),
            "{line}: {why:?}"
        );
    }
}

/// Then the packet's own first word must begin what the kernel said.
#[test]
fn without_a_log_prefix_the_message_must_begin_with_the_packet() {
    let read =
        |line: &str| parse(format!("{line}{PACKET}").as_bytes(), Framing::Syslog, b"").map(|_| ());
    assert_eq!(read("Nov 20 09:39:15 host kernel: [  923.993648] "), Ok(()));
    assert_eq!(read("Nov 20 09:39:15 [kernel] "), Ok(()));
    for said in ["REJECT ", " ", "x", "[x] ", "kernel: "] {
        let line = format!("Nov 20 09:39:15 host kernel: {said}");
        assert_eq!(read(&line), Err(NotASyn::Malformed("IN=")), "{said}");
    }
    assert_eq!(read("Nov 20 09:39:15 host su: "), Err(NotASyn::NotKernel));
}

#[test]
fn only_a_whole_record_of_facility_0_is_read() {
    let record = |head: &str| {
        parse(format!("{head}REJECT {PACKET}").as_bytes(), Framing::Kmsg, PREFIX).map(|_| ())
    };
    assert_eq!(record("7,900,923993648,-;"), Ok(()));
    assert_eq!(record("0,900,923993648,-;"), Ok(()));
    assert_eq!(record("6,900,923993648,-,caller=T1;"), Ok(()));
    for facility_1_and_more in ["8,900,1,-;", "14,900,1,-;", "15,900,1,-;", "70000,900,1,-;"] {
        assert_eq!(record(facility_1_and_more), Err(NotASyn::NotKernel));
    }
    for head in [
        "7,900,1,c;",
        "7,900,1,+;",
        "7,900,1;",
        "7,900,-;",
        "07,9,1,-;",
        "-1,9,1,-;",
        "7,900,1,-x;",
        "7,900,1,-",
        "",
    ] {
        assert_eq!(record(head), Err(NotASyn::Framing), "{head}");
    }
    // A dictionary follows the text; it is no part of it, and cannot be a text either.
    let with_dictionary = format!("7,1,2,-;REJECT {PACKET}\n SUBSYSTEM=net\n DEVICE=n3\n");
    assert!(parse(with_dictionary.as_bytes(), Framing::Kmsg, PREFIX).is_ok());
    let in_dictionary = format!("7,1,2,-;usb 1-1: new device\n REJECT {PACKET}\n");
    assert_eq!(parse(in_dictionary.as_bytes(), Framing::Kmsg, PREFIX), Err(NotASyn::OtherPrefix));
    let in_head = format!("7,1,2,-,a\n;REJECT {PACKET}\n");
    assert_eq!(parse(in_head.as_bytes(), Framing::Kmsg, PREFIX), Err(NotASyn::Framing));
}

#[test]
fn a_records_number_is_its_second_field() {
    for (record, number) in [
        ("7,900,923993648,-;REJECT ", Some(900)),
        ("15,0,1,-;", Some(0)),
        ("6,9999999999999999999,1,-;", Some(9_999_999_999_999_999_999)),
        ("6,99999999999999999999,1,-;", None),
        ("7,900;", None),
        ("7,", None),
        ("7;900,1,-;", None),
        (",900,1,-;", None),
        ("", None),
    ] {
        assert_eq!(kmsg_sequence(record.as_bytes()), number, "{record}");
    }
}

#[test]
fn each_reason_has_words_of_its_own() {
    let reasons = [
        NotASyn::Framing,
        NotASyn::NotKernel,
        NotASyn::OtherPrefix,
        NotASyn::Malformed("SRC="),
        NotASyn::NotTcp,
        NotASyn::Fragment,
        NotASyn::Incomplete,
        NotASyn::NoSequence,
        NotASyn::OtherFlags,
    ];
    let words: BTreeSet<String> = reasons.iter().map(ToString::to_string).collect();
    assert_eq!(words.len(), reasons.len());
    // What has to be done on the host is named.
    assert!(NotASyn::OtherPrefix.to_string().contains("`log_prefix`"));
    assert!(NotASyn::NoSequence.to_string().contains("--log-tcp-sequence"));
    assert!(NotASyn::Malformed("SRC=").to_string().contains("SRC="));
}

#[test]
fn the_log_prefix_is_taken_byte_for_byte() {
    let line = |message: &str| format!("Nov 20 09:39:15 host kernel: {message}{PACKET}");
    let read = |message: &str, prefix: &str| {
        parse(line(message).as_bytes(), Framing::Syslog, prefix.as_bytes()).map(|_| ())
    };
    assert_eq!(read("[UFW BLOCK] ", "[UFW BLOCK] "), Ok(()));
    assert_eq!(read("REJECT", "REJECT"), Ok(()));
    assert_eq!(read("", ""), Ok(()));
    assert_eq!(read("REJECT ", "REJECT"), Err(NotASyn::Malformed("IN=")));
    assert_eq!(read("REJECT ", "reject "), Err(NotASyn::OtherPrefix));
    assert_eq!(read("X REJECT ", "REJECT "), Err(NotASyn::OtherPrefix));
}

#[test]
fn the_fields_of_both_address_families_are_read() {
    let line = format!("7,1,2,-;REJECT {PACKET}");
    let syn = parse(line.as_bytes(), Framing::Kmsg, PREFIX).unwrap();
    assert_eq!(row(&syn), "192.0.2.7 198.51.100.1 2743 666 4660 305419896 2271560481 4321 none");
    let line = format!("7,1,2,-;REJECT {PACKET6}OPT (020405A0) UID=0 GID=0 MARK=0x1 ");
    let syn = parse(line.as_bytes(), Framing::Kmsg, PREFIX).unwrap();
    assert_eq!(
        row(&syn),
        "2001:0db8:0000:0000:0000:0000:0000:0007 2001:0db8:0000:0000:0000:0000:0000:0001 2743 666 65535 1 0 4321 020405A0"
    );
}

#[test]
fn what_the_kernel_may_print_beside_the_fields_is_let_pass() {
    for (from, to) in [
        ("URGP=0 ", "URGP=0"),
        ("URGP=0 ", "URGP=0 OPT (020405B4)"),
        ("URGP=0 ", "URGP=0 UID=1000 GID=1000 "),
        ("URGP=0 ", "URGP=0 MARK=0xdeadbeef "),
        ("OUT= ", "OUT= PHYSIN=br0p1 "),
        ("OUT= ", "OUT= PHYSIN=br0p1 PHYSOUT=br0p2 "),
        ("IN=eth0", "IN="),
        ("MAC=0a:f8:61:10:6d:fe:ee:15:10:56:d4:d7:08:00 ", "MAC= "),
        ("MAC=0a:f8:61:10:6d:fe:ee:15:10:56:d4:d7:08:00 ", ""),
        (
            "MAC=0a:f8:61:10:6d:fe:ee:15:10:56:d4:d7:08:00 ",
            "MACSRC=ee:15:10:56:d4:d7 MACDST=0a:f8:61:10:6d:fe MACPROTO=0800 ",
        ),
        (
            "MAC=0a:f8:61:10:6d:fe:ee:15:10:56:d4:d7:08:00 ",
            "MACSRC=ee:15:10:56:d4:d7 MACDST=0a:f8:61:10:6d:fe VPROTO=8100 VID=12 MACPROTO=0800 ",
        ),
        ("ID=4660 ", "ID=4660 CE DF "),
        ("ID=4660 ", "ID=4660 DF OPT (94040000) "),
    ] {
        let text = PACKET.replacen(from, to, 1);
        assert_eq!(packet(&text), Ok(()), "{text}");
    }
    assert_eq!(packet(&PACKET6.replace("PROTO=", "OPT ( ) OPT ( ) PROTO=")), Ok(()));
    assert_eq!(packet(&PACKET6.replace("MAC= ", "MAC= TUNNEL=192.0.2.1->192.0.2.2 ")), Ok(()));
}

#[test]
fn a_packet_that_is_no_whole_lone_syn_is_refused_by_its_reason() {
    for (from, to, reason) in [
        ("PROTO=TCP", "PROTO=UDP", NotASyn::NotTcp),
        ("PROTO=TCP", "PROTO=ICMP", NotASyn::NotTcp),
        ("PROTO=TCP SPT=2743", "PROTO=TCP INCOMPLETE [8 bytes] SPT=2743", NotASyn::Incomplete),
        ("ID=4660 ", "ID=4660 MF ", NotASyn::Fragment),
        ("ID=4660 ", "ID=4660 DF FRAG:64 ", NotASyn::Fragment),
        ("SEQ=305419896 ACK=2271560481 ", "", NotASyn::NoSequence),
        (" SYN ", " ACK SYN ", NotASyn::OtherFlags),
        (" SYN ", " SYN FIN ", NotASyn::OtherFlags),
        (" SYN ", " CWR SYN ", NotASyn::OtherFlags),
        (" SYN ", " ECE SYN ", NotASyn::OtherFlags),
        (" SYN ", " ECE CWR SYN ", NotASyn::OtherFlags),
        (" SYN ", " CWR ECE ACK SYN ", NotASyn::OtherFlags),
        (" SYN ", " AE SYN ", NotASyn::OtherFlags),
        ("RES=0x00 SYN ", "RES=0x04 AE CWR ECE SYN ", NotASyn::OtherFlags),
        ("RES=0x00 SYN ", "RES=0x08 CWR ECE SYN ", NotASyn::OtherFlags),
        (" SYN ", " PSH SYN ", NotASyn::OtherFlags),
        (" SYN ", " ", NotASyn::OtherFlags),
        (" SYN ", " SYN SYN ", NotASyn::OtherFlags),
        ("RES=0x00", "RES=0x04", NotASyn::OtherFlags),
    ] {
        let text = PACKET.replacen(from, to, 1);
        assert_eq!(packet(&text), Err(reason), "{text}");
    }
    assert_eq!(
        packet(&PACKET6.replace("PROTO=", "OPT ( FRAG:0 ID:12345678 ) PROTO=")),
        Err(NotASyn::Fragment)
    );
    assert_eq!(
        packet(&PACKET6.replace("PROTO=", "FRAG:0 ID:12345678 PROTO=")),
        Err(NotASyn::Fragment)
    );
}

#[test]
fn a_field_that_the_kernel_would_not_write_so_is_refused() {
    for (from, to) in [
        ("SRC=192.0.2.7", "SRC=192.0.2.07"),
        ("SRC=192.0.2.7", "SRC=192.0.2.256"),
        ("SRC=192.0.2.7", "SRC=192.0.2"),
        ("SRC=192.0.2.7", "SRC=0.0.0.0/0"),
        ("SRC=192.0.2.7", "SRC=192.0.2.7,10.0.0.1"),
        ("SRC=192.0.2.7", "SRC= 192.0.2.7"),
        ("SRC=192.0.2.7", "SRC=any"),
        ("SRC=192.0.2.7", "SRC=::1"),
        ("SRC=192.0.2.7", "SRC=2001:0db8:0000:0000:0000:0000:0000:0007"),
        ("SRC=192.0.2.7 DST=198.51.100.1", "DST=198.51.100.1 SRC=192.0.2.7"),
        ("SRC=192.0.2.7", "SRC=192.0.2.7 SRC=192.0.2.8"),
        ("ID=4660", "ID=65536"),
        ("ID=4660", "ID=+4660"),
        ("ID=4660", "ID=04660"),
        ("ID=4660", "ID="),
        ("TTL=64", "TTL=256"),
        ("DPT=666", "DPT=70000"),
        ("DPT=666", "DPT=0666"),
        ("DPT=666", "DPT=-1"),
        ("DPT=666", "DPT=666 DPT=667"),
        ("SEQ=305419896", "SEQ=4294967296"),
        ("SEQ=305419896", "SEQ=99999999999999999999999999"),
        ("WINDOW=4321", "WINDOW=65536"),
        ("URGP=0 ", "URGP=0  "),
        ("URGP=0 ", "URGP=0 OPT (020405B) "),
        ("URGP=0 ", "URGP=0 OPT (020405b4) "),
        ("URGP=0 ", "URGP=0 OPT (TRUNCATED)"),
        ("URGP=0 ", "URGP=0 OPT () OPT () "),
        ("URGP=0 ", "URGP=0 MARK=x "),
        ("URGP=0 ", "URGP=0 UID=1 "),
        ("URGP=0 ", "URGP=0 DPT=22 "),
        ("URGP=0 ", "URGP=0\nDPT=22 "),
        ("MAC=0a:", "MAC=XX:"),
        ("IN=eth0 ", "IN=eth0 x "),
        ("IN=eth0 ", "IN=eth0  "),
    ] {
        let text = PACKET.replacen(from, to, 1);
        assert_ne!(text, PACKET, "{from}");
        let line = format!("Nov 20 09:39:15 host kernel: REJECT {text}");
        assert!(
            matches!(syslog(&line), Err(NotASyn::Malformed(_) | NotASyn::OtherFlags)),
            "{text}"
        );
    }
    for (from, to) in [
        ("0000:0007 ", "0000:7 "),
        ("2001:0db8", "2001:0DB8"),
        ("0000:0007 ", "0000:000g "),
        ("0000:0007 ", "0000:00070 "),
        ("0000:0007 ", "0000-0007 "),
        ("0000:0007 ", "0000:00:7 "),
        ("2001:0db8", "200110db8"),
        ("2001:0db8", "2001a0db8"),
        ("FLOWLBL=1048575", "FLOWLBL=1048576"),
        ("HOPLIMIT=64", "HOPLIMIT=300"),
    ] {
        let text = PACKET6.replacen(from, to, 1);
        assert!(matches!(packet(&text), Err(NotASyn::Malformed(_))), "{text}");
    }
}

#[test]
fn a_kernels_syn_may_ask_for_ecn_in_three_ways() {
    for (flags, asks_for_ecn) in [
        ("RES=0x00 SYN ", false),
        ("RES=0x00 CWR ECE SYN ", true),
        ("RES=0x00 AE CWR ECE SYN ", true),
        // Accurate ECN, logged by a kernel that does not know it.
        ("RES=0x04 CWR ECE SYN ", true),
    ] {
        let text = PACKET.replacen("RES=0x00 SYN ", flags, 1);
        let line = format!("7,1,2,-;REJECT {text}");
        let syn = parse(line.as_bytes(), Framing::Kmsg, PREFIX);
        assert_eq!(syn.map(|syn| syn.asks_for_ecn), Ok(asks_for_ecn), "{text}");
    }
}

#[test]
fn a_line_that_is_cut_anywhere_is_refused_or_says_the_same() {
    let line =
        format!("Nov 20 09:39:15 host kernel: [  923.993648] REJECT {PACKET}OPT (020405B4) ");
    let whole = syslog(&line).unwrap();
    for end in 0..line.len() {
        if let Ok(syn) = syslog(&line[..end]) {
            let without_options = LoggedSyn { options_hex: b"", ..whole };
            assert!(syn == whole || syn == without_options, "{}", &line[..end]);
        }
    }
}

#[test]
fn a_line_with_any_byte_changed_never_moves_a_field_to_another_place() {
    let line = format!("7,1,2,-;REJECT {PACKET}OPT (020405B4) ").into_bytes();
    for at in 0..line.len() {
        for byte in 0..=u8::MAX {
            let mut changed = line.clone();
            changed[at] = byte;
            let Ok(syn) = parse(&changed, Framing::Kmsg, PREFIX) else { continue };
            let text = String::from_utf8_lossy(&changed).into_owned();
            for (key, value) in [
                (" SRC=", syn.source.to_string()),
                (" DST=", syn.destination.to_string()),
                (" SPT=", syn.source_port.to_string()),
                (" DPT=", syn.destination_port.to_string()),
                (" ID=", syn.fields.id.to_string()),
                (" SEQ=", syn.fields.seq.to_string()),
                (" ACK=", syn.fields.ack.to_string()),
                (" WINDOW=", syn.fields.window.to_string()),
            ] {
                assert!(text.contains(&format!("{key}{value} ")), "{key} in {text:?}");
            }
        }
    }
}

#[test]
fn any_bytes_are_read_without_a_panic() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let seeds: Vec<&[u8]> =
        KMSG.lines().chain(ISO.lines()).chain(TRADITIONAL.lines()).map(str::as_bytes).collect();
    for round in 0..20_000 {
        let mut line = seeds[round % seeds.len()].to_vec();
        for _ in 0..4 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let at = usize::try_from(state >> 33).unwrap() % line.len();
            match state % 4 {
                0 => line[at] = u8::try_from(state >> 8 & 0xff).unwrap(),
                1 => line.truncate(at + 1),
                2 => drop(line.remove(at)),
                _ => line.insert(at, b' '),
            }
            if line.is_empty() {
                break;
            }
        }
        for framing in [Framing::Syslog, Framing::Kmsg, Framing::Journal] {
            let _ = parse(&line, framing, PREFIX);
        }
    }
}

#[test]
fn what_a_process_writes_to_the_kernels_log_is_not_taken_for_the_kernels() {
    use std::io::Write;

    use knockknock::daemon::log_source::port_filter::{PortSet, wanted_lines};
    use knockknock::daemon::log_source::{LogChoice, OpenedLog};
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    let Ok(mut device) = std::fs::OpenOptions::new().write(true).open("/dev/kmsg") else {
        // scripts/test.sh runs as root, with this feature.
        if cfg!(feature = "e2e") {
            panic!("/dev/kmsg may not be written to here");
        } else {
            eprintln!("/dev/kmsg may not be written to here: run as root");
            return;
        }
    };
    let mut source = OpenedLog::open(&LogChoice::Kmsg).unwrap().watch().unwrap();
    let wanted: PortSet = [65534].into_iter().collect();
    // <7> asks for facility 0, as the kernel's own records have it. Without the newline the kernel would keep the record
    // back until the next one (it could still be continued), and on a quiet machine that may never come.
    let marker = format!("SPT={} DPT=65534 ", std::process::id() % 65536);
    let forged = format!("<7>REJECT {}\n", PACKET.replace("SPT=2743 DPT=666 ", &marker));
    device.write_all(forged.as_bytes()).unwrap();
    let mut record = None;
    while record.is_none() {
        let mut ready = [PollFd::new(source.fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut ready, PollTimeout::from(60_000_u16)), Ok(1), "the record never came");
        while let Some(piece) = source.read().unwrap() {
            let mut lines = wanted_lines(piece, &wanted);
            let ours = lines.find(|line| String::from_utf8_lossy(line).contains(&marker));
            record = record.or(ours.map(<[u8]>::to_vec));
        }
    }
    assert_eq!(source.framing(), Framing::Kmsg);
    let record = record.unwrap();
    assert_eq!(parse(&record, Framing::Kmsg, PREFIX), Err(NotASyn::NotKernel));
    // All else about it would pass.
    let text = record.split(|byte| *byte == b';').nth(1).unwrap();
    assert!(parse(&[b"7,1,2,-;", text].concat(), Framing::Kmsg, PREFIX).is_ok());
}
