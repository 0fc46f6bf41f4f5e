//! The side that holds a privilege. What strangers wrote reaches it as one fixed-size request through a pipe, checked
//! against limits that root set before.
//!
//! ```text
//! once, at the start, as root
//!   firewall   what the helper can change, set up: conntrack (expectations), and nftables, our table: log_rules (what is
//!              logged), ruleset (grants without conntrack); expression and attribute (their words), netlink (the talk);
//!              route (what is our address); guard (a copy of the
//!              rules that close services)
//!   split      the fork; then, in the helper: drop (privileges), seccomp (system calls)
//! then, for each request
//!   ask        the daemon's end: ask_open, ask_close, ask_expect, ask_forget, ask_knock_ports, ask_unguard
//!   message    the bytes on the two pipes
//!   helper     the loop: read, decode, check, apply, reply (answer_open, answer_close, …)
//!   limits     what root allows anyone to be granted
//!   grants     how many are open
//! ```
//!
//! `knock-daemon --check` alone: tables, what nftables has by name; clock, whether somebody sets it.
//!
//! Never uses layouts, profiles, logs, the client, crypto or clap.

use std::io::Write;

mod ask;
mod attribute;
mod clock;
mod conntrack;
mod drop;
mod expression;
mod firewall;
mod grants;
mod guard;
mod helper;
mod limits;
mod log_rules;
mod message;
#[cfg(feature = "misbehave")]
mod misbehave;
mod netlink;
mod nftables;
mod route;
mod ruleset;
mod seccomp;
mod split;
mod tables;

pub use ask::{Ended, Helper, HelperGone};
pub use clock::is_synchronised;
pub use drop::{DropError, Ids, drop_to};
pub use firewall::{BackEnd, Firewall, FirewallError};
pub use grants::Grants;
pub use guard::Guard;
pub use limits::{Limits, Refusal, Service};
pub use log_rules::LogRules;
pub use message::{MAX_NUMBERS, Message, Protocol, REPLY_LEN, REQUEST_LEN, Reply, Request, Spend};
pub use netlink::{Acknowledged, Refused, read_answers};
pub use nftables::{MAX_EXPECTED, TableError};
pub use ruleset::MARK;
pub use split::{SplitError, close_inherited, split};
pub use tables::tables;

/// Says on stderr what the helper has to say.
fn complain(what: &dyn std::fmt::Display) {
    // Not `eprintln`, which panics if nobody reads it.
    let _ = writeln!(std::io::stderr(), "knock-daemon: helper: {what}");
}
