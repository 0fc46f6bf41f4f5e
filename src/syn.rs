//! The header fields of a SYN that a knock can use, and a SYN as the kernel logged it.

use std::net::IpAddr;

/// The header fields that carry a knock in the classic layout: 96 bits. Host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SynFields {
    /// IPv4: the identification field. IPv6: the low 16 bits of the flow label.
    pub id: u16,
    /// TCP sequence number.
    pub seq: u32,
    /// TCP acknowledgement number (present in a SYN, but without a meaning).
    pub ack: u32,
    /// TCP window, unscaled.
    pub window: u16,
}

/// One refused SYN, as the firewall logged it: the outer packet's fields only.
///
/// `'line` is the log line, which the TCP options still stand in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoggedSyn<'line> {
    /// Source address, as the server saw it.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Source port.
    pub source_port: u16,
    /// Destination port: the knock port, in the classic layout.
    pub destination_port: u16,
    /// The fields that can carry a knock.
    pub fields: SynFields,
    /// TCP options as the hexadecimal digits of the line; empty where the line has none.
    pub options_hex: &'line [u8],
}
