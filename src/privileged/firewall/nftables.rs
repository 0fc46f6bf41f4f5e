//! Our table in the kernel: what it logs, and with the nftables back end its grants. The netlink socket that made it
//! owns it: when the last process that has this socket ends, for whatever reason, the kernel removes the table.

use std::net::IpAddr;

use nix::errno::Errno;
use thiserror::Error;

use super::expression::limit_to_one;
use super::guard::{self, Guard};
use super::log_rules::{EXPECTED, KNOCK_PORTS, LogRules};
use super::netlink::{BatchError, Command, Netlink};
use super::object::{
    ADD, ADD_NEW, Change, DELETE, condition, delete_table, elements, key, timeout,
};
use super::ruleset::{self, OPEN4, OPEN6};
use crate::grant::Grant;

/// How many sequence numbers there may be to log: a set of a million takes some 100 MB of the kernel's memory.
pub(crate) const MAX_EXPECTED: usize = 1_000_000;

/// How often a grant is tried when the element to renew expires between two commands.
const MAX_TRIES: usize = 3;

/// Our table in the kernel.
#[derive(Debug)]
pub(crate) struct Table {
    name: String,
    /// How many elements are in the set of expected numbers.
    expected: usize,
}

/// Why there is no table of ours.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TableError {
    /// The kernel has no `nf_tables`.
    #[error(
        "this kernel has no nf_tables\nfix: load the module nf_tables, or set firewall = \"conntrack\" in the config"
    )]
    NoNfTables,
    /// The kernel has `nf_tables`, but no tables that end with their process.
    #[error(
        "this kernel cannot tie an nftables table to its process\nfix: knock-daemon needs Linux 5.12 or later"
    )]
    NoOwnerFlag,
    /// Another process owns a table of this name.
    #[error(
        "another knock-daemon owns table inet {0}\nfix: stop it, or start this one with --instance NAME"
    )]
    Owned(String),
    /// This process lacks `CAP_NET_ADMIN`.
    #[error("changing the firewall needs CAP_NET_ADMIN\nfix: start knock-daemon as root")]
    NotPermitted,
    /// The kernel refused message number `.1` of the ruleset for table `.0`.
    #[error("the kernel refused table inet {0}{at}: {errno}", at = at_message(*.1), errno = .2.desc())]
    Refused(String, Option<usize>, Errno),
}

fn at_message(at: Option<usize>) -> String {
    at.map_or_else(String::new, |at| format!(" at message {at}"))
}

impl Table {
    /// Makes the table `inet NAME` in the network namespace of `netlink`, with room for this many grants, if any.
    ///
    /// A table of that name that no process owns is what a saved and restored ruleset left behind: it is replaced.
    pub(super) fn create(
        netlink: &mut Netlink,
        name: &str,
        log: &LogRules,
        max_open: Option<usize>,
    ) -> Result<Self, TableError> {
        // The helper counts what is open. The kernel's own limit stands behind it, with room for elements that are being
        // renewed and for those whose time is over and which the kernel collects once a second.
        let size = |max_open| {
            u32::try_from(max_open).unwrap_or(u32::MAX).saturating_mul(2).saturating_add(16)
        };
        let mut commands = ruleset::create(name, log, max_open.map(size));
        let mut made = netlink.transact(&commands);
        if made == Err(BatchError { at: Some(0), errno: Errno::EEXIST }) {
            commands.insert(0, delete_table(name));
            made = netlink.transact(&commands);
        }
        made.map_err(|refused| explain(name, refused))?;
        Ok(Self { name: name.to_owned(), expected: 0 })
    }

    /// Grants one connection, or renews the grant. All or nothing.
    ///
    /// Adding an element that exists leaves its timeout alone on most kernels, and deleting one that does not is an
    /// error. Add, delete, add in one transaction is right in each case.
    pub(super) fn open(&self, netlink: &mut Netlink, grant: &Grant) -> Result<(), Errno> {
        let commands = [ADD, DELETE, ADD].map(|change| self.element(change, grant));
        let mut done = Ok(());
        for _ in 0..MAX_TRIES {
            done = netlink.transact(&commands).map_err(|refused| refused.errno);
            if done != Err(Errno::ENOENT) {
                break;
            }
        }
        done
    }

    /// Revokes a grant, if it is still there.
    pub(super) fn close(&self, netlink: &mut Netlink, grant: &Grant) -> Result<(), Errno> {
        unless_gone(netlink.transact(&[self.element(DELETE, grant)]))
    }

    /// Logs SYNs with these sequence numbers. `ENFILE`: there would be more than [`MAX_EXPECTED`].
    pub(crate) fn expect(&mut self, netlink: &mut Netlink, numbers: &[u32]) -> Result<(), Errno> {
        if self.expected + numbers.len() > MAX_EXPECTED {
            return Err(Errno::ENFILE);
        }
        self.expected += self.change_numbers(netlink, numbers, ADD_NEW, Errno::EEXIST)?;
        Ok(())
    }

    /// Stops logging them.
    pub(crate) fn forget(&mut self, netlink: &mut Netlink, numbers: &[u32]) -> Result<(), Errno> {
        self.expected -= self.change_numbers(netlink, numbers, DELETE, Errno::ENOENT)?;
        Ok(())
    }

    /// Makes `change` to the elements of all `numbers` at once; if that fails with `fine`, to one after the other. Returns
    /// how many were changed.
    fn change_numbers(
        &self,
        netlink: &mut Netlink,
        numbers: &[u32],
        change: Change,
        fine: Errno,
    ) -> Result<usize, Errno> {
        let keys = numbers.iter().map(|number| vec![key(&number.to_be_bytes())]);
        let done = netlink.transact(&[elements(change, &self.name, EXPECTED, keys)]);
        match (numbers, done.map_err(|refused| refused.errno)) {
            (_, Ok(())) => Ok(numbers.len()),
            ([_], Err(errno)) if errno == fine => Ok(0),
            ([_, _, ..], Err(errno)) if errno == fine => {
                numbers.chunks(1).map(|one| self.change_numbers(netlink, one, change, fine)).sum()
            }
            (_, Err(errno)) => Err(errno),
        }
    }

    /// Logs SYNs to these ports, too, if they have an acknowledgement number.
    pub(crate) fn log_ports(&self, netlink: &mut Netlink, ports: &[u16]) -> Result<(), Errno> {
        let keys = ports.iter().map(|port| vec![key(&port.to_be_bytes())]);
        let done = netlink.transact(&[elements(ADD, &self.name, KNOCK_PORTS, keys)]);
        done.map_err(|refused| refused.errno)
    }

    /// Closes services to strangers.
    pub(super) fn guard(&self, netlink: &mut Netlink, guard: &Guard) -> Result<(), Errno> {
        netlink.transact(&guard::create(&self.name, guard)).map_err(|refused| refused.errno)
    }

    /// Deletes the guard, if there is one.
    pub(crate) fn unguard(&self, netlink: &mut Netlink) -> Result<(), Errno> {
        unless_gone(netlink.transact(&guard::delete(&self.name)))
    }

    fn element(&self, change: Change, grant: &Grant) -> Command {
        let (set, address) = match grant.address {
            IpAddr::V4(v4) => (OPEN4, v4.octets().to_vec()),
            IpAddr::V6(v6) => (OPEN6, v6.octets().to_vec()),
        };
        // Each part of a concatenation is padded to four bytes.
        let [p0, p1] = grant.port.to_be_bytes();
        let service = vec![grant.protocol as u8, 0, 0, 0, p0, p1, 0, 0];
        let milliseconds = u64::from(grant.seconds) * 1000;
        // One connection: the element matches once.
        let once = condition(limit_to_one());
        let element = vec![key(&[address, service].concat()), timeout(milliseconds), once];
        elements(change, &self.name, set, [element])
    }
}

/// It is no error if what is to be deleted is gone already.
fn unless_gone(done: Result<(), BatchError>) -> Result<(), Errno> {
    match done {
        Err(refused) if refused.errno != Errno::ENOENT => Err(refused.errno),
        _ => Ok(()),
    }
}

/// What the kernel's refusal to make the table means.
fn explain(name: &str, refused: BatchError) -> TableError {
    match refused {
        BatchError { at: None, errno: Errno::EPERM } => TableError::NotPermitted,
        BatchError {
            at: None,
            errno: Errno::EPROTONOSUPPORT | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT,
        } => TableError::NoNfTables,
        BatchError { at: Some(0), errno: Errno::EPERM } => TableError::Owned(name.to_owned()),
        BatchError { at: Some(0), errno: Errno::EOPNOTSUPP | Errno::EINVAL } => {
            TableError::NoOwnerFlag
        }
        BatchError { at, errno } => TableError::Refused(name.to_owned(), at, errno),
    }
}
