//! The words that `nf_tables` rules are made of: one function each, named as `nft --debug=netlink` names them.
//!
//! Uses the crate's typed attributes where it has them and numbers from the kernel's `nf_tables.h` where it has not
//! (`ct`, `limit`).

#![forbid(unsafe_code)]

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute,
    Lookup, Meta, MetaKey, Operator, Payload, Register, Verdict, VerdictAttribute,
};

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
    Mark = 3,
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

/// Matches one packet and then none for a day, which is longer than any grant.
pub(super) fn limit_to_one() -> Expression {
    const DAY: u64 = 86_400;
    const PACKETS: u32 = 0;
    let [rate, unit] =
        [(1, 1), (2, DAY)].map(|(kind, value)| DefaultNla::new(kind, value.to_be_bytes().to_vec()));
    other("limit", vec![rate, unit, number(3, 1), number(4, PACKETS)])
}

pub(super) fn accept() -> Expression {
    let verdict = DataAttribute::Verdict(vec![VerdictAttribute::Code(Verdict::Other(ACCEPT))]);
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(verdict),
    ])
    .into()
}

fn other(name: &str, attributes: Vec<DefaultNla>) -> Expression {
    Expressions::Other { expression_type: name.to_owned(), attributes }.into()
}

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}
