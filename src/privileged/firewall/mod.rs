//! The firewall that the helper changes: expectations or a set of our own for the grants, and our table for the log. Set up
//! by root, before anything untrusted is read.
//!
//! ```text
//! this file    what the loop calls; which of the two back ends it is
//! conntrack    a grant as a conntrack expectation
//! nftables     our table in the kernel: what is logged, and a grant as an element of a set
//!   ruleset      its grants' chain, written out once
//!   log_rules    its sets and chains that log
//!   guard        its copy of the rules that close services
//!   object       what it is made of: sets, chains, rules; expression: the words of its rules
//! route        which addresses are this host's
//! netlink      the socket to conntrack and nftables; attribute: what its messages are made of
//! tables       which tables there are, for `knock-daemon --check` alone
//! ```

mod attribute;
mod conntrack;
mod expression;
pub(crate) mod guard;
pub mod log_rules;
pub mod netlink;
pub(crate) mod nftables;
mod object;
mod route;
pub(crate) mod ruleset;
pub(crate) mod tables;

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use thiserror::Error;

use crate::grant::Grant;
use conntrack::{Expectations, MODULES};
use guard::Guard;
use log_rules::LogRules;
use netlink::Netlink;
use nftables::{Table, TableError};
use route::RouteSocket;

/// What a grant is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackEnd {
    /// A conntrack expectation: any firewall that accepts `ESTABLISHED,RELATED` lets it in.
    Conntrack,
    /// An element of a set of our own table, which marks the packet; other firewalls need a rule that accepts the mark.
    Nftables,
}

/// The kernel's tables, as this process may change them. Needs `CAP_NET_ADMIN`.
#[derive(Debug)]
pub struct Firewall {
    netlink: Netlink,
    routes: RouteSocket,
    /// None: this kernel has no `nf_tables`, and another firewall logs.
    table: Option<Table>,
    /// None: the nftables back end.
    expectations: Option<Expectations>,
}

/// Why there is no firewall to change.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FirewallError {
    /// No table of ours.
    #[error(transparent)]
    Table(#[from] TableError),
    /// No conntrack helper in this kernel, so no expectations.
    #[error(
        "this kernel has no conntrack helper for grants\nfix: load nf_conntrack_netlink and one of these modules: \
         {MODULES}; or set firewall = \"nftables\" in the config"
    )]
    NoConntrackHelper,
    /// Another refusal.
    #[error("the kernel refused netlink: {}", .0.desc())]
    Refused(#[from] Errno),
}

impl Firewall {
    /// Sets up `back_end` and the table `inet NAME` in the network namespace of this thread.
    ///
    /// The conntrack back end goes on without a table where the kernel has no `nf_tables`: see [`Firewall::has_table`].
    pub fn create(
        name: &str,
        back_end: BackEnd,
        log: &LogRules,
        max_open: usize,
    ) -> Result<Self, FirewallError> {
        let mut netlink = Netlink::open()?;
        let routes = RouteSocket::open()?;
        let (expectations, room) = match back_end {
            BackEnd::Nftables => (None, Some(max_open)),
            BackEnd::Conntrack => match Expectations::new(&mut netlink) {
                Ok(Some(expectations)) => (Some(expectations), None),
                Ok(None) => return Err(FirewallError::NoConntrackHelper),
                Err(Errno::EPERM) => return Err(TableError::NotPermitted.into()),
                Err(errno) => return Err(errno.into()),
            },
        };
        let table = match Table::create(&mut netlink, name, log, room) {
            Ok(table) => Some(table),
            Err(TableError::NoNfTables) if expectations.is_some() => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Self { netlink, routes, table, expectations })
    }

    /// Whether there is a table of ours, which logs.
    #[must_use]
    pub fn has_table(&self) -> bool {
        self.table.is_some()
    }

    /// The conntrack helpers that are used for IPv4 and IPv6. Where there is none, nothing can be opened for that family.
    #[must_use]
    pub fn conntrack_helpers(&self) -> Option<[Option<&'static str>; 2]> {
        self.expectations.as_ref().map(Expectations::helpers)
    }

    /// Closes services to strangers in our table, too, so that another program's `flush ruleset` does not open them.
    /// For the conntrack back end alone: the rules let pass what is `related`, and know no mark.
    pub(crate) fn guard(&mut self, guard: &Guard) -> Result<(), Errno> {
        match (&self.expectations, &self.table) {
            (Some(_), Some(table)) if guard.fits() => table.guard(&mut self.netlink, guard),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    /// Admits a connection, or renews what is open already. All or nothing.
    pub fn open(&mut self, grant: &Grant) -> Result<(), Errno> {
        match (&mut self.expectations, &self.table) {
            (Some(expectations), _) => expectations.open(&mut self.netlink, grant),
            (None, Some(table)) => table.open(&mut self.netlink, grant),
            (None, None) => Err(Errno::EOPNOTSUPP),
        }
    }

    /// Closes a grant. It is no error if it is closed already.
    pub(crate) fn close(&mut self, grant: &Grant) -> Result<(), Errno> {
        match (&mut self.expectations, &self.table) {
            (Some(expectations), _) => expectations.close(&mut self.netlink, grant),
            (None, Some(table)) => table.close(&mut self.netlink, grant),
            (None, None) => Err(Errno::EOPNOTSUPP),
        }
    }

    /// Closes all grants when the helper ends. The kernel removes the table with the socket.
    pub(crate) fn close_all(&mut self) -> Result<(), Errno> {
        let expectations = self.expectations.as_mut();
        expectations.map_or(Ok(()), |open| open.close_all(&mut self.netlink))
    }

    /// Our table, and the socket that changes it.
    pub(crate) fn table(&mut self) -> Option<(&mut Table, &mut Netlink)> {
        self.table.as_mut().map(|table| (table, &mut self.netlink))
    }

    /// Whether `address` is one of this host now.
    pub(crate) fn is_ours(&self, address: IpAddr) -> Result<bool, Errno> {
        self.routes.is_local(address)
    }

    /// The sockets, in the order of their numbers in the helper.
    pub(crate) fn sockets(&self) -> [BorrowedFd<'_>; 2] {
        [self.netlink.as_fd(), self.routes.as_fd()]
    }

    /// Goes on with duplicates of the sockets. Gives the old ones back.
    pub(crate) fn replace_sockets(&mut self, [netlink, routes]: [OwnedFd; 2]) -> [OwnedFd; 2] {
        [self.netlink.replace_socket(netlink), self.routes.replace_socket(routes)]
    }
}
