//! A segment as the bytes of an IP packet. Pure.

use std::net::IpAddr;

use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::{self, MutableIpv4Packet};
use pnet::packet::ipv6::MutableIpv6Packet;
use pnet::packet::tcp::MutableTcpPacket;

use super::segment::{END, Ip, NOP, Segment, TcpOption, checksum};

impl Segment {
    /// The IP packet. Lengths and the data offset are those of what is in it, and the checksums are right.
    pub(crate) fn to_packet(&self) -> Vec<u8> {
        let mut options = Vec::new();
        for TcpOption { kind, value } in &self.options {
            options.push(*kind);
            if !matches!(*kind, END | NOP) {
                options.push(u8::try_from(value.len() + 2).unwrap());
                options.extend(value);
            }
        }
        assert!(options.len().is_multiple_of(4), "{options:?} are padded to words");
        let mut bytes = [vec![0; 20], options].concat();
        let words = u8::try_from(bytes.len() / 4).unwrap();
        let mut tcp = MutableTcpPacket::new(&mut bytes).unwrap();
        tcp.set_source(self.source.port());
        tcp.set_destination(self.destination.port());
        tcp.set_sequence(self.sequence);
        tcp.set_acknowledgement(self.acknowledgement);
        tcp.set_data_offset(words);
        tcp.set_reserved(u8::try_from(self.flags >> 8).unwrap());
        tcp.set_flags(u8::try_from(self.flags & 0xff).unwrap());
        tcp.set_window(self.window);
        tcp.set_urgent_ptr(self.urgent);
        let sum = checksum(&tcp.to_immutable(), self.source.ip(), self.destination.ip());
        tcp.set_checksum(sum);
        [self.ip_header(u16::try_from(bytes.len()).unwrap()), bytes].concat()
    }

    fn ip_header(&self, payload: u16) -> Vec<u8> {
        match (&self.ip, self.source.ip(), self.destination.ip()) {
            (Ip::V4 { tos, id, fragment, ttl, .. }, IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut bytes = vec![0; 20];
                let mut header = MutableIpv4Packet::new(&mut bytes).unwrap();
                header.set_version(4);
                header.set_header_length(5);
                header.set_dscp(tos >> 2);
                header.set_ecn(tos & 3);
                header.set_total_length(20 + payload);
                header.set_identification(*id);
                header.set_flags(u8::try_from(fragment >> 13).unwrap());
                header.set_fragment_offset(fragment & 0x1fff);
                header.set_ttl(*ttl);
                header.set_next_level_protocol(IpNextHeaderProtocols::Tcp);
                header.set_source(from);
                header.set_destination(to);
                header.set_checksum(ipv4::checksum(&header.to_immutable()));
                bytes
            }
            (Ip::V6 { class, flow_label, hop_limit, .. }, IpAddr::V6(from), IpAddr::V6(to)) => {
                let mut bytes = vec![0; 40];
                let mut header = MutableIpv6Packet::new(&mut bytes).unwrap();
                header.set_version(6);
                header.set_traffic_class(*class);
                header.set_flow_label(*flow_label);
                header.set_payload_length(payload);
                header.set_next_header(IpNextHeaderProtocols::Tcp);
                header.set_hop_limit(*hop_limit);
                header.set_source(from);
                header.set_destination(to);
                bytes
            }
            pair => panic!("two families: {pair:?}"),
        }
    }
}
