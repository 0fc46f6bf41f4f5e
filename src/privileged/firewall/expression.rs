//! The words that `nf_tables` rules are made of: one function each, named as `nft --debug=netlink` names them. Pure.
//!
//! Attributes have their numbers from the kernel's `nf_tables.h`, in the order of its `enum`s.

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{MetaKey, Operator, Register};

use super::attribute::{bytes, long_number, nested, number, text};
use crate::grant::Protocol;

/// One expression of a rule: its name, and its attributes.
pub(super) type Expression = Vec<DefaultNla>;

/// `NF_ACCEPT`.
const ACCEPT: u32 = 1;
/// `NFT_GOTO`.
const GOTO: u32 = (-4_i32).cast_unsigned();

const TCP: u8 = Protocol::Tcp as u8;
const TCP_FLAGS_OFFSET: u32 = 13;
const FIN_SYN_RST_ACK: u8 = 0x17;
const SYN: u8 = 0x02;
const DESTINATION_PORT_OFFSET: u32 = 2;

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
    numbers("payload", &[(1, to.into()), (2, base as u32), (3, offset), (4, length)])
}

/// Loads the port that a packet is for.
pub(super) fn destination_port(to: Register) -> Expression {
    payload_load(Base::Transport, DESTINATION_PORT_OFFSET, 2, to)
}

/// Loads the byte of TCP's flags.
pub(super) fn tcp_flags(to: Register) -> Expression {
    payload_load(Base::Transport, TCP_FLAGS_OFFSET, 1, to)
}

pub(super) fn meta_load(key: MetaKey, to: Register) -> Expression {
    numbers("meta", &[(2, key.into()), (1, to.into())])
}

pub(super) fn meta_set(key: MetaKey, from: Register) -> Expression {
    numbers("meta", &[(2, key.into()), (3, from.into())])
}

pub(super) fn ct_load(key: CtKey, to: Register) -> Expression {
    numbers("ct", &[(2, key as u32), (1, to.into())])
}

pub(super) fn ct_set(key: CtKey, from: Register) -> Expression {
    numbers("ct", &[(2, key as u32), (4, from.into())])
}

/// `register = (register & mask) ^ xor`; both as the bytes lie in the register.
pub(super) fn bitwise(register: Register, mask: &[u8], xor: &[u8]) -> Expression {
    // The kernel refuses what is longer than its registers.
    let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
    let registers = [number(1, register.into()), number(2, register.into()), number(3, length)];
    expression("bitwise", &[&registers[..], &[data(4, mask), data(5, xor)]].concat())
}

pub(super) fn cmp(register: Register, operator: Operator, value: &[u8]) -> Expression {
    expression("cmp", &[number(1, register.into()), number(2, operator.into()), data(3, value)])
}

pub(super) fn lookup(set: &str, key: Register) -> Expression {
    expression("lookup", &[text(1, set), number(2, key.into())])
}

/// Loads what kind of address a packet is for (`RTN_LOCAL` and so on).
pub(super) fn daddr_type(to: Register) -> Expression {
    const ADDRESS_TYPE: u32 = 3;
    const DESTINATION: u32 = 2;
    numbers("fib", &[(1, to.into()), (2, ADDRESS_TYPE), (3, DESTINATION)])
}

/// Matches `packets` in `seconds`, and `burst` at once.
pub(super) fn limit(packets: u64, seconds: u64, burst: u32) -> Expression {
    const PACKETS: u32 = 0;
    let [rate, unit] = [long_number(1, packets), long_number(2, seconds)];
    expression("limit", &[rate, unit, number(3, burst), number(4, PACKETS)])
}

/// Matches one packet and then none for a day, which is longer than any grant.
pub(super) fn limit_to_one() -> Expression {
    limit(1, 86_400, 1)
}

/// Puts `key` into `set` with a `limit` of its own, or finds it there; matches while that limit does.
pub(super) fn update(set: &str, key: Register, limit: &Expression) -> Expression {
    const UPDATE: u32 = 1;
    let key = [text(1, set), number(3, UPDATE), number(4, key.into())];
    expression("dynset", &[&key[..], &[nested(7, limit)]].concat())
}

/// What the line of a SYN needs beside addresses and ports: `NF_LOG_TCPSEQ | NF_LOG_TCPOPT`.
pub(super) const LOG_SYN: u32 = 1 | 2;

/// Logs the packet with level debug.
pub(super) fn log(prefix: &str, flags: u32) -> Expression {
    const DEBUG: u32 = 7;
    expression("log", &[text(2, prefix), number(5, DEBUG), number(6, flags)])
}

pub(super) fn immediate(to: Register, value: &[u8]) -> Expression {
    expression("immediate", &[number(1, to.into()), data(2, value)])
}

pub(super) fn accept() -> Expression {
    verdict(&[number(1, ACCEPT)])
}

/// Goes on in another chain, and does not come back.
pub(super) fn goto(chain: &str) -> Expression {
    verdict(&[number(1, GOTO), text(2, chain)])
}

/// Refuses a TCP packet as a host does where nothing listens.
pub(super) fn reject_with_reset() -> Expression {
    const RESET: u32 = 1;
    numbers("reject", &[(1, RESET)])
}

/// Refuses any other packet so, by the ICMP error of its family.
pub(super) fn reject_as_unreachable() -> Expression {
    const ICMPX: u32 = 2;
    const PORT_UNREACHABLE: u8 = 1;
    expression("reject", &[number(1, ICMPX), bytes(2, &[PORT_UNREACHABLE])])
}

/// Whether (or, with `NotEqual`, whether not) a packet is of this protocol.
pub(super) fn is_of_protocol(operator: Operator, protocol: u8) -> Vec<Expression> {
    vec![meta_load(MetaKey::L4Proto, Register::Reg1), cmp(Register::Reg1, operator, &[protocol])]
}

/// Whether (or, with `NotEqual`, whether not) a TCP packet is a SYN and nothing else.
pub(super) fn is_syn(operator: Operator) -> Vec<Expression> {
    let r1 = Register::Reg1;
    let flags =
        vec![tcp_flags(r1), bitwise(r1, &[FIN_SYN_RST_ACK], &[0]), cmp(r1, operator, &[SYN])];
    [is_of_protocol(Operator::Equal, TCP), flags].concat()
}

fn verdict(attributes: &[DefaultNla]) -> Expression {
    let data = nested(2, &[nested(2, attributes)]);
    expression("immediate", &[number(1, Register::Verdict.into()), data])
}

/// An attribute that is a value, as the bytes lie in a register.
fn data(kind: u16, value: &[u8]) -> DefaultNla {
    nested(kind, &[bytes(1, value)])
}

fn numbers(name: &str, attributes: &[(u16, u32)]) -> Expression {
    let attributes: Vec<_> = attributes.iter().map(|(kind, value)| number(*kind, *value)).collect();
    expression(name, &attributes)
}

fn expression(name: &str, attributes: &[DefaultNla]) -> Expression {
    vec![text(1, name), nested(2, attributes)]
}
