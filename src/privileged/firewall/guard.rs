//! The rules of `scripts/guard.nft`, in our own table: they close services to strangers while this program runs, even
//! if the script's table is deleted. Pure: makes commands, sends none.
//!
//! ```text
//! chain guard {
//!     type filter hook prerouting priority -110; policy accept;
//!     iif lo accept
//!     meta l4proto tcp  th dport FIRST-LAST  goto closed  # for each service
//! }
//! chain closed {
//!     fib daddr type < local accept
//!     fib daddr type > multicast accept                   # between them: local, broadcast, anycast, multicast
//!     ip saddr & MASK == NETWORK accept                   # for each network, likewise ip6
//!     iifname NAME accept                                 # for each interface
//!     meta l4proto tcp  tcp flags & (ack | rst) != 0 accept
//!     ct state related accept
//!     meta l4proto tcp  ct state established  ct status & assured == 0 accept
//!     meta l4proto != tcp  ct state established accept
//!     meta l4proto tcp  reject with tcp reset
//!     reject with icmpx type port-unreachable
//! }
//! ```
//!
//! What the script has in sets is a rule for each here. guard.nft says why each rule is there.

use std::net::IpAddr;

use netlink_packet_netfilter::nftables::{InetHookNumber, MetaKey, Operator, Register};

use super::expression::{
    Base, CtKey, Expression, accept, bitwise, cmp, ct_load, daddr_type, destination_port, goto,
    is_of_protocol, meta_load, payload_load, reject_as_unreachable, reject_with_reset, tcp_flags,
};
use super::netlink::Command;
use super::object::{delete_chain, new_chain, new_rule, new_target};
use crate::grant::{Protocol, Service};

/// Which services are closed, and to whom they are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Guard {
    /// The services, by the ports that clients see.
    pub(crate) closed: Vec<Service>,
    /// Networks that are never refused, and how many bits of each count.
    pub(crate) except: Vec<(IpAddr, u8)>,
    /// Interfaces likewise; a `*` at the end stands for any end.
    pub(crate) except_interface: Vec<String>,
}

impl Guard {
    /// How many services, networks and interfaces there may be in all: each is a rule, and the kernel's answers to all of
    /// them must fit into the socket.
    pub(crate) const MAX_RULES: usize = 96;

    /// Whether there are at most [`Guard::MAX_RULES`].
    #[must_use]
    pub(crate) fn fits(&self) -> bool {
        self.closed.len() + self.except.len() + self.except_interface.len() <= Self::MAX_RULES
    }
}

const GUARD: &str = "guard";
const CLOSED: &str = "closed";
/// After conntrack (-200), before DNAT (-100).
const PRIORITY: i32 = -110;

/// The index of `lo`, in every network namespace.
const LO: u32 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const TCP: u8 = Protocol::Tcp as u8;
const RST_ACK: u8 = 0x14;
/// `RTN_LOCAL` and `RTN_MULTICAST`; between them there are broadcast and anycast alone.
const LOCAL: u32 = 2;
const MULTICAST: u32 = 5;
/// `NF_CT_STATE_BIT(IP_CT_ESTABLISHED)` and that of `IP_CT_RELATED`.
const ESTABLISHED: u32 = 2;
const RELATED: u32 = 4;
/// `IPS_ASSURED`.
const ASSURED: u32 = 4;
/// How many bytes the kernel has for an interface's name.
const NAME_LEN: usize = 16;

/// The commands that make both chains in `table`.
pub(super) fn create(table: &str, guard: &Guard) -> Vec<Command> {
    let r1 = Register::Reg1;
    let lo =
        vec![meta_load(MetaKey::Iif, r1), cmp(r1, Operator::Equal, &LO.to_ne_bytes()), accept()];
    let asked = [lo].into_iter().chain(guard.closed.iter().copied().map(to_service));
    let asked = asked.map(|rule| new_rule(table, GUARD, rule));
    let refused = closed(guard).into_iter().map(|rule| new_rule(table, CLOSED, rule));
    let hooked = new_chain(table, GUARD, InetHookNumber::PreRouting, PRIORITY);
    // A chain has its rules before another goes to it.
    [hooked, new_target(table, CLOSED)].into_iter().chain(refused).chain(asked).collect()
}

/// The commands that take both chains away, with their rules.
pub(super) fn delete(table: &str) -> [Command; 2] {
    [GUARD, CLOSED].map(|name| delete_chain(table, name))
}

/// What is for a service goes on to be looked at.
fn to_service(service: Service) -> Vec<Expression> {
    let r1 = Register::Reg1;
    let mut rule = is_of_protocol(Operator::Equal, service.protocol as u8);
    rule.push(destination_port(r1));
    let port = |operator, port: u16| cmp(r1, operator, &port.to_be_bytes());
    if service.first_port == service.last_port {
        rule.push(port(Operator::Equal, service.first_port));
    } else {
        rule.push(port(Operator::GreatherThanEqual, service.first_port));
        rule.push(port(Operator::LessThanEqual, service.last_port));
    }
    rule.push(goto(CLOSED));
    rule
}

/// The rules for what is for a closed service, in order.
fn closed(guard: &Guard) -> Vec<Vec<Expression>> {
    let r1 = Register::Reg1;
    let is_for = |operator, kind: u32| {
        vec![daddr_type(r1), cmp(r1, operator, &kind.to_ne_bytes()), accept()]
    };
    let mut rules =
        vec![is_for(Operator::LessThan, LOCAL), is_for(Operator::GreaterThan, MULTICAST)];
    rules.extend(guard.except.iter().map(|(network, length)| from_network(*network, *length)));
    rules.extend(guard.except_interface.iter().map(|name| through(name)));

    let bits = |key, bits: u32, operator| {
        let bits = bits.to_ne_bytes();
        vec![ct_load(key, r1), bitwise(r1, &bits, &[0; 4]), cmp(r1, operator, &[0; 4])]
    };
    let state = |state| bits(CtKey::State, state, Operator::NotEqual);
    let [tcp, not_tcp] =
        [Operator::Equal, Operator::NotEqual].map(|operator| is_of_protocol(operator, TCP));
    let flags =
        vec![tcp_flags(r1), bitwise(r1, &[RST_ACK], &[0]), cmp(r1, Operator::NotEqual, &[0])];
    let unproven = bits(CtKey::Status, ASSURED, Operator::Equal);
    let accepted = [
        [tcp.clone(), flags].concat(),
        state(RELATED),
        [tcp.clone(), state(ESTABLISHED), unproven].concat(),
        [not_tcp, state(ESTABLISHED)].concat(),
    ];
    rules.extend(accepted.map(|rule| [rule, vec![accept()]].concat()));
    rules.push([tcp, vec![reject_with_reset()]].concat());
    rules.push(vec![reject_as_unreachable()]);
    rules
}

/// Accepts packets from a network.
fn from_network(network: IpAddr, length: u8) -> Vec<Expression> {
    let r1 = Register::Reg1;
    let (family, offset, address) = match network {
        IpAddr::V4(v4) => (NFPROTO_IPV4, 12, v4.octets().to_vec()),
        IpAddr::V6(v6) => (NFPROTO_IPV6, 8, v6.octets().to_vec()),
    };
    // The first `length` bits.
    let byte = |before: u32| {
        let ones = u32::from(length).saturating_sub(before).min(8);
        !u8::MAX.checked_shr(ones).unwrap_or(0)
    };
    let mask: Vec<u8> = (0..).step_by(8).map(byte).take(address.len()).collect();
    let network: Vec<u8> = address.iter().zip(&mask).map(|(byte, mask)| byte & mask).collect();
    let bytes = if network.len() == 4 { 4 } else { 16 };
    vec![
        meta_load(MetaKey::Nfproto, r1),
        cmp(r1, Operator::Equal, &[family]),
        payload_load(Base::Network, offset, bytes, r1),
        bitwise(r1, &mask, &vec![0; mask.len()]),
        cmp(r1, Operator::Equal, &network),
        accept(),
    ]
}

/// Accepts packets that come in through an interface.
fn through(name: &str) -> Vec<Expression> {
    let r1 = Register::Reg1;
    // The beginning alone, or the name and the zeros behind it.
    let wanted = name.strip_suffix('*').map_or_else(
        || name.bytes().chain([0; NAME_LEN]).take(NAME_LEN).collect::<Vec<_>>(),
        |begin| begin.bytes().collect(),
    );
    vec![meta_load(MetaKey::Iifname, r1), cmp(r1, Operator::Equal, &wanted), accept()]
}
