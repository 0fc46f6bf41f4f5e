//! A grant as a conntrack expectation: the next connection of that address to that port is `RELATED`, and every firewall
//! that accepts `ESTABLISHED,RELATED` lets it in. Owns what was made, and how it is taken back.
//!
//! ```text
//! master        0.P.P.P:SLOT -> 0.0.0.0:0     an entry that no connection has; one for each grant
//! expectation   client:any -> server:PORT     one connection, or any number (permanent); its time is the kernel's
//! ```
//!
//! An expectation belongs to a master with a conntrack helper, here one that never sees a packet. It takes its time from
//! that helper's policy; only a change sets another. P.P.P is this process, so that two daemons never share a master.
//! The master's own time is collected lazily and means nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_netfilter::{NetfilterProtoFamily, NetfilterSubsystem};
use nix::errno::Errno;

use super::attribute::{nested, number, text};
use super::netlink::{Action, Command, Netlink};
use crate::grant::{Grant, Protocol, Spend};

/// Conntrack's helpers and the protocol of the connections that each is for, the shortest time of its policy first: 3, 30,
/// 180, 180, 300 and 300 seconds. The first two are for IPv4 alone.
const HELPERS: [(&str, u8); 6] = [
    ("netbios-ns", UDP),
    ("snmp", UDP),
    ("amanda", UDP),
    ("sip", UDP),
    ("tftp", UDP),
    ("ftp", TCP),
];
/// The modules that provide them, for the hint when none is loaded.
pub(super) const MODULES: &str = "nf_conntrack_netbios_ns, nf_conntrack_snmp, nf_conntrack_amanda, nf_conntrack_sip, nf_conntrack_tftp, nf_conntrack_ftp";

const UDP: u8 = Protocol::Udp as u8;
const TCP: u8 = Protocol::Tcp as u8;
/// How much longer than its expectation a master lives, in seconds: the expectation goes with it.
const EXTRA: u32 = 2;
/// How many slots are tried if another program has made an entry like ours.
const MAX_TRIES: usize = 16;

/// `IPCTNL_MSG_CT_NEW` and so on, and those of `NFNL_SUBSYS_CTNETLINK_EXP`.
const NEW_ENTRY: Action = (NetfilterSubsystem::Conntrack, 0);
const DELETE_ENTRY: Action = (NetfilterSubsystem::Conntrack, 2);
const NEW_EXPECTATION: Action = (NetfilterSubsystem::Other(2), 0);
const DELETE_EXPECTATION: Action = (NetfilterSubsystem::Other(2), 2);

/// `enum ctattr_type`, `enum ctattr_expect`.
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const HELP: u16 = 5;
const TIMEOUT: u16 = 7;
const EXPECT_MASTER: u16 = 1;
const EXPECT_TUPLE: u16 = 2;
const EXPECT_MASK: u16 = 3;
const EXPECT_TIMEOUT: u16 = 4;
const EXPECT_FLAGS: u16 = 8;
/// `NF_CT_EXPECT_PERMANENT`.
const PERMANENT: u32 = 1;
/// `IPS_SEEN_REPLY | IPS_ASSURED | IPS_CONFIRMED`: an assured entry is not dropped early when the table is full.
const LASTS: u32 = 2 | 4 | 8;

/// The expectations of this process.
#[derive(Debug)]
pub(super) struct Expectations {
    /// The helper for IPv4,
    v4: Option<ConntrackHelper>,
    /// and for IPv6.
    v6: Option<ConntrackHelper>,
    process: u32,
    slot: u16,
    open: Vec<Open>,
}

/// A conntrack helper that this kernel has.
#[derive(Clone, Copy, Debug)]
struct ConntrackHelper {
    name: &'static str,
    protocol: u8,
}

/// What was opened and may still be.
#[derive(Debug)]
struct Open {
    grant: Grant,
    slot: u16,
    end: Instant,
}

impl Expectations {
    /// Finds the conntrack helpers to use, by making a master with each. `None`: this kernel has none, for no family.
    pub(super) fn new(netlink: &mut Netlink) -> Result<Option<Self>, Errno> {
        let mut new =
            Self { v4: None, v6: None, process: std::process::id(), slot: 0, open: Vec::new() };
        new.v4 = new.find(netlink, Ipv4Addr::UNSPECIFIED.into())?;
        new.v6 = new.find(netlink, Ipv6Addr::UNSPECIFIED.into())?;
        Ok(new.v4.or(new.v6).is_some().then_some(new))
    }

    /// The first helper that works for addresses like `any`.
    fn find(&self, netlink: &mut Netlink, any: IpAddr) -> Result<Option<ConntrackHelper>, Errno> {
        for (name, protocol) in HELPERS {
            let helper = ConntrackHelper { name, protocol };
            match self.try_out(netlink, helper, any) {
                Ok(()) => return Ok(Some(helper)),
                Err(Errno::EPERM) => return Err(Errno::EPERM),
                Err(_) => {}
            }
        }
        Ok(None)
    }

    /// The helpers for IPv4 and IPv6, by name.
    pub(super) fn helpers(&self) -> [Option<&'static str>; 2] {
        [self.v4, self.v6].map(|helper| helper.map(|helper| helper.name))
    }

    fn try_out(
        &self,
        netlink: &mut Netlink,
        helper: ConntrackHelper,
        any: IpAddr,
    ) -> Result<(), Errno> {
        let master = self.master(helper, any, self.slot);
        tell(netlink, NEW_ENTRY, any, ONLY_NEW, master.attributes(EXTRA))?;
        tell(netlink, DELETE_ENTRY, any, 0, vec![master.tuple(TUPLE_ORIGINAL)])
    }

    /// Opens what `grant` says, or renews it. A connection that has used a grant for one up is not counted: the grant is
    /// made anew.
    pub(super) fn open(&mut self, netlink: &mut Netlink, grant: &Grant) -> Result<(), Errno> {
        let now = Instant::now();
        self.open.retain(|open| open.end > now);
        let end = now + Duration::from_secs(grant.seconds.into());
        if let Some(place) = self.open.iter().position(|open| open.grant.is_for_the_same(grant)) {
            let old = self.open.swap_remove(place);
            if old.grant.spend == grant.spend && self.renew(netlink, old.slot, grant).is_ok() {
                self.open.push(Open { grant: *grant, end, ..old });
                return Ok(());
            }
            self.revoke(netlink, old.slot, &old.grant)?;
        }
        for _ in 0..MAX_TRIES {
            self.slot = self.slot.wrapping_add(1);
            match self.make(netlink, self.slot, grant) {
                Err(Errno::EEXIST) => {}
                made => {
                    made?;
                    self.open.push(Open { grant: *grant, slot: self.slot, end });
                    return Ok(());
                }
            }
        }
        Err(Errno::EEXIST)
    }

    /// Closes what was opened, if it still is.
    pub(super) fn close(&mut self, netlink: &mut Netlink, grant: &Grant) -> Result<(), Errno> {
        let ours = self.open.extract_if(.., |open| open.grant.is_for_the_same(grant));
        for Open { grant, slot, .. } in ours.collect::<Vec<_>>() {
            self.revoke(netlink, slot, &grant)?;
        }
        Ok(())
    }

    /// Closes everything, and goes on where something cannot be closed: the kernel ends that at its time.
    pub(super) fn close_all(&mut self, netlink: &mut Netlink) -> Result<(), Errno> {
        let all = std::mem::take(&mut self.open);
        let closed = all.iter().map(|open| self.revoke(netlink, open.slot, &open.grant));
        closed.fold(Ok(()), Result::and)
    }

    fn make(&self, netlink: &mut Netlink, slot: u16, grant: &Grant) -> Result<(), Errno> {
        let client = grant.address;
        let master = self.master(self.helper(grant)?, client, slot);
        let entry = master.attributes(u32::from(grant.seconds) + EXTRA);
        let [expectation, with_time] = expectation(&master, grant);
        // Delete an old expectation that no connection has met: the kernel refuses a second one of the kind.
        let _ = tell(netlink, DELETE_EXPECTATION, client, 0, vec![grant.tuple(EXPECT_TUPLE)]);
        tell(netlink, NEW_ENTRY, client, ONLY_NEW, entry)?;
        // Together: if this process died between them, the grant would last as long as the helper's policy says.
        let made = netlink.tell(&[
            command(NEW_EXPECTATION, client, ONLY_NEW, expectation),
            command(NEW_EXPECTATION, client, 0, with_time),
        ]);
        if made.is_err() {
            self.revoke(netlink, slot, grant)?;
        }
        // The caller takes this one for a slot that is in use.
        made.map_err(|errno| if errno == Errno::EEXIST { Errno::EBUSY } else { errno })
    }

    fn renew(&self, netlink: &mut Netlink, slot: u16, grant: &Grant) -> Result<(), Errno> {
        let client = grant.address;
        let master = self.master(self.helper(grant)?, client, slot);
        let longer =
            vec![master.tuple(TUPLE_ORIGINAL), number(TIMEOUT, u32::from(grant.seconds) + EXTRA)];
        let [_, with_time] = expectation(&master, grant);
        tell(netlink, NEW_ENTRY, client, 0, longer)?;
        tell(netlink, NEW_EXPECTATION, client, 0, with_time)
    }

    /// Deletes expectation and master. It is no error if they do not exist any more.
    fn revoke(&self, netlink: &mut Netlink, slot: u16, grant: &Grant) -> Result<(), Errno> {
        let master = self.master(self.helper(grant)?, grant.address, slot).tuple(TUPLE_ORIGINAL);
        let ours = [(DELETE_EXPECTATION, grant.tuple(EXPECT_TUPLE)), (DELETE_ENTRY, master)];
        let gone = ours.map(|(action, name)| tell(netlink, action, grant.address, 0, vec![name]));
        gone.into_iter().filter(|gone| *gone != Err(Errno::ENOENT)).collect()
    }

    fn helper(&self, grant: &Grant) -> Result<ConntrackHelper, Errno> {
        let helper = if grant.address.is_ipv4() { self.v4 } else { self.v6 };
        helper.ok_or(Errno::EAFNOSUPPORT)
    }

    fn master(&self, helper: ConntrackHelper, like: IpAddr, slot: u16) -> Master {
        let [_, b, c, d] = self.process.to_be_bytes();
        let (source, destination) = if like.is_ipv4() {
            (Ipv4Addr::new(0, b, c, d).into(), Ipv4Addr::UNSPECIFIED.into())
        } else {
            let [high, low] = [u16::from(b), u16::from_be_bytes([c, d])];
            let source = Ipv6Addr::new(0, high, low, 0, 0, 0, 0, 0);
            (source.into(), Ipv6Addr::UNSPECIFIED.into())
        };
        Master { helper, source, destination, slot }
    }
}

const ONLY_NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// The entry that an expectation belongs to.
struct Master {
    helper: ConntrackHelper,
    source: IpAddr,
    destination: IpAddr,
    slot: u16,
}

impl Master {
    fn tuple(&self, kind: u16) -> DefaultNla {
        let [from, to] = [(self.source, self.slot), (self.destination, 0)];
        tuple(kind, from, to, self.helper.protocol)
    }

    fn attributes(&self, seconds: u32) -> Vec<DefaultNla> {
        let [from, to] = [(self.destination, 0), (self.source, self.slot)];
        vec![
            self.tuple(TUPLE_ORIGINAL),
            tuple(TUPLE_REPLY, from, to, self.helper.protocol),
            number(STATUS, LASTS),
            number(TIMEOUT, seconds),
            nested(HELP, &[text(1, self.helper.name)]),
        ]
    }
}

impl Grant {
    fn tuple(&self, kind: u16) -> DefaultNla {
        let (from, to) = ((self.address, 0), (self.destination, self.port));
        tuple(kind, from, to, self.protocol as u8)
    }
}

/// The expectation as it is made, and as its time is set.
fn expectation(master: &Master, grant: &Grant) -> [Vec<DefaultNla>; 2] {
    let ones: IpAddr = match grant.address {
        IpAddr::V4(_) => Ipv4Addr::BROADCAST.into(),
        IpAddr::V6(_) => Ipv6Addr::from([0xff; 16]).into(),
    };
    // Of the source, the address has to fit, the port need not. The destination has to fit anyway.
    let mask = tuple(EXPECT_MASK, (ones, 0), (ones, u16::MAX), grant.protocol as u8);
    let flags = if grant.spend == Spend::Any { PERMANENT } else { 0 };
    let made = vec![
        master.tuple(EXPECT_MASTER),
        grant.tuple(EXPECT_TUPLE),
        mask,
        number(EXPECT_FLAGS, flags),
    ];
    let mut with_time = made.clone();
    with_time.push(number(EXPECT_TIMEOUT, grant.seconds.into()));
    [made, with_time]
}

/// A connection's addresses, protocol and ports.
fn tuple(kind: u16, from: (IpAddr, u16), to: (IpAddr, u16), protocol: u8) -> DefaultNla {
    let address = |address: IpAddr, [v4_kind, v6_kind]: [u16; 2]| match address {
        IpAddr::V4(v4) => DefaultNla::new(v4_kind, v4.octets().to_vec()),
        IpAddr::V6(v6) => DefaultNla::new(v6_kind, v6.octets().to_vec()),
    };
    let port = |kind, port: u16| DefaultNla::new(kind, port.to_be_bytes().to_vec());
    let addresses = nested(1, &[address(from.0, [1, 3]), address(to.0, [2, 4])]);
    let protocol = DefaultNla::new(1, vec![protocol]);
    nested(kind, &[addresses, nested(2, &[protocol, port(2, from.1), port(3, to.1)])])
}

fn tell(
    netlink: &mut Netlink,
    action: Action,
    like: IpAddr,
    flags: u16,
    attributes: Vec<DefaultNla>,
) -> Result<(), Errno> {
    netlink.tell(&[command(action, like, flags, attributes)])
}

fn command(action: Action, like: IpAddr, flags: u16, attributes: Vec<DefaultNla>) -> Command {
    let family =
        if like.is_ipv4() { NetfilterProtoFamily::IPv4 } else { NetfilterProtoFamily::IPv6 };
    Command::new(family, action, flags, attributes)
}
