//! The firewall that the helper changes: one of the back ends, chosen by root's configuration.

#![forbid(unsafe_code)]

use std::time::Duration;

use nix::errno::Errno;

use super::{Chain, Request, Table};

/// A back end, set up by root before anything untrusted is read.
#[derive(Debug)]
pub enum Firewall {
    /// Our own nftables table, changed over netlink. Needs `CAP_NET_ADMIN`.
    Nftables(Table),
    /// Our own iptables chain, changed by running `iptables`. Needs uid 0, `CAP_NET_ADMIN` and `CAP_NET_RAW`.
    Iptables(Chain),
}

impl Firewall {
    /// Admits one connection, or renews what is open already. All or nothing.
    pub(super) fn open(&mut self, request: &Request) -> Result<(), Errno> {
        match self {
            Self::Nftables(table) => table.open(request),
            Self::Iptables(chain) => chain.open(request),
        }
    }

    /// How long the helper may wait for a request before [`Firewall::expire`]; `None`: for ever.
    pub(super) fn next_expiry(&self) -> Option<Duration> {
        match self {
            Self::Nftables(_) => None, // the kernel's own business
            Self::Iptables(chain) => chain.next_expiry(),
        }
    }

    /// Clears away what the kernel has let lapse and cannot clear away itself.
    pub(super) fn expire(&mut self) {
        if let Self::Iptables(chain) = self {
            chain.expire();
        }
    }

    /// Takes everything of ours away: at the helper's end, or after a trial.
    pub fn close(&self) {
        if let Self::Iptables(chain) = self {
            chain.close();
        }
    }
}
