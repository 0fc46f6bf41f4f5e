//! One TCP segment with everything in its headers, read from a frame. Pure.

use std::net::{IpAddr, SocketAddr};

use pnet::packet::Packet as _;
use pnet::packet::ethernet::{EtherTypes, EthernetPacket};
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::{self, Ipv4Packet};
use pnet::packet::ipv6::Ipv6Packet;
use pnet::packet::tcp::{self, TcpPacket};

/// The kinds of options that a kernel's SYN has.
pub(crate) const MSS: u8 = 2;
pub(crate) const WINDOW_SCALE: u8 = 3;
pub(crate) const TIMESTAMPS: u8 = 8;
pub(super) const END: u8 = 0;
pub(super) const NOP: u8 = 1;

/// A TCP segment and the header that carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) ip: Ip,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    /// In words of 32 bits.
    pub(crate) data_offset: u8,
    /// All twelve bits after the data offset: reserved, then the flags.
    pub(crate) flags: u16,
    pub(crate) window: u16,
    pub(crate) has_right_checksum: bool,
    pub(crate) urgent: u16,
    /// As they stand, padding too.
    pub(crate) options: Vec<TcpOption>,
}

/// What is in the header below TCP, but for the addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ip {
    V4 {
        /// In words of 32 bits.
        header_length: u8,
        tos: u8,
        total_length: u16,
        id: u16,
        /// Three flags and the fragment offset.
        fragment: u16,
        ttl: u8,
        has_right_checksum: bool,
    },
    V6 {
        class: u8,
        /// 20 bits.
        flow_label: u32,
        payload_length: u16,
        hop_limit: u8,
    },
}

/// A TCP option; the two that are one byte long have no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TcpOption {
    pub(crate) kind: u8,
    pub(crate) value: Vec<u8>,
}

impl Segment {
    /// The segment in an Ethernet frame. `None` where it is of another protocol, or cut off.
    pub(crate) fn read(frame: &[u8]) -> Option<Self> {
        let ethernet = EthernetPacket::new(frame)?;
        let packet = ethernet.payload();
        match ethernet.get_ethertype() {
            EtherTypes::Ipv4 => {
                let header = Ipv4Packet::new(packet)?;
                let addresses = (header.get_source().into(), header.get_destination().into());
                let end = usize::from(header.get_total_length());
                let payload = packet.get(usize::from(header.get_header_length()) * 4..end)?;
                let is_tcp = header.get_next_level_protocol() == IpNextHeaderProtocols::Tcp;
                let ip = Ip::V4 {
                    header_length: header.get_header_length(),
                    tos: header.get_dscp() << 2 | header.get_ecn(),
                    total_length: header.get_total_length(),
                    id: header.get_identification(),
                    fragment: u16::from(header.get_flags()) << 13 | header.get_fragment_offset(),
                    ttl: header.get_ttl(),
                    has_right_checksum: header.get_checksum() == ipv4::checksum(&header),
                };
                is_tcp.then(|| Self::read_tcp(ip, addresses, payload))?
            }
            EtherTypes::Ipv6 => {
                let header = Ipv6Packet::new(packet)?;
                let addresses = (header.get_source().into(), header.get_destination().into());
                let payload = packet.get(40..)?.get(..usize::from(header.get_payload_length()))?;
                let ip = Ip::V6 {
                    class: header.get_traffic_class(),
                    flow_label: header.get_flow_label(),
                    payload_length: header.get_payload_length(),
                    hop_limit: header.get_hop_limit(),
                };
                (header.get_next_header() == IpNextHeaderProtocols::Tcp)
                    .then(|| Self::read_tcp(ip, addresses, payload))?
            }
            _ => None,
        }
    }

    fn read_tcp(ip: Ip, (source, destination): (IpAddr, IpAddr), bytes: &[u8]) -> Option<Self> {
        let tcp = TcpPacket::new(bytes)?;
        let options = bytes.get(20..usize::from(tcp.get_data_offset()) * 4)?;
        Some(Self {
            ip,
            source: SocketAddr::new(source, tcp.get_source()),
            destination: SocketAddr::new(destination, tcp.get_destination()),
            sequence: tcp.get_sequence(),
            acknowledgement: tcp.get_acknowledgement(),
            data_offset: tcp.get_data_offset(),
            flags: u16::from(tcp.get_reserved()) << 8 | u16::from(tcp.get_flags()),
            window: tcp.get_window(),
            has_right_checksum: sent(tcp.get_checksum()) == checksum(&tcp, source, destination),
            urgent: tcp.get_urgent_ptr(),
            options: read_options(options),
        })
    }

    /// The value of the first option of a kind.
    pub(crate) fn option(&self, kind: u8) -> Option<&[u8]> {
        self.options.iter().find(|option| option.kind == kind).map(|option| &option.value[..])
    }

    /// The two values of the timestamp option (RFC 7323): the sender's clock, and what it echoes.
    pub(crate) fn timestamps(&self) -> Option<(u32, u32)> {
        let (value, echo) = self.option(TIMESTAMPS)?.split_first_chunk()?;
        Some((u32::from_be_bytes(*value), u32::from_be_bytes(echo.try_into().ok()?)))
    }

    /// Sets the two values of the timestamp option, where there is one.
    pub(crate) fn set_timestamps(&mut self, value: u32, echo: u32) {
        let option = self.options.iter_mut().find(|option| option.kind == TIMESTAMPS);
        if let Some(option) = option {
            option.value = [value.to_be_bytes(), echo.to_be_bytes()].concat();
        }
    }
}

/// A checksum as Linux sends it: 0 and 0xffff are the same number in ones' complement, and it writes the second.
fn sent(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

pub(super) fn checksum(tcp: &TcpPacket<'_>, source: IpAddr, destination: IpAddr) -> u16 {
    sent(match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            tcp::ipv4_checksum(tcp, &source, &destination)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            tcp::ipv6_checksum(tcp, &source, &destination)
        }
        pair => panic!("two families: {pair:?}"),
    })
}

/// An option whose length is a lie takes all the bytes that are left.
fn read_options(mut bytes: &[u8]) -> Vec<TcpOption> {
    let mut options = Vec::new();
    while let Some((&kind, rest)) = bytes.split_first() {
        let length = match kind {
            END | NOP => 0,
            _ => rest.first().map_or(0, |length| usize::from(*length).max(2) - 1).min(rest.len()),
        };
        let (whole, after) = rest.split_at(length);
        options.push(TcpOption { kind, value: whole.get(1..).unwrap_or_default().to_vec() });
        bytes = after;
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first SYN of a capture that tcpdump made of Linux 6.18, and says of: tos 0x0, ttl 64, id 12670, [DF], length 60,
    /// cksum 0x7b40 (correct), seq 3949412816, win 64240, options [mss 1460,sackOK,TS val 445090236 ecr 0,nop,wscale 10].
    const SYN: &str = "4500003c317e40004006e2750a6309020a630901d9360051eb6741d000000000a002faf07b400000020405b40402080a\
                       1a8789bc000000000103030a";

    fn frame(packet: &[u8]) -> Vec<u8> {
        [&[0; 12][..], &[8, 0], packet].concat()
    }

    fn syn() -> Vec<u8> {
        let digits: Vec<u8> = SYN.bytes().collect();
        let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    #[test]
    fn every_field_is_read_and_written_as_it_stands() {
        let segment = Segment::read(&frame(&syn())).unwrap();
        assert_eq!(
            segment.ip,
            Ip::V4 {
                header_length: 5,
                tos: 0,
                total_length: 60,
                id: 12670,
                fragment: 0x4000,
                ttl: 64,
                has_right_checksum: true
            }
        );
        assert_eq!(segment.source, "10.99.9.2:55606".parse().unwrap());
        assert_eq!(segment.destination, "10.99.9.1:81".parse().unwrap());
        assert_eq!((segment.sequence, segment.acknowledgement), (3_949_412_816, 0));
        assert_eq!((segment.flags, segment.window, segment.urgent), (2, 64240, 0));
        assert!(segment.has_right_checksum);
        let kinds: Vec<u8> = segment.options.iter().map(|option| option.kind).collect();
        assert_eq!(kinds, [2, 4, 8, 1, 3]);
        assert_eq!(segment.option(MSS), Some(&1460_u16.to_be_bytes()[..]));
        assert_eq!(segment.option(WINDOW_SCALE), Some(&[10][..]));
        assert_eq!(segment.timestamps(), Some((445_090_236, 0)));
        assert_eq!(segment.to_packet(), syn());
    }

    #[test]
    fn a_wrong_checksum_is_seen_and_a_cut_packet_is_none() {
        let right = syn();
        for (byte, tcp_is_right, ip_is_right) in [(8, true, false), (25, false, true)] {
            let mut bytes = right.clone();
            bytes[byte] ^= 1;
            let segment = Segment::read(&frame(&bytes)).unwrap();
            assert_eq!(segment.has_right_checksum, tcp_is_right);
            assert!(
                matches!(segment.ip, Ip::V4 { has_right_checksum, .. } if has_right_checksum == ip_is_right)
            );
        }
        for length in 0..right.len() {
            assert_eq!(Segment::read(&frame(&right[..length])), None, "{length}");
        }
    }

    #[test]
    fn both_zeros_of_a_checksum_are_right() {
        let mut segment = Segment::read(&frame(&syn())).unwrap();
        // The checksum falls by what the sequence number grows by.
        segment.sequence += 0x7b40;
        let mut packet = segment.to_packet();
        assert_eq!(packet[36..38], [0xff, 0xff]);
        for zero in [0, 0xff] {
            packet[36..38].fill(zero);
            assert!(Segment::read(&frame(&packet)).unwrap().has_right_checksum);
        }
    }

    #[test]
    fn options_with_a_wrong_length_end_the_list() {
        let kinds = |bytes: &[u8]| -> Vec<u8> {
            read_options(bytes).iter().map(|option| option.kind).collect()
        };
        assert_eq!(kinds(&[1, 1, 2, 4, 5, 180]), [1, 1, 2]);
        assert_eq!(kinds(&[8, 40, 1, 1]), [8]);
        assert_eq!(kinds(&[8, 0, 1, 8]), [8, 1, 8]);
    }
}
