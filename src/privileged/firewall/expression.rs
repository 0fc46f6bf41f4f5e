//! The words that `nf_tables` rules are made of: one function each, named as `nft --debug=netlink` names them.
//!
//! Uses the crate's typed attributes where it has them and numbers from the kernel's `nf_tables.h` where it has not
//! (`ct`, `limit`, `fib`, `log`, `dynset`, `reject`).

use netlink_packet_core::{DefaultNla, NLA_F_NESTED, Nla};
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute,
    Lookup, Meta, MetaKey, Operator, Payload, Register, Verdict, VerdictAttribute,
};

use super::attribute::{long_number, number, text};

/// One expression of a rule.
pub(super) type Expression = ListAttribute<ExpressionAttribute>;

/// `NF_ACCEPT`.
const ACCEPT: u32 = 1;

/// Where in a packet an offset counts from (`enum nft_payload_bases`).
#[derive(Clone, Copy)]
pub(super) enum Base {
    Network = 1,
    Transport = 2,
}

/// What conntrack knows of a packet (`enum nft_ct_keys`).
#[derive(Clone, Copy)]
pub(super) enum CtKey {
    State = 0,
    Direction = 1,
    Status = 2,
    Mark = 3,
    Label = 13,
}

pub(super) fn payload_load(base: Base, offset: u32, length: u32, to: Register) -> Expression {
    let attributes = [
        Payload::DestinationRegister(to),
        Payload::Base(base as u32),
        Payload::Offset(offset),
        Payload::Len(length),
    ];
    Expressions::Payload(attributes.to_vec()).into()
}

pub(super) fn meta_load(key: MetaKey, to: Register) -> Expression {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(to)]).into()
}

pub(super) fn meta_set(key: MetaKey, from: Register) -> Expression {
    Expressions::Meta(vec![Meta::Key(key), Meta::SourceRegister(from)]).into()
}

pub(super) fn ct_load(key: CtKey, to: Register) -> Expression {
    other("ct", vec![number(2, key as u32), number(1, to.into())])
}

pub(super) fn ct_set(key: CtKey, from: Register) -> Expression {
    other("ct", vec![number(2, key as u32), number(4, from.into())])
}

/// `register = (register & mask) ^ xor`; both as the bytes lie in the register.
pub(super) fn bitwise(register: Register, mask: &[u8], xor: &[u8]) -> Expression {
    let length = u32::try_from(mask.len()).unwrap_or_default();
    let attributes = [
        Bitwise::SourceRegister(register),
        Bitwise::DestinationRegister(register),
        Bitwise::Length(length),
        Bitwise::Mask(DataAttribute::Value(mask.to_vec())),
        Bitwise::Xor(DataAttribute::Value(xor.to_vec())),
    ];
    Expressions::Bitwise(attributes.to_vec()).into()
}

pub(super) fn cmp(register: Register, operator: Operator, value: &[u8]) -> Expression {
    let value = DataAttribute::Value(value.to_vec());
    Expressions::Cmp(vec![Cmp::SourceRegister(register), Cmp::Op(operator), Cmp::Data(value)])
        .into()
}

pub(super) fn lookup(set: &str, key: Register) -> Expression {
    Expressions::Lookup(vec![Lookup::Set(set.to_owned()), Lookup::SourceRegister(key)]).into()
}

/// Loads what kind of address a packet is for (`RTN_LOCAL` and so on).
pub(super) fn daddr_type(to: Register) -> Expression {
    const ADDRESS_TYPE: u32 = 3;
    const DESTINATION: u32 = 2;
    other("fib", vec![number(1, to.into()), number(2, ADDRESS_TYPE), number(3, DESTINATION)])
}

/// Matches `packets` in `seconds`, and `burst` at once.
pub(super) fn limit(packets: u64, seconds: u64, burst: u32) -> Expression {
    const PACKETS: u32 = 0;
    let [rate, unit] = [long_number(1, packets), long_number(2, seconds)];
    other("limit", vec![rate, unit, number(3, burst), number(4, PACKETS)])
}

/// Matches one packet and then none for a day, which is longer than any grant.
pub(super) fn limit_to_one() -> Expression {
    limit(1, 86_400, 1)
}

/// Puts `key` into `set` with a `limit` of its own, or finds it there; matches while that limit does.
pub(super) fn update(set: &str, key: Register, limit: &Expression) -> Expression {
    const UPDATE: u32 = 1;
    let mut expression = vec![0; limit.value_len()];
    limit.emit_value(&mut expression);
    let expression = DefaultNla::new(NLA_F_NESTED | 7, expression);
    other("dynset", vec![text(1, set), number(3, UPDATE), number(4, key.into()), expression])
}

/// What the line of a SYN needs beside addresses and ports: `NF_LOG_TCPSEQ | NF_LOG_TCPOPT`.
pub(super) const LOG_SYN: u32 = 1 | 2;

/// Logs the packet with level debug.
pub(super) fn log(prefix: &str, flags: u32) -> Expression {
    const DEBUG: u32 = 7;
    other("log", vec![text(2, prefix), number(5, DEBUG), number(6, flags)])
}

pub(super) fn immediate(to: Register, value: &[u8]) -> Expression {
    let value = DataAttribute::Value(value.to_vec());
    Expressions::Immediate(vec![Immediate::DestinationRegister(to), Immediate::Data(value)]).into()
}

pub(super) fn accept() -> Expression {
    let verdict = DataAttribute::Verdict(vec![VerdictAttribute::Code(Verdict::Other(ACCEPT))]);
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(verdict),
    ])
    .into()
}

/// Goes on in another chain, and does not come back.
pub(super) fn goto(chain: &str) -> Expression {
    let verdict =
        vec![VerdictAttribute::Code(Verdict::Goto), VerdictAttribute::Chain(chain.to_owned())];
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(verdict)),
    ])
    .into()
}

/// Refuses a TCP packet as a host does where nothing listens.
pub(super) fn reject_with_reset() -> Expression {
    const RESET: u32 = 1;
    other("reject", vec![number(1, RESET)])
}

/// Refuses any other packet so, by the ICMP error of its family.
pub(super) fn reject_as_unreachable() -> Expression {
    const ICMPX: u32 = 2;
    const PORT_UNREACHABLE: u8 = 1;
    other("reject", vec![number(1, ICMPX), DefaultNla::new(2, vec![PORT_UNREACHABLE])])
}

fn other(name: &str, attributes: Vec<DefaultNla>) -> Expression {
    Expressions::Other { expression_type: name.to_owned(), attributes }.into()
}
