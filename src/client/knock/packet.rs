//! The bytes of a knock: one TCP SYN with its IP header. Pure: no socket, no clock, no randomness of its own.
//!
//! What the classic layout leaves free is chosen here, once, for both families; what the stealth layout leaves free is
//! the kernel's choice (`kernel_syn`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::{self, Ipv4Flags, MutableIpv4Packet};
use pnet::packet::ipv6::MutableIpv6Packet;
use pnet::packet::tcp::{self, MutableTcpPacket, TcpFlags};

use super::syn_options::SynOptions;
use crate::syn::SynFields;

const IPV4_HEADER_LEN: u8 = 20;
const IPV6_HEADER_LEN: u8 = 40;
const TCP_HEADER_LEN: u8 = 20;

/// Hops that a classic knock may travel: what Linux gives its own packets.
const TTL: u8 = 64;

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

/// What a SYN asks the other side for concerning Explicit Congestion Notification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EcnRequest {
    /// Nothing.
    #[default]
    None,
    /// ECE and CWR (RFC 3168).
    Classic,
    /// AE, ECE and CWR (RFC 9768).
    Accurate,
}

impl EcnRequest {
    /// The flags of the second byte, and the lowest bit of what was reserved before it.
    fn flags(self) -> (u8, u8) {
        match self {
            Self::None => (0, 0),
            Self::Classic => (TcpFlags::ECE | TcpFlags::CWR, 0),
            Self::Accurate => (TcpFlags::ECE | TcpFlags::CWR, 1),
        }
    }
}

/// One knock, ready to be put into bytes: a SYN with nothing in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnockPacket {
    /// Where from and where to.
    pub addresses: AddressPair,
    /// Where the answer would go.
    pub source_port: u16,
    /// The port that is knocked at.
    pub destination_port: u16,
    /// IPv4: the identification field; the kernel replaces 0. IPv6: the flow label, 20 bits.
    pub label: u32,
    /// TTL, or hop limit.
    pub hop_limit: u8,
    /// TOS, or traffic class.
    pub traffic_class: u8,
    /// IPv4: no router may fragment it.
    pub dont_fragment: bool,
    /// TCP sequence number.
    pub seq: u32,
    /// TCP acknowledgement number.
    pub ack: u32,
    /// TCP window.
    pub window: u16,
    /// The flags beside SYN.
    pub ecn: EcnRequest,
    /// TCP options, if any.
    pub options: Option<SynOptions>,
}

impl KnockPacket {
    /// A knock of the classic layout, which has no TCP options. `flow_high`: IPv6, the upper 4 bits of the flow label.
    /// They carry nothing; a kernel's own labels are 20 random bits.
    ///
    /// "Don't fragment" stays off, as in the original's packets: a router may rewrite the ID of a packet that has it
    /// on (RFC 6864), and the ID is part of the knock.
    #[must_use]
    pub fn classic(
        addresses: AddressPair,
        source_port: u16,
        knock_port: u16,
        fields: SynFields,
        flow_high: u8,
    ) -> Self {
        let high = match addresses {
            AddressPair::V4(..) => 0,
            AddressPair::V6(..) => u32::from(flow_high & 0xf) << 16,
        };
        Self {
            addresses,
            source_port,
            destination_port: knock_port,
            label: high | u32::from(fields.id),
            hop_limit: TTL,
            traffic_class: 0,
            dont_fragment: false,
            seq: fields.seq,
            ack: fields.ack,
            window: fields.window,
            ecn: EcnRequest::None,
            options: None,
        }
    }

    /// The whole packet: 40 bytes for IPv4, 60 for IPv6, and as many as the options have.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let (segment, length) = self.segment();
        let mut packet = match self.addresses {
            AddressPair::V4(source, destination) => self.ipv4_header(source, destination, length),
            AddressPair::V6(source, destination) => self.ipv6_header(source, destination, length),
        };
        packet.extend_from_slice(&segment);
        packet
    }

    /// The TCP header, and its length.
    fn segment(&self) -> (Vec<u8>, u16) {
        let options = self.options.map(SynOptions::to_bytes).unwrap_or_default();
        #[expect(clippy::cast_possible_truncation, reason = "the options are 20 bytes at most")]
        let words = TCP_HEADER_LEN / 4 + (options.len() / 4) as u8;
        let mut bytes = vec![0; TCP_HEADER_LEN.into()];
        bytes.extend(options);
        let (flags, reserved) = self.ecn.flags();
        #[expect(clippy::expect_used, reason = "the buffer is made as long as the header")]
        let mut header = MutableTcpPacket::new(&mut bytes).expect("room for a TCP header");
        header.set_source(self.source_port);
        header.set_destination(self.destination_port);
        header.set_sequence(self.seq);
        header.set_acknowledgement(self.ack);
        header.set_data_offset(words);
        header.set_reserved(reserved);
        header.set_flags(TcpFlags::SYN | flags);
        header.set_window(self.window);
        let checksum = match &self.addresses {
            AddressPair::V4(source, destination) => {
                tcp::ipv4_checksum(&header.to_immutable(), source, destination)
            }
            AddressPair::V6(source, destination) => {
                tcp::ipv6_checksum(&header.to_immutable(), source, destination)
            }
        };
        // The two are the same number in ones' complement, and Linux writes the second (`skb_checksum_help`).
        header.set_checksum(if checksum == 0 { 0xffff } else { checksum });
        (bytes, u16::from(words) * 4)
    }

    fn ipv4_header(&self, source: Ipv4Addr, destination: Ipv4Addr, payload: u16) -> Vec<u8> {
        let mut bytes = vec![0; IPV4_HEADER_LEN.into()];
        #[expect(clippy::expect_used, reason = "the buffer is made as long as the header")]
        let mut header = MutableIpv4Packet::new(&mut bytes).expect("room for an IPv4 header");
        header.set_version(4);
        header.set_header_length(IPV4_HEADER_LEN / 4);
        header.set_dscp(self.traffic_class >> 2);
        header.set_ecn(self.traffic_class & 3);
        header.set_total_length(u16::from(IPV4_HEADER_LEN) + payload);
        header.set_identification((self.label & 0xffff) as u16);
        header.set_flags(if self.dont_fragment { Ipv4Flags::DontFragment } else { 0 });
        header.set_ttl(self.hop_limit);
        header.set_next_level_protocol(IpNextHeaderProtocols::Tcp);
        header.set_source(source);
        header.set_destination(destination);
        header.set_checksum(ipv4::checksum(&header.to_immutable()));
        bytes
    }

    fn ipv6_header(&self, source: Ipv6Addr, destination: Ipv6Addr, payload: u16) -> Vec<u8> {
        let mut bytes = vec![0; IPV6_HEADER_LEN.into()];
        #[expect(clippy::expect_used, reason = "the buffer is made as long as the header")]
        let mut header = MutableIpv6Packet::new(&mut bytes).expect("room for an IPv6 header");
        header.set_version(6);
        header.set_traffic_class(self.traffic_class);
        header.set_flow_label(self.label & 0xf_ffff);
        header.set_payload_length(payload);
        header.set_next_header(IpNextHeaderProtocols::Tcp);
        header.set_hop_limit(self.hop_limit);
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
        KnockPacket::classic(addresses, 40_000, 1622, first_vector(), 0xc)
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

    fn with_options(addresses: AddressPair, ecn: EcnRequest) -> Vec<u8> {
        let options = SynOptions { mss: 1460, sack: true, timestamp: 7, window_scale: Some(10) };
        let packet = KnockPacket {
            label: 0xc_1234,
            hop_limit: 33,
            traffic_class: 0xb6,
            dont_fragment: true,
            ecn,
            options: Some(options),
            ..packet(addresses)
        };
        packet.to_bytes()
    }

    #[test]
    fn a_checksum_of_zero_is_written_as_the_kernel_writes_it() {
        let addresses = AddressPair::V4([192, 0, 2, 1].into(), [198, 51, 100, 7].into());
        let checksum = |window| {
            let packet = KnockPacket { window, ..packet(addresses) };
            u16::from_be_bytes(packet.to_bytes()[36..38].try_into().unwrap())
        };
        // What is added to the sum makes it all ones.
        let window = checksum(0);
        assert_eq!(checksum(window), 0xffff);
        assert_eq!(checksum(window + 1), 0xfffe);
    }

    #[test]
    fn a_packet_has_the_options_and_flags_that_it_is_given() {
        let addresses = AddressPair::V4([192, 0, 2, 1].into(), [198, 51, 100, 7].into());
        let bytes = with_options(addresses, EcnRequest::Classic);
        assert_eq!(bytes[..10], [0x45, 0xb6, 0, 60, 0x12, 0x34, 0x40, 0, 33, 6]);
        assert_eq!(bytes[32..34], [0xa0, 0xc2], "40 bytes of header; CWR, ECE, SYN");
        assert_eq!(bytes[40..44], [2, 4, 5, 0xb4]);
        assert_eq!(bytes.len(), 60);
        assert_eq!(with_options(addresses, EcnRequest::Accurate)[32..34], [0xa1, 0xc2]);
        assert_eq!(with_options(addresses, EcnRequest::None)[32..34], [0xa0, 0x02]);

        let [source, destination] = ["2001:db8::1", "2001:db8:1::7"].map(|ip| ip.parse().unwrap());
        let bytes = with_options(AddressPair::V6(source, destination), EcnRequest::None);
        assert_eq!(bytes[..8], [0x6b, 0x6c, 0x12, 0x34, 0, 40, 6, 33]);
        assert_eq!(bytes.len(), 80);
    }

    #[test]
    fn ends_of_two_families_are_no_packet() {
        assert_eq!(AddressPair::new([192, 0, 2, 1].into(), Ipv6Addr::LOCALHOST.into()), None);
    }
}
