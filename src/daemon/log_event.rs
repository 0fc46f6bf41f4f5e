//! The two events that a log line can report, distinguished by its log prefix: a SYN that may be a knock, or a
//! connection through a grant.

use super::kernel_log_line::not_a_syn::NotASyn;
use super::kernel_log_line::packet::{self, NewConnection};
use super::kernel_log_line::{self, Framing};
use crate::privileged::firewall::log_rules::LogRules;
use crate::syn::LoggedSyn;

/// What lines about us begin with.
#[derive(Debug)]
pub(super) struct LogPrefixes {
    /// Our table's, with a random tag that changes at each start.
    own: LogRules,
    /// The firewall's log rule's.
    firewall: String,
    /// Whether our table logs the knocks. If so, errors in another firewall's lines do not matter.
    pub(super) own_is_enough: bool,
}

/// What a line reports.
#[derive(Debug)]
pub(super) enum LogEvent<'l> {
    /// A SYN was logged.
    Syn(LoggedSyn<'l>),
    /// A connection through a grant stands.
    NewConnection(NewConnection),
}

impl LogPrefixes {
    pub(super) fn new(own: LogRules, firewall: String, own_is_enough: bool) -> Self {
        Self { own, firewall, own_is_enough }
    }

    /// Reads a line, without its newline.
    pub(super) fn read<'l>(
        &self,
        line: &'l [u8],
        framing: Framing,
    ) -> Result<LogEvent<'l>, NotASyn> {
        let message = kernel_log_line::message(line, framing)?;
        if let Some(text) = message.strip_prefix(self.own.came_in_prefix.as_bytes()) {
            return packet::new_connection(text).map(LogEvent::NewConnection);
        }
        let own = message.strip_prefix(self.own.knock_prefix.as_bytes());
        let text = own.or_else(|| message.strip_prefix(self.firewall.as_bytes()));
        packet::syn(text.ok_or(NotASyn::OtherPrefix)?).map(LogEvent::Syn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYN: &str = "IN=eth0 OUT= MAC= SRC=192.0.2.7 DST=198.51.100.1 LEN=40 TOS=0x00 PREC=0x00 TTL=64 ID=7 PROTO=TCP \
                       SPT=40000 DPT=666 SEQ=1 ACK=2 WINDOW=3 RES=0x00 SYN URGP=0 ";
    const ACK: &str = "IN=eth0 OUT= MAC= SRC=192.0.2.7 DST=198.51.100.1 LEN=52 TOS=0x00 PREC=0x00 TTL=64 ID=8 DF \
                       PROTO=TCP SPT=40001 DPT=22 WINDOW=502 RES=0x00 ACK URGP=0 ";

    fn read<'l>(line: &'l str, prefixes: &LogPrefixes) -> Result<LogEvent<'l>, NotASyn> {
        prefixes.read(line.as_bytes(), Framing::Kmsg)
    }

    fn prefixes() -> LogPrefixes {
        let own = LogRules {
            knock_prefix: "KNOCK 1f3a9c2e ".into(),
            came_in_prefix: "KNOCK-IN 1f3a9c2e ".into(),
            per_second: 1,
            burst: 1,
        };
        LogPrefixes::new(own, "REJECT ".into(), true)
    }

    #[test]
    fn our_own_lines_and_the_firewalls_are_told_apart() {
        for (prefix, is_syn) in
            [("KNOCK 1f3a9c2e ", true), ("REJECT ", true), ("KNOCK-IN 1f3a9c2e ", false)]
        {
            let text = if is_syn { SYN } else { ACK };
            let line = format!("7,900,923993648,-;{prefix}{text}");
            match read(&line, &prefixes()).unwrap() {
                LogEvent::Syn(syn) => assert!(is_syn && syn.destination_port == 666),
                LogEvent::NewConnection(connection) => {
                    assert!(!is_syn);
                    assert_eq!((connection.source, connection.port), ([192, 0, 2, 7].into(), 22));
                }
            }
        }
    }

    #[test]
    fn the_lines_of_another_daemon_or_of_a_user_are_not_ours() {
        for (head, prefix) in [
            ("7,900,923993648,-;", "KNOCK 00000000 "),
            ("7,900,923993648,-;", "KNOCK-IN 00000000 "),
            ("7,900,923993648,-;", "xKNOCK-IN 1f3a9c2e "),
            ("15,900,923993648,-;", "KNOCK-IN 1f3a9c2e "),
        ] {
            let line = format!("{head}{prefix}{ACK}");
            assert!(read(&line, &prefixes()).is_err(), "{line}");
        }
    }
}
