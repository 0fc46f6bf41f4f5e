//! What `knock --dry-run` shows: the knock that would be next, field by field, and the server's log line about it.

use std::fmt;
use std::net::Ipv6Addr;

use super::error::KnockError;
use super::knocker::{self, Knocker};
use super::packet::{AddressPair, KnockPacket};
use super::route::Route;
use crate::layout::Request;
use crate::layout::classic::{self, SealError};

/// The knock that `knocker` would send along `route` with the first counter from `counter` on: that, and the packet.
/// Spends nothing.
pub(crate) fn next_packet(
    knocker: &Knocker,
    route: &Route,
    request: Request,
    mut counter: u32,
) -> Result<(u32, KnockPacket), KnockError> {
    let keys = knocker::classic_keys(&knocker.profile)?;
    loop {
        match classic::seal(keys, request, counter) {
            Ok(fields) => {
                let packet = knocker::packet(&knocker.profile, route, fields)
                    .map_err(KnockError::RawSocket)?;
                return Ok((counter, packet));
            }
            Err(SealError::ZeroId) => counter += 1,
            Err(SealError::Spent) => return Err(KnockError::Spent(knocker.profile.name.clone())),
        }
    }
}

/// A packet field by field, and the server's log line about it.
pub(crate) struct DryRun<'a> {
    /// The profile's name.
    pub(crate) host: &'a str,
    /// What the knock asks for.
    pub(crate) request: Request,
    /// The counter that it would spend.
    pub(crate) counter: u32,
    /// The packet.
    pub(crate) packet: KnockPacket,
}

impl fmt::Display for DryRun<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, request, counter, packet } = self;
        writeln!(f, "{host:?}: this would be sent; nothing was, and no counter is spent.")?;
        writeln!(
            f,
            "Whoever sees these numbers can send them first, from anywhere: keep them to yourself."
        )?;
        let mut field = |name: &str, value: &dyn fmt::Display, note: &str| {
            let line = format!("  {name:<15} {value:<12} {note}");
            writeln!(f, "{}", line.trim_end())
        };
        field("asks for", &format!("port {}", request.0), "")?;
        field("counter", counter, "made durable before the packet leaves")?;
        match packet.addresses {
            AddressPair::V4(source, destination) => {
                field("IP version", &4, "40 bytes, no options, may be fragmented")?;
                field("source", &source, "")?;
                field("destination", &destination, "")?;
                field("ID", &packet.label, "the knock, bits 0 to 15")?;
            }
            AddressPair::V6(source, destination) => {
                field("IP version", &6, "60 bytes, no extension headers")?;
                field("source", &source, "")?;
                field("destination", &destination, "")?;
                field("flow label", &packet.label, "its low 16 bits: the knock, bits 0 to 15")?;
            }
        }
        field("TTL", &packet.hop_limit, "less one for each router")?;
        field("source port", &packet.source_port, "random")?;
        field("port", &packet.destination_port, "the profile's knock port")?;
        field("SEQ", &packet.seq, "the knock, bits 16 to 47")?;
        field("ACK", &packet.ack, "the knock, bits 48 to 79")?;
        field("window", &packet.window, "the knock, bits 80 to 95")?;
        field("flags", &"SYN", "alone; no TCP options, no data")?;
        writeln!(
            f,
            "The server's log, behind the prefix of what logs it, if the knock arrives on eth0:"
        )?;
        writeln!(f, "  {}", LogLine(packet))
    }
}

/// A packet as Linux logs it (`xt_LOG` and nft's `log` with TCP sequence and options), behind the prefix.
struct LogLine<'a>(&'a KnockPacket);

impl fmt::Display for LogLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let packet = self.0;
        f.write_str("IN=eth0 OUT= MAC= ")?;
        match packet.addresses {
            AddressPair::V4(source, destination) => write!(
                f,
                "SRC={source} DST={destination} LEN=40 TOS=0x00 PREC=0x00 TTL={} ID={} ",
                packet.hop_limit, packet.label
            )?,
            AddressPair::V6(source, destination) => write!(
                f,
                "SRC={} DST={} LEN=60 TC=0 HOPLIMIT={} FLOWLBL={} ",
                uncompressed(source),
                uncompressed(destination),
                packet.hop_limit,
                packet.label
            )?,
        }
        write!(
            f,
            "PROTO=TCP SPT={} DPT={} SEQ={} ACK={} WINDOW={} RES=0x00 SYN URGP=0 ",
            packet.source_port, packet.destination_port, packet.seq, packet.ack, packet.window
        )
    }
}

/// An IPv6 address as the kernel's log prints it.
fn uncompressed(address: Ipv6Addr) -> String {
    address.segments().map(|segment| format!("{segment:04x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn a_dry_run_shows_every_field_that_carries_the_knock() {
        let packet = packet(AddressPair::V4([10, 99, 0, 2].into(), [10, 99, 0, 1].into()));
        let text = DryRun { host: "h", request: Request(22), counter: 9, packet }.to_string();
        for value in
            ["port 22", " 9 ", "10.99.0.1", "4660", "305419896", "2271560481", "4321", "666"]
        {
            assert!(text.contains(value), "{value} in {text}");
        }
    }
}
