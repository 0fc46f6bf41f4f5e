//! The side that holds a privilege. What strangers wrote reaches it as one fixed-size request through a pipe, checked
//! against limits that root set before.
//!
//! ```text
//! once, at the start, as root
//!   firewall   a back end, set up: nftables, made of ruleset (our table), expression (its words), netlink (the talk)
//!              or iptables, for hosts without
//!   split      the fork; then, in the helper: drop (privileges), seccomp (system calls)
//! then, for each request
//!   ask        the daemon's end: ask_open
//!   message    the bytes on the two pipes
//!   helper     the loop: read, decode, check, apply, reply (answer_open)
//!   limits     what root allows anyone to be granted
//!   grants     how many are open
//! ```
//!
//! `knock-daemon --check` alone: neighbours, the other firewalls and the line that each needs.
//!
//! Never uses layouts, profiles, logs, the client, crypto or clap.

use std::io::Write;

mod ask;
mod drop;
mod expression;
mod firewall;
mod grants;
mod helper;
mod iptables;
mod limits;
mod message;
#[cfg(feature = "misbehave")]
mod misbehave;
mod neighbours;
mod netlink;
mod nftables;
mod ruleset;
mod seccomp;
mod split;

pub use ask::{Ended, Helper, HelperGone};
pub use drop::{DropError, Ids, drop_to};
pub use firewall::Firewall;
pub use grants::Grants;
pub use iptables::{Chain, ChainError};
pub use limits::{Limits, Refusal, Service};
use message::LEAVE;
pub use message::{Protocol, REPLY_LEN, REQUEST_LEN, Reply, Request};
pub use neighbours::{FirewallKind, Neighbour, neighbours};
pub use netlink::{Acknowledged, Refused, read_answers};
pub use nftables::{Table, TableError};
pub use ruleset::MARK;
pub use split::{SplitError, close_inherited, split};

/// Says on stderr what the helper has to say.
fn complain(what: &dyn std::fmt::Display) {
    // Not `eprintln`, which panics if nobody reads it.
    let _ = writeln!(std::io::stderr(), "knock-daemon: helper: {what}");
}
