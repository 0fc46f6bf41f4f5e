//! One line of the kernel's log -> the SYN that it describes, or why it describes none.
//!
//! Owns the grammar of these lines: `packet` has that of the text which Linux prints for a logged packet, `header` that of
//! what is put before it on the way, by a log program or by `/dev/kmsg`. `rest` has the words of both.
//! Never searches a line for a field. The grammar is walked from the first byte in the kernel's own order, so no host
//! name, interface name, quoted packet or other text can stand in for a field of the packet that was refused.
//!
//! Pure: bytes in, fields out. No allocation, one pass, no panic whatever the bytes are.

pub mod header;
pub mod not_a_syn;
pub(super) mod packet;
mod rest;

use crate::syn::LoggedSyn;
use not_a_syn::NotASyn;

/// What stands before the kernel's message in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// A line of a log file, as rsyslog, syslog-ng, busybox, metalog, logread or RFC 5424 have it, such as
    /// `Nov 20 09:39:15 host kernel: [  923.993648] `. The bracketed time may be missing.
    Syslog,
    /// A record of `/dev/kmsg`: `7,900,923993648,-;`, of facility 0 (only the kernel can write one).
    /// The record ends at its first newline; what follows there is a dictionary.
    Kmsg,
    /// A `MESSAGE=` field in the journal's export format. The field does not name its writer: the caller must have
    /// checked for `_TRANSPORT=kernel` in the same entry.
    Journal,
}

/// Reads one line, without its newline, as a refused SYN. `prefix` is the firewall rule's log prefix, byte for byte.
///
/// Ports, fields and addresses come out in host byte order. For IPv6 the identification is the low 16 bits of the flow
/// label. What is returned all stood in the outer packet's part of the line.
pub fn parse<'l>(
    line: &'l [u8],
    framing: Framing,
    prefix: &[u8],
) -> Result<LoggedSyn<'l>, NotASyn> {
    let message = message(line, framing)?;
    packet::syn(message.strip_prefix(prefix).ok_or(NotASyn::OtherPrefix)?)
}

/// The kernel's message in a line.
pub(super) fn message(line: &[u8], framing: Framing) -> Result<&[u8], NotASyn> {
    match framing {
        Framing::Syslog => header::syslog_message(line),
        Framing::Kmsg => header::kmsg_message(line),
        Framing::Journal => line.strip_prefix(b"MESSAGE=").ok_or(NotASyn::Framing),
    }
}
