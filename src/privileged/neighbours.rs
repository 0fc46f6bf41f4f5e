//! Other firewalls on this host, for `knock-daemon --check`: which of them would drop what a knock let in, and the one line
//! that each needs. Reads the kernel's list of chains and rules; changes nothing, starts no program.
//!
//! An `accept` of ours ends only our own chain. A packet has to get past every other chain on the input hook, so each one
//! that drops needs a rule that accepts packets with our mark.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use netlink_packet_core::{DefaultNla, Nla};
use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, ExpressionAttribute, Expressions,
    Hook, HookNumber, Immediate, InetHookNumber, ListAttribute, Lookup, Meta, MetaKey,
    NfTablesMessage, Operator, Register, RuleAttribute, RuleMessage, Verdict, VerdictAttribute,
};
use nix::errno::Errno;

use super::MARK;
use super::netlink::Netlink;
use super::ruleset::PRIORITY;

const DROP: u32 = 0;
const ACCEPT: u32 = 1;

/// Name and data of an iptables match or target in an nftables rule.
const XT_NAME: u16 = 1;
const XT_INFO: u16 = 3;

/// Another firewall, which drops or refuses some of what comes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Whose it is.
    pub kind: FirewallKind,
    /// `inet`, `ip` or `ip6`.
    pub family: &'static str,
    /// The table.
    pub table: String,
    /// The chain on the input hook.
    pub chain: String,
    /// Whether a rule that accepts our mark was found in it.
    pub accepts_mark: bool,
    /// Whether its chain stands before ours, where no packet has our mark yet.
    pub is_before_ours: bool,
}

/// The firewalls that are told apart, because their line is put in another way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirewallKind {
    /// ufw.
    Ufw,
    /// firewalld with its nftables back end.
    Firewalld,
    /// iptables rules, made by hand or by another program.
    Iptables,
    /// An nftables ruleset.
    Nftables,
    /// Rules of the legacy iptables, which cannot be seen here.
    Legacy,
}

/// The firewalls that could drop what a knock let in, in the network namespace of this thread. Needs root.
pub fn neighbours() -> Result<Vec<Neighbour>, Errno> {
    let mut netlink = Netlink::open()?;
    let mut seen = Seen::default();
    let chains = NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() });
    netlink.dump(NetfilterProtoFamily::Unspec, chains, |family, message| {
        if let (Some(family), NfTablesMessage::NewChain(chain)) = (name_of(family), message) {
            seen.add_chain(family, &chain.attributes);
        }
    })?;
    let rules = NfTablesMessage::GetRule(RuleMessage { attributes: Vec::new() });
    netlink.dump(NetfilterProtoFamily::Unspec, rules, |family, message| {
        if let (Some(family), NfTablesMessage::NewRule(rule)) = (name_of(family), message) {
            seen.add_rule(family, &rule.attributes);
        }
    })?;
    let mut found = seen.neighbours();
    // The legacy iptables tells its tables' names there, and nothing over netlink.
    for (file, family) in
        [("/proc/net/ip_tables_names", "ip"), ("/proc/net/ip6_tables_names", "ip6")]
    {
        if std::fs::read_to_string(file)
            .is_ok_and(|names| names.lines().any(|name| name == "filter"))
        {
            let (table, chain) = ("filter".to_owned(), "INPUT".to_owned());
            found.push(Neighbour {
                kind: FirewallKind::Legacy,
                family,
                table,
                chain,
                accepts_mark: false,
                is_before_ours: false,
            });
        }
    }
    Ok(found)
}

/// The families whose chains see what comes in to this host.
fn name_of(family: NetfilterProtoFamily) -> Option<&'static str> {
    match family {
        NetfilterProtoFamily::Inet => Some("inet"),
        NetfilterProtoFamily::IPv4 => Some("ip"),
        NetfilterProtoFamily::IPv6 => Some("ip6"),
        _ => None,
    }
}

/// Family, table, chain.
type Name = (&'static str, String, String);

#[derive(Default)]
struct Seen {
    /// The chains on the input hook: whether their policy is to drop, and whether they stand before ours.
    input: BTreeMap<Name, (bool, bool)>,
    chains: BTreeSet<Name>,
    drops: BTreeSet<Name>,
    /// Those of them with a rule that drops whatever has come so far: what stands behind it is never asked.
    shut: BTreeSet<Name>,
    accepts_mark: BTreeSet<Name>,
    jumps: BTreeMap<Name, Vec<String>>,
}

impl Seen {
    fn add_chain(&mut self, family: &'static str, attributes: &[ChainAttribute]) {
        let (mut table, mut chain, mut on_input) = (String::new(), String::new(), false);
        let (mut drops, mut before_ours) = (false, false);
        for attribute in attributes {
            match attribute {
                ChainAttribute::Table(name) => table.clone_from(name),
                ChainAttribute::Name(name) => chain.clone_from(name),
                ChainAttribute::Hook(hook) => {
                    on_input =
                        hook.contains(&Hook::Number(HookNumber::Inet(InetHookNumber::LocalIn)));
                    // Of two chains at one priority, the one that was there first goes first.
                    before_ours = hook.iter().any(
                        |part| matches!(part, Hook::Priority(at) if at.cast_signed() <= PRIORITY),
                    );
                }
                ChainAttribute::Policy(policy) => drops = *policy == DROP,
                _ => {}
            }
        }
        let name = (family, table, chain);
        if on_input {
            self.input.insert(name.clone(), (drops, before_ours));
        }
        self.chains.insert(name);
    }

    fn add_rule(&mut self, family: &'static str, attributes: &[RuleAttribute]) {
        let (mut table, mut chain, mut rule) = (String::new(), String::new(), Rule::default());
        for attribute in attributes {
            match attribute {
                RuleAttribute::Table(name) => table.clone_from(name),
                RuleAttribute::Chain(name) => chain.clone_from(name),
                RuleAttribute::Expressions(expressions) => rule = Rule::read(expressions),
                _ => {}
            }
        }
        let name = (family, table, chain);
        if rule.drops {
            self.drops.insert(name.clone());
            if rule.matches == Matches::Every {
                self.shut.insert(name.clone());
            }
        }
        // The kernel lists a chain's rules in their order.
        if rule.accepts && rule.matches == Matches::OurMark && !self.shut.contains(&name) {
            self.accepts_mark.insert(name.clone());
        }
        self.jumps.entry(name).or_default().extend(rule.jumps);
    }

    fn neighbours(&self) -> Vec<Neighbour> {
        let mut found = Vec::new();
        for (start, (policy_drops, is_before_ours)) in &self.input {
            let reachable = self.reachable(start);
            if *policy_drops || reachable.iter().any(|name| self.drops.contains(name)) {
                let (family, table, chain) = start.clone();
                let accepts_mark = reachable.iter().any(|name| self.accepts_mark.contains(name));
                let kind = self.kind_of(family, &table, &chain);
                let is_before_ours = *is_before_ours;
                found.push(Neighbour { kind, family, table, chain, accepts_mark, is_before_ours });
            }
        }
        found
    }

    fn reachable(&self, start: &Name) -> BTreeSet<Name> {
        let (mut reached, mut next) = (BTreeSet::new(), vec![start.clone()]);
        while let Some(name) = next.pop() {
            if reached.insert(name.clone()) {
                let jumps = self.jumps.get(&name).into_iter().flatten();
                next.extend(jumps.map(|chain| (name.0, name.1.clone(), chain.clone())));
            }
        }
        reached
    }

    fn kind_of(&self, family: &'static str, table: &str, chain: &str) -> FirewallKind {
        let has = |chain: &str| self.chains.contains(&(family, table.to_owned(), chain.to_owned()));
        match (family, table, chain) {
            ("ip" | "ip6", "filter", "INPUT")
                if has("ufw-before-input") || has("ufw6-before-input") =>
            {
                FirewallKind::Ufw
            }
            ("ip" | "ip6", "filter", "INPUT") => FirewallKind::Iptables,
            (_, "firewalld", _) => FirewallKind::Firewalld,
            _ => FirewallKind::Nftables,
        }
    }
}

/// What a rule does, as far as it matters here.
#[derive(Default)]
struct Rule {
    drops: bool,
    accepts: bool,
    matches: Matches,
    jumps: Vec<String>,
}

/// Which packets a rule is for.
#[derive(Default, PartialEq)]
enum Matches {
    #[default]
    Every,
    OurMark,
    Others,
}

impl Rule {
    fn read(expressions: &[ListAttribute<ExpressionAttribute>]) -> Self {
        let mut rule = Self::default();
        let mut on_mark = false;
        for expression in expressions {
            let ListAttribute::Element(attributes) = expression else { continue };
            for attribute in attributes {
                let ExpressionAttribute::Data(data) = attribute else { continue };
                match data {
                    Expressions::Meta(meta) => on_mark = meta.contains(&Meta::Key(MetaKey::Mark)),
                    Expressions::Bitwise(bits) if on_mark => {
                        let our_bit = DataAttribute::Value(MARK.to_ne_bytes().to_vec());
                        rule.narrow(if bits.contains(&Bitwise::Mask(our_bit)) {
                            Matches::OurMark
                        } else {
                            Matches::Others
                        });
                    }
                    // `mark & BIT == BIT` or `!= 0`; not the other two.
                    Expressions::Cmp(cmp) if on_mark => {
                        let asks_for_zero =
                            cmp.contains(&Cmp::Data(DataAttribute::Value(vec![0; 4])));
                        if cmp.contains(&Cmp::Op(Operator::Equal)) == asks_for_zero {
                            rule.narrow(Matches::Others);
                        }
                    }
                    Expressions::Immediate(immediate) => rule.read_verdict(immediate),
                    // A verdict map: which verdicts are in it does not show here, so it is taken to drop.
                    Expressions::Lookup(lookup) => {
                        rule.drops |=
                            lookup.contains(&Lookup::DestinationRegister(Register::Verdict));
                        rule.narrow(Matches::Others);
                    }
                    Expressions::Other { expression_type, attributes } => {
                        match expression_type.as_str() {
                            "counter" | "log" => {}
                            "reject" => rule.drops = true,
                            "target" => rule.drops |= text_of(attributes, XT_NAME) == "REJECT",
                            "match" if is_our_mark(attributes) => rule.narrow(Matches::OurMark),
                            _ => rule.narrow(Matches::Others),
                        }
                    }
                    _ => rule.narrow(Matches::Others),
                }
            }
        }
        rule
    }

    fn narrow(&mut self, matches: Matches) {
        if self.matches != Matches::Others {
            self.matches = matches;
        }
    }

    fn read_verdict(&mut self, immediate: &[Immediate]) {
        for attribute in immediate {
            let Immediate::Data(DataAttribute::Verdict(verdict)) = attribute else { continue };
            for attribute in verdict {
                match attribute {
                    VerdictAttribute::Code(Verdict::Other(DROP)) => self.drops = true,
                    VerdictAttribute::Code(Verdict::Other(ACCEPT)) => self.accepts = true,
                    VerdictAttribute::Chain(chain) => self.jumps.push(chain.clone()),
                    _ => {}
                }
            }
        }
    }
}

/// Whether this iptables match is `-m mark --mark MARK/MARK`: mark, mask, not inverted.
fn is_our_mark(attributes: &[DefaultNla]) -> bool {
    let (mark, info) = (MARK.to_ne_bytes(), value_of(attributes, XT_INFO));
    text_of(attributes, XT_NAME) == "mark"
        && info.starts_with(&[mark, mark].concat())
        && info.get(8) == Some(&0)
}

fn text_of(attributes: &[DefaultNla], kind: u16) -> String {
    String::from_utf8_lossy(&value_of(attributes, kind)).trim_end_matches('\0').to_owned()
}

fn value_of(attributes: &[DefaultNla], kind: u16) -> Vec<u8> {
    let Some(attribute) = attributes.iter().find(|attribute| attribute.kind() == kind) else {
        return Vec::new();
    };
    let mut value = vec![0; attribute.value_len()];
    attribute.emit_value(&mut value);
    value
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, family, table, chain, accepts_mark, is_before_ours } = self;
        let (table, chain) = (table.escape_debug(), chain.escape_debug());
        let six = if *family == "ip6" { "6" } else { "" };
        write!(f, "{kind} (table {family} {table}, chain {chain}) ")?;
        if *is_before_ours {
            return write!(
                f,
                "would drop what a knock let in, before our chain can mark it: no rule helps; give that chain a priority \
                 above {PRIORITY}, like `filter`"
            );
        }
        if *accepts_mark {
            return write!(f, "drops by default and accepts our mark");
        }
        match kind {
            FirewallKind::Ufw => write!(
                f,
                "would drop what a knock let in: put this line into /etc/ufw/before{six}.rules, below \
                 \"# End required lines\", and run `ufw reload`:\n    \
                 -A ufw{six}-before-input -m mark --mark {MARK:#x}/{MARK:#x} -j ACCEPT"
            ),
            FirewallKind::Firewalld => write!(
                f,
                "would refuse what a knock let in, and has no rule for marks: set FirewallBackend=iptables in \
                 /etc/firewalld/firewalld.conf, restart it, and for ipv4 and for ipv6 run:\n    \
                 firewall-cmd --permanent --direct --add-rule ipv4 filter INPUT 0 \
                 -m mark --mark {MARK:#x}/{MARK:#x} -j ACCEPT && firewall-cmd --reload"
            ),
            FirewallKind::Iptables => write!(
                f,
                "would drop what a knock let in: run this, and put it where your rules are kept:\n    \
                 ip{six}tables -I INPUT -m mark --mark {MARK:#x}/{MARK:#x} -j ACCEPT"
            ),
            FirewallKind::Legacy => write!(
                f,
                "cannot be looked into from here: if it drops by default, run this, and put it where your rules are \
                 kept:\n    ip{six}tables-legacy -I INPUT -m mark --mark {MARK:#x}/{MARK:#x} -j ACCEPT"
            ),
            FirewallKind::Nftables => write!(
                f,
                "would drop what a knock let in: run this, and put the rule into the file of your ruleset:\n    \
                 nft insert rule {family} {table} {chain} 'meta mark & {MARK:#x} == {MARK:#x} accept'"
            ),
        }
    }
}

impl fmt::Display for FirewallKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ufw => "ufw",
            Self::Firewalld => "firewalld",
            Self::Iptables => "iptables",
            Self::Nftables => "an nftables ruleset",
            Self::Legacy => "the legacy iptables",
        })
    }
}
