//! The bytes of a knock: one TCP SYN with its IP header. Pure: no socket, no clock, no randomness of its own.
//!
//! What the classic layout leaves free is chosen here, once, for both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::{self, MutableIpv4Packet};
use pnet::packet::ipv6::MutableIpv6Packet;
use pnet::packet::tcp::{self, MutableTcpPacket, TcpFlags};

use crate::syn::SynFields;

const IPV4_HEADER_LEN: u8 = 20;
const IPV6_HEADER_LEN: u8 = 40;
const TCP_HEADER_LEN: u8 = 20;

/// Hops that a knock may travel: what Linux gives its own packets.
pub(crate) const TTL: u8 = 64;

/// Source and destination of a packet: of one family, which the type holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressPair {
    /// Source, destination.
    V4(Ipv4Addr, Ipv4Addr),
    /// Source, destination.
    V6(Ipv6Addr, Ipv6Addr),
}

impl AddressPair {
    /// `None` where the two are not of one family.
    #[must_use]
    pub fn new(source: IpAddr, destination: IpAddr) -> Option<Self> {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Some(Self::V4(source, destination)),
            (IpAddr::V6(source), IpAddr::V6(destination)) => Some(Self::V6(source, destination)),
            _ => None,
        }
    }
}

/// One knock, ready to be put into bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnockPacket {
    /// Where from and where to.
    pub addresses: AddressPair,
    /// Any port: no socket waits for the server's refusal.
    pub source_port: u16,
    /// The profile's knock port.
    pub knock_port: u16,
    /// The knock itself.
    pub fields: SynFields,
    /// IPv6: the upper 4 bits of the flow label. They carry nothing; a kernel's own labels are 20 random bits.
    pub flow_high: u8,
}

impl KnockPacket {
    /// The 20 bits of the IPv6 flow label: `flow_high`, then the knock's 16.
    pub(crate) fn flow_label(&self) -> u32 {
        u32::from(self.flow_high & 0xf) << 16 | u32::from(self.fields.id)
    }

    /// The whole packet: 40 bytes for IPv4, 60 for IPv6.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let tcp = self.tcp_header();
        let mut packet = match self.addresses {
            AddressPair::V4(source, destination) => self.ipv4_header(source, destination),
            AddressPair::V6(source, destination) => self.ipv6_header(source, destination),
        };
        packet.extend_from_slice(&tcp);
        packet
    }

    fn tcp_header(&self) -> Vec<u8> {
        let mut bytes = vec![0; TCP_HEADER_LEN.into()];
        #[expect(clippy::expect_used, reason = "the buffer is made as long as the header")]
        let mut header = MutableTcpPacket::new(&mut bytes).expect("room for a TCP header");
        header.set_source(self.source_port);
        header.set_destination(self.knock_port);
        header.set_sequence(self.fields.seq);
        header.set_acknowledgement(self.fields.ack);
        header.set_data_offset(TCP_HEADER_LEN / 4);
        header.set_flags(TcpFlags::SYN);
        header.set_window(self.fields.window);
        let checksum = match &self.addresses {
            AddressPair::V4(source, destination) => {
                tcp::ipv4_checksum(&header.to_immutable(), source, destination)
            }
            AddressPair::V6(source, destination) => {
                tcp::ipv6_checksum(&header.to_immutable(), source, destination)
            }
        };
        header.set_checksum(checksum);
        bytes
    }

    /// "Don't fragment" stays off, as in the original's packets: a router may rewrite the ID of a packet that has it
    /// on (RFC 6864), and the ID is part of the knock.
    fn ipv4_header(&self, source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
        let mut bytes = vec![0; IPV4_HEADER_LEN.into()];
        #[expect(clippy::expect_used, reason = "the buffer is made as long as the header")]
        let mut header = MutableIpv4Packet::new(&mut bytes).expect("room for an IPv4 header");
        header.set_version(4);
        header.set_header_length(IPV4_HEADER_LEN / 4);
        header.set_total_length((IPV4_HEADER_LEN + TCP_HEADER_LEN).into());
        header.set_identification(self.fields.id);
        header.set_ttl(TTL);
        header.set_next_level_protocol(IpNextHeaderProtocols::Tcp);
        header.set_source(source);
        header.set_destination(destination);
        header.set_checksum(ipv4::checksum(&header.to_immutable()));
        bytes
    }

    fn ipv6_header(&self, source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
        let mut bytes = vec![0; IPV6_HEADER_LEN.into()];
        #[expect(clippy::expect_used, reason = "the buffer is made as long as the header")]
        let mut header = MutableIpv6Packet::new(&mut bytes).expect("room for an IPv6 header");
        header.set_version(6);
        header.set_flow_label(self.flow_label());
        header.set_payload_length(TCP_HEADER_LEN.into());
        header.set_next_header(IpNextHeaderProtocols::Tcp);
        header.set_hop_limit(TTL);
        header.set_source(source);
        header.set_destination(destination);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Request;
    use crate::layout::classic::{Keys, seal};

    /// The first knock of `tests/vectors/classic.json`, made by the original.
    fn first_vector() -> SynFields {
        let keys = Keys::new(
            0x1e80_83dc_1a39_998e_c88c_bbc4_c096_3d9d_u128.to_be_bytes(),
            0x1cd1_73d0_afad_3540_faed_ceff_8313_578e_u128.to_be_bytes(),
        );
        seal(&keys, Request(995), 4_294_967_294).unwrap()
    }

    fn packet(addresses: AddressPair) -> KnockPacket {
        let fields = first_vector();
        KnockPacket { addresses, source_port: 40_000, knock_port: 1622, fields, flow_high: 0xc }
    }

    #[test]
    fn every_byte_of_an_ipv4_knock_is_as_the_layout_says() {
        let bytes =
            packet(AddressPair::V4([192, 0, 2, 1].into(), [198, 51, 100, 7].into())).to_bytes();
        #[rustfmt::skip]
        let expected = [
            0x45, 0, 0, 40,             // version, header length; TOS; total length
            0x5a, 0x47, 0, 0,           // ID: the knock; no flags, no fragment
            64, 6, 0x34, 0x4d,          // TTL, TCP, header checksum
            192, 0, 2, 1,
            198, 51, 100, 7,
            0x9c, 0x40, 0x06, 0x56,     // ports 40000 and 1622
            0xde, 0xda, 0xd7, 0x0a,     // SEQ: the knock
            0x25, 0x69, 0xa5, 0xec,     // ACK: the knock
            0x50, 0x02, 0x67, 0xd0,     // 20 bytes of header, SYN alone; WINDOW: the knock
            0x38, 0x04, 0, 0,           // checksum, no urgent data
        ];
        assert_eq!(bytes, expected);
    }

    #[test]
    fn every_byte_of_an_ipv6_knock_is_as_the_layout_says() {
        let source: Ipv6Addr = "2001:db8::1".parse().unwrap();
        let destination: Ipv6Addr = "2001:db8:1::7".parse().unwrap();
        let bytes = packet(AddressPair::V6(source, destination)).to_bytes();
        assert_eq!(bytes.len(), 60);
        assert_eq!(bytes[..4], [0x60, 0x0c, 0x5a, 0x47], "the flow label ends in the knock's ID");
        assert_eq!(bytes[4..8], [0, 20, 6, 64]);
        assert_eq!(bytes[8..24], source.octets());
        assert_eq!(bytes[24..40], destination.octets());
        let four =
            packet(AddressPair::V4([192, 0, 2, 1].into(), [198, 51, 100, 7].into())).to_bytes();
        assert_eq!(bytes[40..56], four[20..36], "TCP up to its checksum is the same");
        assert_eq!(bytes[56..], [0xc8, 0xc5, 0, 0], "its checksum is over the IPv6 addresses");
    }

    #[test]
    fn ends_of_two_families_are_no_packet() {
        assert_eq!(AddressPair::new([192, 0, 2, 1].into(), Ipv6Addr::LOCALHOST.into()), None);
    }
}
