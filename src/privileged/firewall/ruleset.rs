//! Our table, written out once: what `nft list table inet knockknock` shows. Pure: makes commands, sends none.
//!
//! ```text
//! table inet knockknock {                    # flags owner: gone when the helper's socket is
//!     the sets and chains that log: see log_rules
//!     # where grants are no expectations, the `nftables` back end:
//!     set open4 { type ipv4_addr . inet_proto . inet_service; size ..; flags dynamic,timeout }
//!     set open6 { type ipv6_addr . inet_proto . inet_service; size ..; flags dynamic,timeout }
//!     chain admit {
//!         type filter hook input priority filter - 10; policy accept;
//!         ct state ! new accept                                     # only a first packet can need a grant
//!         tcp flags & (fin | syn | rst | ack) != syn accept         # nor does a stray packet use one up
//!         ct mark & 0x20000000 == 0x20000000 meta mark set meta mark | 0x20000000 accept
//!         ip  saddr . meta l4proto . th dport @open4 ct mark set ct mark | 0x20000000 meta mark set .. accept
//!         ip6 saddr . meta l4proto . th dport @open6 ct mark set ct mark | 0x20000000 meta mark set .. accept
//!     }
//! }
//! ```
//!
//! Each element has a timeout and `limit rate 1/day burst 1`: it matches one packet, and then none for longer than it
//! lives. Deleting the element from the packet path instead lets two packets in that come at the same instant on two
//! CPUs, and litters the set with dead elements of one key, until inserting that key fails (`EBUSY`, after 16 or so within
//! a second).
//!
//! `accept` ends this chain only. The mark makes the difference: every other firewall on the host needs one rule that
//! accepts packets with this bit. The connection keeps the bit too, so a SYN that is sent again, when the element
//! matches no more, still gets in.

use netlink_packet_netfilter::nftables::{InetHookNumber, MetaKey, Operator, Register};

use super::expression::{
    Base, CtKey, Expression, accept, bitwise, cmp, ct_load, ct_set, destination_port, is_syn,
    lookup, meta_load, meta_set, payload_load,
};
use super::log_rules::{self, LogRules};
use super::netlink::Command;
use super::object::{Set, new_chain, new_dynamic_set, new_rule, new_table};

/// The bit in packet mark and connection mark that stands for a valid knock.
pub(crate) const MARK: u32 = 0x2000_0000;

/// The set of IPv4 grants.
pub(super) const OPEN4: &str = "open4";
/// The set of IPv6 grants.
pub(super) const OPEN6: &str = "open6";

const CHAIN: &str = "admit";
/// `filter - 10`: before the chains of other firewalls, which stand at `filter` (0) or later.
const PRIORITY: i32 = -10;

/// nft's numbers of the data types, six bits each in the type of a concatenation. They tell `nft list` how to print.
const IPV4_ADDR: u32 = 7;
const IPV6_ADDR: u32 = 8;
const INET_PROTO: u32 = 12;
const INET_SERVICE: u32 = 13;

/// `NF_CT_STATE_BIT(IP_CT_NEW)`.
const STATE_NEW: u32 = 8;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

/// The commands that make `table` with the chains that log; with sets for grants, with room for this many of each family,
/// where that is asked for. Fails where a table of that name exists.
pub(super) fn create(table: &str, log: &LogRules, grants: Option<u32>) -> Vec<Command> {
    let mut commands = vec![new_table(table)];
    commands.extend(log_rules::create(table, log));
    if let Some(size) = grants {
        let set = |name, id, address_type: u32, address_length: u32| {
            let key_type = (address_type << 12) | (INET_PROTO << 6) | INET_SERVICE;
            let key = (key_type, address_length + 4 + 4);
            new_dynamic_set(table, &Set { name, id, key }, size, &[])
        };
        commands.extend([set(OPEN4, 4, IPV4_ADDR, 4), set(OPEN6, 5, IPV6_ADDR, 16)]);
        commands.push(new_chain(table, CHAIN, InetHookNumber::LocalIn, PRIORITY));
        commands.extend(rules().map(|rule| new_rule(table, CHAIN, rule)));
    }
    commands
}

/// The rules of the chain, in order.
fn rules() -> [Vec<Expression>; 5] {
    let r1 = Register::Reg1;
    let not_new = vec![
        ct_load(CtKey::State, r1),
        bitwise(r1, &STATE_NEW.to_ne_bytes(), &[0; 4]),
        cmp(r1, Operator::Equal, &[0; 4]),
        accept(),
    ];
    let mut stray = is_syn(Operator::NotEqual);
    stray.push(accept());
    let mut again = vec![
        ct_load(CtKey::Mark, r1),
        bitwise(r1, &MARK.to_ne_bytes(), &[0; 4]),
        cmp(r1, Operator::Equal, &MARK.to_ne_bytes()),
    ];
    again.extend(mark_packet_and_accept());

    let v4 = grant(NFPROTO_IPV4, (12, 4), [Register::Reg32_01, Register::Reg32_02], OPEN4);
    let v6 = grant(NFPROTO_IPV6, (8, 16), [Register::Reg32_04, Register::Reg32_05], OPEN6);
    [not_new, stray, again, v4, v6]
}

/// The rule that admits one connection: looks the packet up, marks connection and packet.
/// `after` are the registers that follow the address's.
fn grant(
    family: u8,
    (offset, length): (u32, u32),
    after: [Register; 2],
    set: &str,
) -> Vec<Expression> {
    let (key, [protocol, port]) = (Register::Reg1, after);
    let mut rule = vec![
        meta_load(MetaKey::Nfproto, key),
        cmp(key, Operator::Equal, &[family]),
        payload_load(Base::Network, offset, length, key),
        meta_load(MetaKey::L4Proto, protocol),
        destination_port(port),
        lookup(set, key),
    ];
    rule.extend([ct_load(CtKey::Mark, key), add_mark(key), ct_set(CtKey::Mark, key)]);
    rule.extend(mark_packet_and_accept());
    rule
}

fn mark_packet_and_accept() -> [Expression; 4] {
    let r1 = Register::Reg1;
    [meta_load(MetaKey::Mark, r1), add_mark(r1), meta_set(MetaKey::Mark, r1), accept()]
}

/// `register |= MARK`: keep the other bits, which are other programs', and set ours.
fn add_mark(register: Register) -> Expression {
    bitwise(register, &(!MARK).to_ne_bytes(), &MARK.to_ne_bytes())
}
