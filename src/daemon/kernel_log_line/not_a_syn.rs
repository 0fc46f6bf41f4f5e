//! Why a log line cannot be a knock.

use thiserror::Error;

/// Why a line does not describe a SYN that could be a knock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NotASyn {
    /// The line does not begin as lines of its source do.
    #[error(
        "the line does not begin as lines of this log do\nfix: have the log program write its default format (rsyslog, \
             syslog-ng, busybox, metalog, logread) or RFC 5424, or read the kernel's own log: --log kmsg"
    )]
    Framing,
    /// A program's message, not the kernel's.
    #[error("the line is not the kernel's")]
    NotKernel,
    /// The kernel's, but not our firewall rule's: the message does not begin with the log prefix.
    #[error(
        "the message about a knock port does not begin with `log_prefix`\nfix: if your firewall logs knocks like that, \
             set `log_prefix` to what it writes"
    )]
    OtherPrefix,
    /// It breaks the grammar of the kernel's packet lines where this was expected.
    #[error("the line is not a kernel packet line: expected {0}")]
    Malformed(&'static str),
    /// Another protocol than TCP. ICMP errors, which quote somebody else's packet, are here.
    #[error("the packet is not TCP")]
    NotTcp,
    /// A fragment of an IP packet.
    #[error("the packet is a fragment")]
    Fragment,
    /// The packet ended within its TCP header.
    #[error("the packet has no whole TCP header")]
    Incomplete,
    /// The firewall rule logs no `SEQ=` and `ACK=`: knocks cannot be read from it.
    #[error(
        "the line has no SEQ= and ACK=\nfix: give the firewall's log rule --log-tcp-sequence (iptables) or \
             `flags tcp sequence,options` (nft)"
    )]
    NoSequence,
    /// Flags other than SYN and the request for ECN, or a reserved bit.
    #[error("the packet's flags are not a SYN's")]
    OtherFlags,
}
