//! One line of the kernel's log -> the SYN that it tells of, or why it tells of none.
//!
//! Owns the grammar of the lines that Linux prints for a logged packet (`net/netfilter/nf_log_syslog.c`); `head` has that of
//! what is put before them on the way, by a log program or by `/dev/kmsg`.
//! Never searches a line for a field. The grammar is walked from the first byte in the kernel's own order, so no host
//! name, interface name, quoted packet or other text can stand in for a field of the packet that was refused.
//!
//! Pure: bytes in, fields out. No allocation, one pass, no panic whatever the bytes are.

#![forbid(unsafe_code)]

mod head;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::syn::{LoggedSyn, SynFields};

/// What stands before the kernel's message in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// A line of a log file, as rsyslog, syslog-ng, busybox, metalog, logread or RFC 5424 have it, such as
    /// `Nov 20 09:39:15 host kernel: [  923.993648] `. The bracketed time may be missing.
    Syslog,
    /// A record of `/dev/kmsg`: `7,900,923993648,-;`, of facility 0 (only the kernel can write one).
    /// The record ends at its first newline; what follows there is a dictionary.
    Kmsg,
    /// A `MESSAGE=` field in the journal's export format. It does not say who wrote it: whoever feeds these must have
    /// seen `_TRANSPORT=kernel` in the same entry.
    Journal,
}

/// Why a line tells of no SYN that a knock could be in. Each kind is one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotASyn {
    /// The line does not begin as lines of its source do.
    Framing,
    /// A program's message, not the kernel's.
    NotKernel,
    /// The kernel's, but not our firewall rule's: the message does not begin with the log prefix.
    OtherPrefix,
    /// It breaks the grammar of the kernel's packet lines where this was expected.
    Malformed(&'static str),
    /// Another protocol than TCP. ICMP errors, which quote somebody else's packet, are here.
    NotTcp,
    /// A fragment of an IP packet.
    Fragment,
    /// The packet ended within its TCP header.
    Incomplete,
    /// The firewall rule logs no `SEQ=` and `ACK=`: knocks cannot be read from it.
    NoSequence,
    /// Flags other than SYN alone, or a reserved bit.
    OtherFlags,
}

impl fmt::Display for NotASyn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Framing => f.write_str(
                "the line does not begin as this log's lines do: of a file, what rsyslog, syslog-ng, busybox, metalog and \
                 logread write by default is read, and RFC 5424; --log kmsg needs none of them",
            ),
            Self::NotKernel => f.write_str("the line is not the kernel's"),
            Self::OtherPrefix => f.write_str(
                "the message about a knock port does not begin with `log_prefix`; if your firewall logs knocks like that, set \
                 `log_prefix` to what it writes",
            ),
            Self::Malformed(expected) => write!(f, "no kernel packet line: expected {expected}"),
            Self::NotTcp => f.write_str("the packet is not TCP"),
            Self::Fragment => f.write_str("the packet is a fragment"),
            Self::Incomplete => f.write_str("the packet has no whole TCP header"),
            Self::NoSequence => f.write_str(
                "the line has no SEQ= and ACK=: the firewall's log rule needs --log-tcp-sequence (iptables) or \
                 `flags tcp sequence,options` (nft)",
            ),
            Self::OtherFlags => f.write_str("the packet's flags are not SYN alone"),
        }
    }
}

impl std::error::Error for NotASyn {}

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
    Rest(message.strip_prefix(prefix).ok_or(NotASyn::OtherPrefix)?).packet()
}

/// The kernel's message in a line.
pub(super) fn message(line: &[u8], framing: Framing) -> Result<&[u8], NotASyn> {
    match framing {
        Framing::Syslog => head::syslog_message(line),
        Framing::Kmsg => head::kmsg_message(line),
        Framing::Journal => line.strip_prefix(b"MESSAGE=").ok_or(NotASyn::Framing),
    }
}

/// What our own log rules say of a packet: its text behind their prefix.
pub(super) fn packet(text: &[u8]) -> Result<LoggedSyn<'_>, NotASyn> {
    Rest(text).packet()
}

/// A packet of a TCP connection that came in through a grant: its text behind the prefix. Its flags do not matter.
pub(super) fn came_in(text: &[u8]) -> Result<CameIn, NotASyn> {
    let Ends { source, destination, destination_port, .. } = Rest(text).ends()?;
    Ok(CameIn { source, destination, port: destination_port })
}

/// Whose connection came in, and where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CameIn {
    /// The client.
    pub(super) source: IpAddr,
    /// The address of this host.
    pub(super) destination: IpAddr,
    /// The port as the client sees it.
    pub(super) port: u16,
}

/// Both ends of a packet.
struct Ends {
    source: IpAddr,
    destination: IpAddr,
    source_port: u16,
    destination_port: u16,
    /// IPv4: the identification. IPv6: the low 16 bits of the flow label.
    id: u16,
}

/// The sequence number of a `/dev/kmsg` record: consecutive records have consecutive numbers.
#[must_use]
pub fn kmsg_sequence(record: &[u8]) -> Option<u64> {
    let mut rest = Rest(record);
    rest.decimal().filter(|_| rest.skip(b","))?;
    rest.decimal().filter(|_| rest.skip(b","))
}

/// What of the line has not been read yet.
struct Rest<'l>(&'l [u8]);

impl<'l> Rest<'l> {
    /// A SYN's fields, to the end of the line.
    fn packet(mut self) -> Result<LoggedSyn<'l>, NotASyn> {
        let Ends { source, destination, source_port, destination_port, id } = self.ends()?;
        if self.0.starts_with(b"WINDOW=") {
            return Err(NotASyn::NoSequence);
        }
        let seq = self.number(b"SEQ=").ok_or(NotASyn::Malformed("SEQ="))?;
        let ack = self.number(b"ACK=").ok_or(NotASyn::Malformed("ACK="))?;
        let window = self.number(b"WINDOW=").ok_or(NotASyn::Malformed("WINDOW="))?;
        let reserved =
            self.hex(b"RES=0x", u8::is_ascii_hexdigit).ok_or(NotASyn::Malformed("RES="))?;
        if reserved != b"00" || !self.skip(b"SYN ") || !self.0.starts_with(b"URGP=") {
            return Err(NotASyn::OtherFlags);
        }
        let options_hex = self.end_of_packet()?;

        let fields = SynFields { id, seq, ack, window };
        Ok(LoggedSyn { source, destination, source_port, destination_port, fields, options_hex })
    }

    /// A TCP packet's fields up to its ports, in the order in which `nf_log_syslog.c` prints them.
    fn ends(&mut self) -> Result<Ends, NotASyn> {
        self.named(b"IN=").ok_or(NotASyn::Malformed("IN="))?;
        self.named(b"OUT=").ok_or(NotASyn::Malformed("OUT="))?;
        self.named(b"PHYSIN=");
        self.named(b"PHYSOUT=");
        self.hardware_addresses()?;

        let source = self.address(b"SRC=").ok_or(NotASyn::Malformed("SRC="))?;
        let destination = self.address(b"DST=").ok_or(NotASyn::Malformed("DST="))?;
        let id = match (source, destination) {
            (IpAddr::V4(_), IpAddr::V4(_)) => self.ipv4_header()?,
            (IpAddr::V6(_), IpAddr::V6(_)) => self.ipv6_header()?,
            _ => return Err(NotASyn::Malformed("two addresses of one family")),
        };

        if self.named(b"PROTO=").ok_or(NotASyn::Malformed("PROTO="))? != b"TCP" {
            return Err(NotASyn::NotTcp);
        }
        if self.skip(b"INCOMPLETE [") {
            return Err(NotASyn::Incomplete);
        }
        let source_port = self.number(b"SPT=").ok_or(NotASyn::Malformed("SPT="))?;
        let destination_port = self.number(b"DPT=").ok_or(NotASyn::Malformed("DPT="))?;
        Ok(Ends { source, destination, source_port, destination_port, id })
    }

    /// `MAC=…` (perhaps empty), or `MACSRC=… MACDST=… [VPROTO=… VID=…] MACPROTO=…`; a packet of our own has neither.
    fn hardware_addresses(&mut self) -> Result<(), NotASyn> {
        const MAC: NotASyn = NotASyn::Malformed("MAC=");
        let mac = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b':');
        let hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if self.0.starts_with(b"MACSRC=") {
            self.hex(b"MACSRC=", mac).ok_or(MAC)?;
            self.hex(b"MACDST=", mac).ok_or(MAC)?;
            if self.0.starts_with(b"VPROTO=") {
                self.hex(b"VPROTO=", hex).ok_or(MAC)?;
                self.number::<u16>(b"VID=").ok_or(MAC)?;
            }
            self.hex(b"MACPROTO=", hex).ok_or(MAC)?;
        } else if self.0.starts_with(b"MAC=") {
            if !self.skip(b"MAC= ") {
                self.hex(b"MAC=", mac).ok_or(MAC)?;
            }
            // IPv6 in IPv4: the tunnel's two ends.
            self.hex(b"TUNNEL=", |byte| matches!(byte, b'0'..=b'9' | b'.' | b'-' | b'>'));
        }
        Ok(())
    }

    /// `LEN= TOS= PREC= TTL= ID= [CE ][DF ][MF ][FRAG:n ][OPT (hex) ]` -> the identification.
    fn ipv4_header(&mut self) -> Result<u16, NotASyn> {
        self.number::<u16>(b"LEN=").ok_or(NotASyn::Malformed("LEN="))?;
        self.hex(b"TOS=0x", u8::is_ascii_hexdigit).ok_or(NotASyn::Malformed("TOS="))?;
        self.hex(b"PREC=0x", u8::is_ascii_hexdigit).ok_or(NotASyn::Malformed("PREC="))?;
        self.number::<u8>(b"TTL=").ok_or(NotASyn::Malformed("TTL="))?;
        let id = self.number(b"ID=").ok_or(NotASyn::Malformed("ID="))?;
        self.skip(b"CE ");
        self.skip(b"DF ");
        if self.0.starts_with(b"MF ") || self.0.starts_with(b"FRAG:") {
            return Err(NotASyn::Fragment);
        }
        self.options()?;
        Ok(id)
    }

    /// `LEN= TC= HOPLIMIT= FLOWLBL= [OPT ( ) …]` -> the low 16 bits of the flow label.
    fn ipv6_header(&mut self) -> Result<u16, NotASyn> {
        const LABEL: NotASyn = NotASyn::Malformed("FLOWLBL=");
        self.number::<u32>(b"LEN=").ok_or(NotASyn::Malformed("LEN="))?;
        self.number::<u8>(b"TC=").ok_or(NotASyn::Malformed("TC="))?;
        self.number::<u8>(b"HOPLIMIT=").ok_or(NotASyn::Malformed("HOPLIMIT="))?;
        let label: u32 = self.number(b"FLOWLBL=").filter(|label| *label < 1 << 20).ok_or(LABEL)?;
        // An extension header that says nothing of itself: hop-by-hop, destination options, routing.
        while self.skip(b"OPT ( ) ") {}
        if self.0.starts_with(b"OPT ( FRAG:") || self.0.starts_with(b"FRAG:") {
            return Err(NotASyn::Fragment);
        }
        u16::try_from(label & 0xffff).map_err(|_| LABEL)
    }

    /// `URGP=n [OPT (hex) ][UID=n GID=n ][MARK=0xn ]` and nothing more -> the TCP options' digits.
    ///
    /// The line's last blank may be missing: some log programs cut it off.
    fn end_of_packet(&mut self) -> Result<&'l [u8], NotASyn> {
        self.number::<u16>(b"URGP=").ok_or(NotASyn::Malformed("URGP="))?;
        let options = self.options()?;
        if self.number::<u32>(b"UID=").is_some() {
            self.number::<u32>(b"GID=").ok_or(NotASyn::Malformed("GID="))?;
        }
        self.hex(b"MARK=0x", u8::is_ascii_hexdigit);
        if self.0.is_empty() { Ok(options) } else { Err(NotASyn::Malformed("the end of the line")) }
    }

    /// `OPT (hex) `, where it stands -> its digits: whole bytes, at most the 40 that an IPv4 or TCP header can have.
    fn options(&mut self) -> Result<&'l [u8], NotASyn> {
        if !self.skip(b"OPT (") {
            return Ok(b"");
        }
        let digits = self.until(b')').filter(|_| self.skip(b" ") || self.0.is_empty());
        digits
            .filter(|digits| digits.len() <= 80 && digits.len().is_multiple_of(2))
            .filter(|digits| digits.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F')))
            .ok_or(NotASyn::Malformed("hexadecimal digits in OPT ("))
    }

    /// `KEY=word ` -> the word, which may be empty.
    fn named(&mut self, key: &[u8]) -> Option<&'l [u8]> {
        if self.skip(key) { self.word() } else { None }
    }

    /// `KEY=word ` where each byte of the word is of the given kind, and there is one. Takes nothing otherwise.
    fn hex(&mut self, key: &[u8], kind: fn(&u8) -> bool) -> Option<&'l [u8]> {
        let mut rest = Rest(self.0);
        let word = rest.named(key).filter(|word| !word.is_empty() && word.iter().all(kind))?;
        self.0 = rest.0;
        Some(word)
    }

    /// `KEY=n ` -> the number, if it is written as the kernel writes one and fits. Takes nothing otherwise.
    fn number<N: TryFrom<u64>>(&mut self, key: &[u8]) -> Option<N> {
        let mut rest = Rest(self.0);
        let mut word = Rest(rest.named(key)?);
        let number = word
            .decimal()
            .filter(|_| word.0.is_empty())
            .and_then(|number| N::try_from(number).ok())?;
        self.0 = rest.0;
        Some(number)
    }

    /// `KEY=address `, in the one way in which the kernel prints it: dotted decimal, or eight groups of four digits.
    fn address(&mut self, key: &[u8]) -> Option<IpAddr> {
        let word = self.named(key)?;
        if word.contains(&b':') {
            return ipv6_address(word).map(IpAddr::V6);
        }
        // The standard library's reader is as strict: four parts, no leading zeros, nothing around them.
        std::str::from_utf8(word).ok()?.parse().ok().map(|address: Ipv4Addr| IpAddr::V4(address))
    }

    /// Digits without leading zeros, at most 19 of them.
    fn decimal(&mut self) -> Option<u64> {
        let length = self.0.iter().take(20).take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = self.0.split_at_checked(length)?;
        if digits.is_empty()
            || digits.len() > 19
            || (digits.len() > 1 && digits.first() == Some(&b'0'))
        {
            return None;
        }
        self.0 = rest;
        Some(digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
    }

    /// Up to the next blank, which is taken too, or to the end.
    fn word(&mut self) -> Option<&'l [u8]> {
        let end = memchr::memchr(b' ', self.0);
        let (word, rest) = self.0.split_at_checked(end.unwrap_or(self.0.len()))?;
        self.0 = rest.strip_prefix(b" ").unwrap_or(rest);
        Some(word)
    }

    /// Up to the next such byte, which is taken too.
    fn until(&mut self, byte: u8) -> Option<&'l [u8]> {
        let (before, rest) = self.0.split_at_checked(memchr::memchr(byte, self.0)?)?;
        self.0 = rest.get(1..)?;
        Some(before)
    }

    fn skip(&mut self, literal: &[u8]) -> bool {
        match self.0.strip_prefix(literal) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }
}

/// `fd99:0000:0000:0000:0000:0000:0000:0002`: the kernel compresses nothing here and writes small letters.
fn ipv6_address(word: &[u8]) -> Option<Ipv6Addr> {
    if word.len() != 39 {
        return None;
    }
    let mut address = 0_u128;
    for (at, byte) in word.iter().enumerate() {
        let digit = match byte {
            b':' if at % 5 == 4 => continue,
            b'0'..=b'9' if at % 5 != 4 => byte - b'0',
            b'a'..=b'f' if at % 5 != 4 => byte - b'a' + 10,
            _ => return None,
        };
        address = address * 16 + u128::from(digit);
    }
    Some(Ipv6Addr::from_bits(address))
}
