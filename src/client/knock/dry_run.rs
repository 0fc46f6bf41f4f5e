//! What `knock --dry-run` shows: the knock that would be next, field by field, and the server's log line about it.

use std::fmt;

use super::error::KnockError;
use super::kernel_syn::KernelSyn;
use super::knocker::{self, Knocker, step_now};
use super::log_line::LogLine;
use super::packet::{AddressPair, EcnRequest, KnockPacket};
use super::route::Route;
use crate::layout::Request;
use crate::layout::classic::{self, SealError};
use crate::layout::keys::{Layout, LayoutKeys};
use crate::layout::steps::StealthSender;

/// The knocks that a profile would send, one after the other. Spends nothing.
pub(crate) struct NextKnocks<'k> {
    knocker: &'k Knocker,
    /// Classic: the next counter alone.
    sender: StealthSender,
}

impl<'k> NextKnocks<'k> {
    /// Begins with the one that would be next now.
    pub(crate) fn of(knocker: &'k Knocker) -> Result<Self, KnockError> {
        let sender = match knocker.profile.config.layout {
            Layout::Classic => {
                StealthSender { counter: knocker.next_counter()?, ..StealthSender::default() }
            }
            Layout::Stealth => knocker.counter.sender()?,
        };
        Ok(Self { knocker, sender })
    }

    /// The next one along `route`: its counter and its packet.
    pub(crate) fn along(
        &mut self,
        route: &Route,
        request: Request,
    ) -> Result<(u64, KnockPacket), KnockError> {
        match &self.knocker.profile.keys {
            LayoutKeys::Classic(keys) => self.classic(keys, route, request),
            LayoutKeys::Stealth(keys) => {
                let syn = KernelSyn::for_route(route, self.knocker.knock_port(request)?)?;
                let number = self.sender.next(step_now()).ok_or_else(|| self.spent())?;
                let fields = keys.seal(number, request, self.knocker.bound_to(route));
                Ok((number, syn.carrying(fields).0))
            }
        }
    }

    fn classic(
        &mut self,
        keys: &classic::Keys,
        route: &Route,
        request: Request,
    ) -> Result<(u64, KnockPacket), KnockError> {
        loop {
            let counter = u32::try_from(self.sender.counter).map_err(|_| self.spent())?;
            self.sender.counter += 1;
            match classic::seal(keys, request, counter) {
                Ok(fields) => {
                    let packet = knocker::packet(&self.knocker.profile, route, fields)
                        .map_err(KnockError::RawSocket)?;
                    return Ok((counter.into(), packet));
                }
                Err(SealError::ZeroId) => {}
                Err(SealError::Spent) => return Err(self.spent()),
            }
        }
    }

    fn spent(&self) -> KnockError {
        KnockError::Spent(self.knocker.profile.name.clone())
    }
}

/// A packet field by field, and the server's log line about it.
pub(crate) struct DryRun<'a> {
    /// The profile's name.
    pub(crate) host: &'a str,
    /// The profile's layout.
    pub(crate) layout: Layout,
    /// What the knock asks for.
    pub(crate) request: Request,
    /// The counter that it would spend.
    pub(crate) counter: u64,
    /// The packet.
    pub(crate) packet: KnockPacket,
}

/// What is said about the fields in one layout.
struct Notes {
    v4: &'static str,
    v6: &'static str,
    id: &'static str,
    flow_label: &'static str,
    source_port: &'static str,
    port: &'static str,
    seq: &'static str,
    ack: &'static str,
    window: &'static str,
}

const CLASSIC: Notes = Notes {
    v4: "40 bytes, no options, may be fragmented",
    v6: "60 bytes, no extension headers",
    id: "the knock, bits 0 to 15",
    flow_label: "its low 16 bits: the knock, bits 0 to 15",
    source_port: "random",
    port: "the profile's knock port",
    seq: "the knock, bits 16 to 47",
    ack: "the knock, bits 48 to 79",
    window: "the knock, bits 80 to 95",
};

/// What no note is about is as the kernel would have it now.
const STEALTH: Notes = Notes {
    v4: "as this host's kernel would connect, but for SEQ and timestamp",
    v6: "as this host's kernel would connect, but for SEQ and timestamp",
    id: "random",
    flow_label: "",
    source_port: "another each time",
    port: "",
    seq: "the knock, bits 0 to 31",
    ack: "",
    window: "",
};

impl fmt::Display for DryRun<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, layout, request, counter, packet } = self;
        let notes = match layout {
            Layout::Classic => CLASSIC,
            Layout::Stealth => STEALTH,
        };
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
                field("IP version", &4, notes.v4)?;
                field("source", &source, "")?;
                field("destination", &destination, "")?;
                field("ID", &packet.label, notes.id)?;
            }
            AddressPair::V6(source, destination) => {
                field("IP version", &6, notes.v6)?;
                field("source", &source, "")?;
                field("destination", &destination, "")?;
                field("flow label", &packet.label, notes.flow_label)?;
            }
        }
        field("TTL", &packet.hop_limit, "less one for each router")?;
        field("source port", &packet.source_port, notes.source_port)?;
        field("port", &packet.destination_port, notes.port)?;
        field("SEQ", &packet.seq, notes.seq)?;
        field("ACK", &packet.ack, notes.ack)?;
        field("window", &packet.window, notes.window)?;
        match (packet.ecn, packet.options) {
            (_, None) => field("flags", &"SYN", "alone; no TCP options, no data")?,
            (EcnRequest::None, _) => field("flags", &"SYN", "alone; no data")?,
            (EcnRequest::Classic, _) => field("flags", &"SYN", "with ECE and CWR; no data")?,
            (EcnRequest::Accurate, _) => field("flags", &"SYN", "with AE, ECE and CWR; no data")?,
        }
        if let Some(options) = packet.options {
            field("MSS", &options.mss, "")?;
            field("SACK", &if options.sack { "permitted" } else { "no" }, "")?;
            field("timestamp", &options.timestamp, "the knock, bits 32 to 63")?;
            let scale = options.window_scale.map_or_else(|| "no".to_owned(), |n| n.to_string());
            field("window scale", &scale, "")?;
        }
        writeln!(
            f,
            "The server's log, behind the prefix of what logs it, if the knock arrives on eth0:"
        )?;
        writeln!(f, "  {}", LogLine(packet))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::knock::syn_options::SynOptions;
    use crate::syn::SynFields;

    fn classic() -> KnockPacket {
        let addresses = AddressPair::V4([10, 99, 0, 2].into(), [10, 99, 0, 1].into());
        let fields = SynFields { id: 4660, seq: 305_419_896, ack: 2_271_560_481, window: 4321 };
        KnockPacket::classic(addresses, 2743, 666, fields, 1)
    }

    fn shown(layout: Layout, packet: KnockPacket) -> String {
        DryRun { host: "h", layout, request: Request(22), counter: 9, packet }.to_string()
    }

    #[test]
    fn a_dry_run_shows_every_field_that_carries_the_knock() {
        let text = shown(Layout::Classic, classic());
        for value in
            ["port 22", " 9 ", "10.99.0.1", "4660", "305419896", "2271560481", "4321", "666"]
        {
            assert!(text.contains(value), "{value} in {text}");
        }
        let options =
            SynOptions { mss: 1460, sack: true, timestamp: 4_000_000_001, window_scale: None };
        let packet = KnockPacket { options: Some(options), ..classic() };
        let text = shown(Layout::Stealth, packet);
        for value in ["305419896", "4000000001", "1460", "permitted", "window scale    no", "OPT ("]
        {
            assert!(text.contains(value), "{value} in {text}");
        }
        assert_eq!(text.matches("the knock, bits").count(), 2, "{text}");
    }
}
