//! The server's log line about a knock. Pure.

use std::fmt::{self, Write as _};
use std::net::Ipv6Addr;

use super::packet::{AddressPair, EcnRequest, KnockPacket};

/// A packet as Linux logs it (`xt_LOG` and nft's `log` with TCP sequence and options), behind the prefix.
pub(super) struct LogLine<'a>(pub(super) &'a KnockPacket);

impl fmt::Display for LogLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let packet = self.0;
        let (length, class) = (packet.to_bytes().len(), packet.traffic_class);
        f.write_str("IN=eth0 OUT= MAC= ")?;
        match packet.addresses {
            AddressPair::V4(source, destination) => write!(
                f,
                "SRC={source} DST={destination} LEN={length} TOS=0x{:02X} PREC=0x{:02X} TTL={} ID={} {}",
                class & 0x1e,
                class & 0xe0,
                packet.hop_limit,
                packet.label,
                if packet.dont_fragment { "DF " } else { "" },
            )?,
            AddressPair::V6(source, destination) => write!(
                f,
                "SRC={} DST={} LEN={length} TC={class} HOPLIMIT={} FLOWLBL={} ",
                uncompressed(source),
                uncompressed(destination),
                packet.hop_limit,
                packet.label
            )?,
        }
        let (reserved, flags) = match packet.ecn {
            EcnRequest::None => (0, "SYN"),
            EcnRequest::Classic => (0, "CWR ECE SYN"),
            EcnRequest::Accurate => (4, "CWR ECE SYN"),
        };
        write!(
            f,
            "PROTO=TCP SPT={} DPT={} SEQ={} ACK={} WINDOW={} RES=0x{reserved:02x} {flags} URGP=0 ",
            packet.source_port, packet.destination_port, packet.seq, packet.ack, packet.window
        )?;
        match packet.options {
            None => Ok(()),
            Some(options) => write!(f, "OPT ({}) ", hex(&options.to_bytes())),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02X}");
        text
    })
}

/// An IPv6 address as the kernel's log prints it.
fn uncompressed(address: Ipv6Addr) -> String {
    address.segments().map(|segment| format!("{segment:04x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::knock::syn_options::SynOptions;
    use crate::syn::SynFields;

    fn packet(addresses: AddressPair) -> KnockPacket {
        let fields = SynFields { id: 4660, seq: 305_419_896, ack: 2_271_560_481, window: 4321 };
        KnockPacket::classic(addresses, 2743, 666, fields, 1)
    }

    #[test]
    fn the_log_line_is_the_one_that_linux_printed_for_such_a_packet() {
        // From tests/vectors/kernel-log, but for the interface and its MAC addresses.
        let line = LogLine(&packet(AddressPair::V4([10, 99, 0, 2].into(), [10, 99, 0, 1].into())))
            .to_string();
        assert_eq!(
            line,
            "IN=eth0 OUT= MAC= SRC=10.99.0.2 DST=10.99.0.1 LEN=40 TOS=0x00 PREC=0x00 TTL=64 ID=4660 \
             PROTO=TCP SPT=2743 DPT=666 SEQ=305419896 ACK=2271560481 WINDOW=4321 RES=0x00 SYN URGP=0 "
        );
    }

    #[test]
    fn ipv6_addresses_and_the_flow_label_are_printed_as_linux_prints_them() {
        let addresses = AddressPair::V6("fd99::2".parse().unwrap(), "fd99::1".parse().unwrap());
        let line = LogLine(&packet(addresses)).to_string();
        let expected = "SRC=fd99:0000:0000:0000:0000:0000:0000:0002 DST=fd99:0000:0000:0000:0000:0000:0000:0001 \
                        LEN=60 TC=0 HOPLIMIT=64 FLOWLBL=70196 PROTO=TCP";
        assert!(line.contains(expected), "{line}");
    }

    #[test]
    fn options_and_flags_are_printed_too() {
        let options = SynOptions { mss: 1460, sack: true, timestamp: 7, window_scale: Some(10) };
        let plain = packet(AddressPair::V4([10, 99, 0, 2].into(), [10, 99, 0, 1].into()));
        let packet = KnockPacket {
            dont_fragment: true,
            traffic_class: 0xb6,
            ecn: EcnRequest::Accurate,
            options: Some(options),
            ..plain
        };
        let line = LogLine(&packet).to_string();
        for part in [
            "LEN=60 TOS=0x16 PREC=0xA0 TTL=64 ID=4660 DF PROTO=TCP",
            "RES=0x04 CWR ECE SYN URGP=0 OPT (020405B40402080A00000007000000000103030A) ",
        ] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
}
