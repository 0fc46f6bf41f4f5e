//! Whether a packet that came back answers a knock: a refusal by the closed port, usually. It says that the knock
//! has arrived, so that the server's log has it; whether the server accepts it, nothing says. Pure.

use std::fmt;

use nix::errno::Errno;
use pnet::packet::ipv4::Ipv4Packet;
use pnet::packet::tcp::{TcpFlags, TcpPacket};

use super::packet::{AddressPair, KnockPacket};

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// An RST, as from a closed port.
    Refused,
    /// A SYN-ACK: something listens on this port.
    Accepted(u16),
    /// An ICMP error, from the host or on the way.
    Icmp(Errno),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("refused"),
            Self::Accepted(port) => write!(f, "accepted: something listens on port {port}"),
            Self::Icmp(why) => write!(f, "ICMP: {}", why.desc()),
        }
    }
}

/// What `bytes`, as a raw socket gives them, answer to `packet`.
pub(super) fn answer_in(bytes: &[u8], packet: &KnockPacket) -> Option<Answer> {
    let segment = match packet.addresses {
        AddressPair::V4(..) => {
            let header = Ipv4Packet::new(bytes).filter(|header| header.get_header_length() >= 5)?;
            bytes.get(usize::from(header.get_header_length()) * 4..)?
        }
        // The kernel leaves the IPv6 header out.
        AddressPair::V6(..) => bytes,
    };
    let tcp = TcpPacket::new(segment)?;
    let flags = tcp.get_flags();
    let ours = tcp.get_source() == packet.destination_port
        && tcp.get_destination() == packet.source_port
        && flags & TcpFlags::ACK != 0
        && tcp.get_acknowledgement() == packet.seq.wrapping_add(1);
    if !ours {
        None
    } else if flags & TcpFlags::RST != 0 {
        Some(Answer::Refused)
    } else if flags & TcpFlags::SYN != 0 {
        Some(Answer::Accepted(packet.destination_port))
    } else {
        None
    }
}

/// Whether the beginning of a TCP header that an ICMP error quotes is that of `packet`. It may be no more than 8 bytes.
pub(super) fn is_quoted(bytes: &[u8], packet: &KnockPacket) -> bool {
    let ports = [packet.source_port.to_be_bytes(), packet.destination_port.to_be_bytes()].concat();
    bytes.starts_with(&[ports, packet.seq.to_be_bytes().to_vec()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syn::SynFields;

    fn knock(addresses: AddressPair) -> KnockPacket {
        let fields = SynFields { id: 1, seq: u32::MAX, ack: 0x0102_0304, window: 5 };
        KnockPacket::classic(addresses, 40_000, 666, fields, 0)
    }

    fn v4() -> KnockPacket {
        knock(AddressPair::V4([192, 0, 2, 1].into(), [192, 0, 2, 2].into()))
    }

    fn v6() -> KnockPacket {
        knock(AddressPair::V6("fd99::1".parse().unwrap(), "fd99::2".parse().unwrap()))
    }

    /// A TCP header from port 666 to 40000 that acknowledges what `v4` and `v6` sent.
    fn segment(flags: u8) -> Vec<u8> {
        #[rustfmt::skip]
        let bytes = vec![
            0x02, 0x9a, 0x9c, 0x40,
            0, 0, 0, 0,
            0, 0, 0, 0,                 // SEQ of the knock and one, which wraps
            0x50, flags, 0, 0,
            0, 0, 0, 0,
        ];
        bytes
    }

    /// The same behind an IPv4 header of `words` times 4 bytes.
    fn packet(words: u8, flags: u8) -> Vec<u8> {
        let mut bytes = vec![0; usize::from(words) * 4];
        bytes[0] = 0x40 | words;
        bytes.extend(segment(flags));
        bytes
    }

    #[test]
    fn an_rst_is_a_refusal_and_a_syn_ack_an_open_port() {
        for (flags, answer) in [
            (0x14, Some(Answer::Refused)),
            (0x12, Some(Answer::Accepted(666))),
            (0x10, None),
            (0x04, None),
            (0x02, None),
        ] {
            assert_eq!(answer_in(&segment(flags), &v6()), answer, "{flags:#x}");
            for words in [5, 6, 15] {
                assert_eq!(answer_in(&packet(words, flags), &v4()), answer, "{flags:#x}");
            }
        }
    }

    #[test]
    fn what_answers_another_packet_is_no_answer() {
        // Each byte of the ports and of the acknowledgement counts.
        for nth in [0, 1, 2, 3, 8, 9, 10, 11] {
            let mut bytes = segment(0x14);
            bytes[nth] ^= 1;
            assert_eq!(answer_in(&bytes, &v6()), None, "byte {nth}");
        }
    }

    #[test]
    fn no_bytes_make_it_fail() {
        for packet_of in [v4(), v6()] {
            for words in 1..=15 {
                let whole = packet(words, 0x14);
                for len in 0..=whole.len() {
                    let answer = answer_in(&whole[..len], &packet_of);
                    let right = words >= 5 && len == whole.len() && packet_of == v4();
                    assert_eq!(answer.is_some(), right, "{words} words, {len} bytes");
                }
            }
        }
    }

    #[test]
    fn an_icmp_error_is_ours_by_the_ports_and_sequence_number_that_it_quotes() {
        let quoted = [0x9c, 0x40, 0x02, 0x9a, 0xff, 0xff, 0xff, 0xff];
        assert!(is_quoted(&quoted, &v4()));
        assert!(is_quoted(&[&quoted[..], &[1, 2, 3]].concat(), &v6()));
        assert!(!is_quoted(&quoted[..7], &v4()));
        for nth in 0..8 {
            let mut other = quoted;
            other[nth] ^= 1;
            assert!(!is_quoted(&other, &v4()), "byte {nth}");
        }
    }

    #[test]
    fn what_came_back_is_said_in_words() {
        for (answer, words) in [
            (Answer::Refused, "refused"),
            (Answer::Accepted(22), "accepted: something listens on port 22"),
            (Answer::Icmp(Errno::EHOSTUNREACH), "ICMP: No route to host"),
        ] {
            assert_eq!(answer.to_string(), words);
        }
    }
}
