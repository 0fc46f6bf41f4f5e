//! The text that Linux prints for a logged packet (`net/netfilter/nf_log_syslog.c`), behind the log prefix.

use std::net::IpAddr;

use super::not_a_syn::NotASyn;
use super::rest::Rest;
use crate::syn::{LoggedSyn, SynFields};

/// The SYN that the text after a log prefix describes.
pub(crate) fn syn(text: &[u8]) -> Result<LoggedSyn<'_>, NotASyn> {
    Rest(text).syn()
}

/// A packet of a TCP connection that came in through a grant: its text behind the prefix. Its flags do not matter.
pub(crate) fn new_connection(text: &[u8]) -> Result<NewConnection, NotASyn> {
    let Endpoints { source, destination, destination_port, .. } = Rest(text).ends()?;
    Ok(NewConnection { source, destination, port: destination_port })
}

/// The two ends of a connection that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NewConnection {
    /// The client.
    pub(crate) source: IpAddr,
    /// The address of this host.
    pub(crate) destination: IpAddr,
    /// The port as the client sees it.
    pub(crate) port: u16,
}

/// Both ends of a packet.
struct Endpoints {
    source: IpAddr,
    destination: IpAddr,
    source_port: u16,
    destination_port: u16,
    /// IPv4: the identification. IPv6: the low 16 bits of the flow label.
    id: u16,
}

impl<'l> Rest<'l> {
    /// A SYN's fields, to the end of the line.
    fn syn(mut self) -> Result<LoggedSyn<'l>, NotASyn> {
        let Endpoints { source, destination, source_port, destination_port, id } = self.ends()?;
        if self.0.starts_with(b"WINDOW=") {
            return Err(NotASyn::NoSequence);
        }
        let seq = self.number(b"SEQ=").ok_or(NotASyn::Malformed("SEQ="))?;
        let ack = self.number(b"ACK=").ok_or(NotASyn::Malformed("ACK="))?;
        let window = self.number(b"WINDOW=").ok_or(NotASyn::Malformed("WINDOW="))?;
        let reserved =
            self.hex(b"RES=0x", u8::is_ascii_hexdigit).ok_or(NotASyn::Malformed("RES="))?;
        let asks_for_ecn = self.flags(reserved).ok_or(NotASyn::OtherFlags)?;
        let options_hex = self.end_of_packet()?;

        let fields = SynFields { id, seq, ack, window };
        Ok(LoggedSyn {
            source,
            destination,
            source_port,
            destination_port,
            fields,
            asks_for_ecn,
            options_hex,
        })
    }

    /// The flags of a SYN, if they are that: SYN alone, or with the request for ECN, or with that for accurate ECN, whose
    /// flag AE is a reserved bit to older kernels. Whether ECN is asked for.
    fn flags(&mut self, reserved: &[u8]) -> Option<bool> {
        const RESERVED_AE: &[u8] = b"04";
        let has_ae = if self.skip(b"AE ") { reserved == b"00" } else { reserved == RESERVED_AE };
        let asks_for_ecn = self.skip(b"CWR ECE ");
        let is_known = asks_for_ecn && has_ae || !has_ae && reserved == b"00";
        (is_known && self.skip(b"SYN ") && self.0.starts_with(b"URGP=")).then_some(asks_for_ecn)
    }

    /// A TCP packet's fields up to its ports, in the order in which `nf_log_syslog.c` prints them.
    fn ends(&mut self) -> Result<Endpoints, NotASyn> {
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
        Ok(Endpoints { source, destination, source_port, destination_port, id })
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
        // An extension header that the kernel prints without details: hop-by-hop, destination options, routing.
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
}
