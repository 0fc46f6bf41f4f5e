//! What a table of `nf_tables` is made of: sets, their elements, chains and rules. Pure: makes commands, sends none.
//!
//! Attributes have their numbers from the kernel's `nf_tables.h`, in the order of its `enum`s.

use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_netfilter::nftables::InetHookNumber;
use netlink_packet_netfilter::{NetfilterProtoFamily, NetfilterSubsystem};

use super::attribute::{bytes, list, long_number, nested, number, text};
use super::expression::Expression;
use super::netlink::Command;

/// `enum nf_tables_msg_types`, and the flags that each takes.
pub(super) type Change = (u8, u16);

const NEW_TABLE: Change = (0, ONLY_NEW);
const DELETE_TABLE: Change = (2, 0);
const NEW_CHAIN: Change = (3, ONLY_NEW);
const DELETE_CHAIN: Change = (5, 0);
const NEW_RULE: Change = (6, NLM_F_CREATE | NLM_F_APPEND);
const NEW_SET: Change = (9, ONLY_NEW);
/// Elements are added; those that are there already stay as they are.
pub(super) const ADD: Change = (12, NLM_F_CREATE);
/// Elements are added, unless one is there already.
pub(super) const ADD_NEW: Change = (12, ONLY_NEW);
/// Elements are deleted, if all are there.
pub(super) const DELETE: Change = (14, 0);

const ONLY_NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// `NFT_TABLE_F_OWNER`.
const OWNER: u32 = 2;
/// `NF_ACCEPT`, as the policy of a chain that must never refuse anything.
const POLICY_ACCEPT: u32 = 1;

/// A set: its name, the number that messages of the same batch call it by, and its key, which is a type (it tells `nft
/// list` how to print it) and a length.
pub(super) struct Set<'n> {
    pub(super) name: &'n str,
    pub(super) id: u32,
    pub(super) key: (u32, u32),
}

/// A set of any size, changed by commands alone.
pub(super) fn new_set(table: &str, set: &Set<'_>, more: &[DefaultNla]) -> Command {
    let (key_type, key_length) = set.key;
    let name = [text(1, table), text(2, set.name), number(10, set.id)];
    let key = [number(4, key_type), number(5, key_length)];
    command(NEW_SET, [&name[..], &key, more].concat())
}

/// A set of this size, whose elements have a timeout, and which rules may change.
pub(super) fn new_dynamic_set(
    table: &str,
    set: &Set<'_>,
    size: u32,
    more: &[DefaultNla],
) -> Command {
    /// `NFT_SET_TIMEOUT | NFT_SET_EVAL`.
    const DYNAMIC: u32 = 0x10 | 0x20;
    let dynamic = [number(3, DYNAMIC), nested(9, &[number(1, size)])];
    new_set(table, set, &[&dynamic, more].concat())
}

/// How long an element of a set stays where it does not say so itself, in milliseconds.
pub(super) fn set_timeout(milliseconds: u64) -> DefaultNla {
    long_number(11, milliseconds)
}

/// User data, which only `nft` reads.
pub(super) fn set_note(note: &[u8]) -> DefaultNla {
    bytes(13, note)
}

/// An element's key.
pub(super) fn key(value: &[u8]) -> DefaultNla {
    nested(1, &[bytes(1, value)])
}

/// How long an element stays, in milliseconds.
pub(super) fn timeout(milliseconds: u64) -> DefaultNla {
    long_number(4, milliseconds)
}

/// What else has to match where an element is found.
pub(super) fn condition(expression: Expression) -> DefaultNla {
    list(11, [expression])
}

/// Makes the table of this name, which the kernel removes with the socket that made it.
pub(super) fn new_table(table: &str) -> Command {
    command(NEW_TABLE, vec![text(1, table), number(2, OWNER)])
}

/// Deletes the table with all that is in it.
pub(super) fn delete_table(table: &str) -> Command {
    command(DELETE_TABLE, vec![text(1, table)])
}

/// A chain that packets go through.
pub(super) fn new_chain(table: &str, name: &str, hook: InetHookNumber, priority: i32) -> Command {
    // The kernel reads it as signed again.
    let hook = [number(1, hook.into()), number(2, priority.cast_unsigned())];
    let attributes = [text(1, table), text(3, name), nested(4, &hook)];
    let more = [number(5, POLICY_ACCEPT), text(7, "filter")];
    command(NEW_CHAIN, [&attributes[..], &more].concat())
}

/// A chain that rules go to.
pub(super) fn new_target(table: &str, name: &str) -> Command {
    command(NEW_CHAIN, vec![text(1, table), text(3, name)])
}

/// Deletes the chain with its rules.
pub(super) fn delete_chain(table: &str, name: &str) -> Command {
    command(DELETE_CHAIN, vec![text(1, table), text(3, name)])
}

/// A rule after the others of its chain.
pub(super) fn new_rule(table: &str, chain: &str, expressions: Vec<Expression>) -> Command {
    command(NEW_RULE, vec![text(1, table), text(2, chain), list(4, expressions)])
}

/// Elements of a set, each as its key and what else it has.
pub(super) fn elements(
    change: Change,
    table: &str,
    set: &str,
    elements: impl IntoIterator<Item = Vec<DefaultNla>>,
) -> Command {
    command(change, vec![text(1, table), text(2, set), list(3, elements)])
}

fn command((kind, flags): Change, attributes: Vec<DefaultNla>) -> Command {
    let subsystem = NetfilterSubsystem::NfTables;
    Command::new(NetfilterProtoFamily::Inet, (subsystem, kind), flags, attributes)
}
