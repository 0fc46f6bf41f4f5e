//! The chains of our table that log knocks, and connections that came in. Pure. Nothing is dropped, refused or marked here.
//!
//! ```text
//! set expected    { typeof tcp sequence }              # of every knock that there may be
//! set seen        { typeof tcp sequence; size 16384; flags dynamic,timeout; timeout 10s }
//! set knock_ports { type inet_service }                # of profiles whose knocks cannot all be listed
//! chain knocks {
//!     type filter hook prerouting priority raw - 10; policy accept;
//!     tcp flags & (fin | syn | rst | ack) == syn  tcp sequence @expected  fib daddr type local
//!         update @seen { tcp sequence limit rate 1/second burst 8 }  log prefix KNOCK level debug flags tcp sequence,options  accept
//!     tcp flags & (fin | syn | rst | ack) == syn  tcp dport @knock_ports  tcp ackseq != 0  fib daddr type local
//!         limit rate R/second burst B  log prefix KNOCK level debug flags tcp sequence,options
//! }
//! chain came_in {
//!     type filter hook prerouting priority -190; policy accept;
//!     ct direction original  ct status & (expected | assured) == (expected | assured)  fib daddr type local
//!         ct label & 77 == 0  ct label set 77  ct label & 77 != 0  log prefix KNOCK-IN level debug
//! }
//! ```
//!
//! A knock that is repeated at line rate does not fill a disk: each number has a limit of its own, which packets with
//! another number cannot use up. The limits stand in `seen`, for the numbers that came in the last seconds, because in
//! `expected` they double the memory of a set that may have a million of them.
//!
//! The label says that a connection has been logged. It is set before it is asked for again, because a connection that was
//! there before this table may have no room for labels: each of its packets would be logged. `nft`'s own `ct label != 77`
//! compares all 128 bits, so that another program's label would have the same effect.

use netlink_packet_netfilter::nftables::{InetHookNumber, Operator, Register};

use super::expression::{
    Base, CtKey, Expression, LOG_SYN, accept, bitwise, cmp, ct_load, ct_set, daddr_type,
    destination_port, immediate, is_syn, limit, log, lookup, payload_load, update,
};
use super::netlink::Command;
use super::object::{Set, new_chain, new_dynamic_set, new_rule, new_set, set_note, set_timeout};

/// What our table logs, and how often.
#[derive(Clone, Debug)]
pub struct LogRules {
    /// What the lines of knocks begin with, space included.
    pub knock_prefix: String,
    /// What the lines of connections that came in begin with, space included.
    pub came_in_prefix: String,
    /// How many SYNs to knock ports are logged in a second,
    pub per_second: u32,
    /// and how many at once.
    pub burst: u32,
}

/// The set of sequence numbers to log.
pub(super) const EXPECTED: &str = "expected";
/// The set of ports where a SYN with an acknowledgement number is logged.
pub(super) const KNOCK_PORTS: &str = "knock_ports";
const SEEN: &str = "seen";

const KNOCKS: &str = "knocks";
const CAME_IN: &str = "came_in";
/// `raw - 10`: before everything else, so that no firewall and no flood changes what is logged.
const FIRST: i32 = -310;
/// After conntrack (-200), so that the packet has its connection's state.
const AFTER_CONNTRACK: i32 = -190;

/// How many of the numbers that came are remembered; where there are more, they are not logged.
const SEEN_SIZE: u32 = 16_384;
/// For how long, in milliseconds: longer than it takes until a burst is allowed again.
const SEEN_TTL: u64 = 10_000;
const SEEN_PER_SECOND: u64 = 1;
const SEEN_BURST: u32 = 8;

/// nft's own note that the key of a set is a `tcp sequence`; without it, the set lists without a type.
const TYPEOF_TCP_SEQUENCE: [u8; 34] = [
    0, 4, 2, 0, 0, 0, 3, 26, 0, 4, 7, 0, 0, 0, 1, 18, 0, 4, 8, 0, 0, 0, 1, 4, 3, 0, 0, 0, 4, 4, 32,
    0, 0, 0,
];
/// nft's numbers of the data types `integer` and `inet_service`.
const INTEGER: u32 = 4;
const INET_SERVICE: u32 = 13;

const SEQUENCE_OFFSET: u32 = 4;
const ACK_OFFSET: u32 = 8;
/// `RTN_LOCAL`.
const LOCAL: u32 = 2;
/// `IP_CT_DIR_ORIGINAL`.
const ORIGINAL: u8 = 0;
/// `IPS_EXPECTED | IPS_ASSURED`: assured comes with the client's own last ACK of the handshake.
const CAME_IN_STATUS: u32 = 1 | 4;
/// Our bit of the 128 of a connection's label.
pub(super) const LABEL: usize = 77;

/// The commands that make these sets and chains in `table`. The sets have the numbers 1 to 3.
pub(super) fn create(table: &str, rules: &LogRules) -> Vec<Command> {
    let note = || set_note(&TYPEOF_TCP_SEQUENCE);
    let expected_set = Set { name: EXPECTED, id: 1, key: (INTEGER, 4) };
    let seen_set = Set { name: SEEN, id: 2, key: (INTEGER, 4) };
    let knock_ports = Set { name: KNOCK_PORTS, id: 3, key: (INET_SERVICE, 2) };
    vec![
        new_set(table, &expected_set, &[note()]),
        new_dynamic_set(table, &seen_set, SEEN_SIZE, &[set_timeout(SEEN_TTL), note()]),
        new_set(table, &knock_ports, &[]),
        new_chain(table, KNOCKS, InetHookNumber::PreRouting, FIRST),
        new_chain(table, CAME_IN, InetHookNumber::PreRouting, AFTER_CONNTRACK),
        new_rule(table, KNOCKS, expected(rules)),
        new_rule(table, KNOCKS, to_knock_port(rules)),
        new_rule(table, CAME_IN, came_in(rules)),
    ]
}

fn expected(rules: &LogRules) -> Vec<Expression> {
    let r1 = Register::Reg1;
    let mut rule = is_syn(Operator::Equal);
    rule.extend([payload_load(Base::Transport, SEQUENCE_OFFSET, 4, r1), lookup(EXPECTED, r1)]);
    rule.extend(is_local());
    rule.extend([
        payload_load(Base::Transport, SEQUENCE_OFFSET, 4, r1),
        update(SEEN, r1, &limit(SEEN_PER_SECOND, 1, SEEN_BURST)),
        log(&rules.knock_prefix, LOG_SYN),
        accept(),
    ]);
    rule
}

fn to_knock_port(rules: &LogRules) -> Vec<Expression> {
    let r1 = Register::Reg1;
    let mut rule = is_syn(Operator::Equal);
    rule.extend([
        destination_port(r1),
        lookup(KNOCK_PORTS, r1),
        payload_load(Base::Transport, ACK_OFFSET, 4, r1),
        cmp(r1, Operator::NotEqual, &[0; 4]),
    ]);
    rule.extend(is_local());
    rule.push(limit(rules.per_second.into(), 1, rules.burst));
    rule.push(log(&rules.knock_prefix, LOG_SYN));
    rule
}

fn came_in(rules: &LogRules) -> Vec<Expression> {
    let r1 = Register::Reg1;
    let label = label();
    let status = CAME_IN_STATUS.to_ne_bytes();
    let mut rule = vec![
        ct_load(CtKey::Direction, r1),
        cmp(r1, Operator::Equal, &[ORIGINAL]),
        ct_load(CtKey::Status, r1),
        bitwise(r1, &status, &[0; 4]),
        cmp(r1, Operator::Equal, &status),
    ];
    rule.extend(is_local());
    rule.extend([
        ct_load(CtKey::Label, r1),
        bitwise(r1, &label, &[0; 16]),
        cmp(r1, Operator::Equal, &[0; 16]),
        immediate(r1, &label),
        ct_set(CtKey::Label, r1),
        ct_load(CtKey::Label, r1),
        bitwise(r1, &label, &[0; 16]),
        cmp(r1, Operator::NotEqual, &[0; 16]),
        log(&rules.came_in_prefix, 0),
    ]);
    rule
}

fn is_local() -> [Expression; 2] {
    [daddr_type(Register::Reg1), cmp(Register::Reg1, Operator::Equal, &LOCAL.to_ne_bytes())]
}

/// Our bit as it lies in a register: the kernel has labels in words of a `long`'s length.
fn label() -> [u8; 16] {
    let words = (1_u128 << LABEL).to_le_bytes();
    let mut bytes = [0; 16];
    for (place, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words.as_chunks::<8>().0) {
        *place = u64::from_le_bytes(*word).to_ne_bytes();
    }
    bytes
}
