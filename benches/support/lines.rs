//! Log lines to measure with: what a busy server's kern.log is full of, and a knock's own line.

use std::fmt::Write as _;
use std::net::IpAddr;

use knockknock::daemon::kernel_log_line::{Framing, parse};
use knockknock::syn::SynFields;

/// Real lines of the kernel, in rsyslog's newer framing.
const VECTORS: &str = include_str!("../../tests/vectors/kernel-log/rsyslog-iso.log");

/// Numbers that look random and are the same in each run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new() -> Self {
        Self(0x2545_f491_4f6c_dd1d)
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// `count` lines of refused TCP SYNs: the vectors' own, each with a source, a sequence number and ports of its own, and
/// with the firewall's `prefix`. `port` chooses the destination port. Lines end with a newline.
pub(crate) fn junk(
    count: usize,
    prefix: &str,
    mut port: impl FnMut(&mut Random) -> u16,
) -> Vec<u8> {
    let models: Vec<&str> = VECTORS
        .lines()
        .filter(|line| parse(line.trim_end().as_bytes(), Framing::Syslog, b"REJECT ").is_ok())
        .collect();
    assert!(models.len() > 10, "the vectors have SYNs");
    let mut random = Random::new();
    let mut lines = String::with_capacity(count * 300);
    for nth in 0..count {
        let (before, model) = models[nth % models.len()].split_once("REJECT ").unwrap();
        lines.extend([before, prefix]);
        let changed = |word: &str, random: &mut Random| match word.split_once('=') {
            Some(("SRC", old)) if !old.contains(':') => {
                Some(format!("SRC=198.51.{}.{}", random.below(256), random.below(256)))
            }
            Some(("SPT", _)) => Some(format!("SPT={}", 1024 + random.below(60_000))),
            Some(("SEQ", _)) => Some(format!("SEQ={}", random.below(1 << 32))),
            _ => None,
        };
        for word in model.split_inclusive(' ') {
            if word.starts_with("DPT=") {
                write!(lines, "DPT={} ", port(&mut random)).unwrap();
                continue;
            }
            match changed(word.trim_end(), &mut random) {
                Some(new) => lines.extend([new.as_str(), " "]),
                None => lines.push_str(word),
            }
        }
        lines.push('\n');
    }
    lines.into_bytes()
}

/// The line that rsyslog writes when the kernel has logged a knock.
pub(crate) fn knock_line(prefix: &str, from: IpAddr, knock_port: u16, syn: &SynFields) -> String {
    let SynFields { id, seq, ack, window } = syn;
    format!(
        "2026-11-20T09:39:15.430921+00:00 server kernel: [  923.993648] {prefix}IN=eth0 OUT= \
         MAC=0a:f8:61:10:6d:fe:ee:15:10:56:d4:d7:08:00 SRC={from} DST=10.66.1.1 LEN=40 TOS=0x00 PREC=0x00 TTL=64 \
         ID={id} PROTO=TCP SPT=40000 DPT={knock_port} SEQ={seq} ACK={ack} WINDOW={window} RES=0x00 SYN URGP=0 \n"
    )
}
