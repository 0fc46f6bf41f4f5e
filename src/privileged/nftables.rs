//! The nftables back end. Owns the netlink socket that owns our table: when the last process that has this socket is gone,
//! the kernel takes the table away, whatever ended the process. Starts no program, opens no file.

#![forbid(unsafe_code)]

use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_netfilter::nftables::{
    DataAttribute, ListAttribute, NfTablesMessage, SetElementAttribute, SetElementList,
    SetElementMessage,
};
use nix::errno::Errno;

use super::expression::limit_to_one;
use super::netlink::{Netlink, Refused};
use super::{Request, ruleset};

/// How often an opening is tried when the element to renew vanishes in the middle, because its time is over.
const TRIES: usize = 3;

/// Our table in the kernel.
#[derive(Debug)]
pub struct Table {
    name: String,
    netlink: Netlink,
}

/// Why there is no table of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableError {
    /// The kernel has no `nf_tables`.
    NoNfTables,
    /// The kernel has `nf_tables`, but no tables that end with their process.
    NoOwnerFlag,
    /// Another process owns a table of this name.
    Owned(String),
    /// This process lacks `CAP_NET_ADMIN`.
    NotPermitted,
    /// The kernel refused message number `.1` of the ruleset for table `.0`.
    Refused(String, Option<usize>, Errno),
}

impl Table {
    /// Makes the table `inet NAME` in the network namespace of this thread, with room for `max_open` grants.
    ///
    /// A table of that name that no process owns is what a saved and restored ruleset left behind: it is replaced.
    pub fn create(name: &str, max_open: usize) -> Result<Self, TableError> {
        let mut netlink = Netlink::open().map_err(|errno| explain(name, errno.into()))?;
        // The helper counts what is open. The kernel's own limit stands behind it, with room for elements that are being
        // renewed and for those whose time is over and which the kernel collects once a second.
        let size = u32::try_from(max_open).unwrap_or(u32::MAX).saturating_mul(2).saturating_add(16);
        let mut messages = ruleset::create(name, size);
        let mut made = netlink.transact(&messages);
        if made == Err(Refused { at: Some(0), errno: Errno::EEXIST }) {
            messages.insert(0, (ruleset::delete(name), 0));
            made = netlink.transact(&messages);
        }
        made.map_err(|refused| explain(name, refused))?;
        Ok(Self { name: name.to_owned(), netlink })
    }

    /// Admits one connection, or renews what is open already. All or nothing.
    ///
    /// Adding an element that exists leaves its timeout alone on most kernels, and deleting one that does not is an
    /// error. Add, delete, add in one transaction is right in each case.
    pub fn open(&mut self, request: &Request) -> Result<(), Errno> {
        let element = self.element(request);
        let messages = [
            (NfTablesMessage::NewSetElement(element.clone()), NLM_F_CREATE),
            (NfTablesMessage::DeleteSetElement(element.clone()), 0),
            (NfTablesMessage::NewSetElement(element), NLM_F_CREATE),
        ];
        let mut done = Ok(());
        for _ in 0..TRIES {
            done = self.netlink.transact(&messages).map_err(|refused| refused.errno);
            if done != Err(Errno::ENOENT) {
                break;
            }
        }
        done
    }

    fn element(&self, request: &Request) -> SetElementMessage {
        let (set, mut key) = match request.address {
            IpAddr::V4(v4) => (ruleset::OPEN4, v4.octets().to_vec()),
            IpAddr::V6(v6) => (ruleset::OPEN6, v6.octets().to_vec()),
        };
        // Each part of a concatenation is padded to four bytes.
        let [p0, p1] = request.port.to_be_bytes();
        key.extend([request.protocol as u8, 0, 0, 0, p0, p1, 0, 0]);
        let element = vec![
            SetElementAttribute::Key(DataAttribute::Value(key)),
            SetElementAttribute::Timeout(u64::from(request.seconds) * 1000),
            // One connection: the element matches once.
            SetElementAttribute::ListExpressions(vec![limit_to_one()]),
        ];
        SetElementMessage {
            attributes: vec![
                SetElementList::Table(self.name.clone()),
                SetElementList::Set(set.to_owned()),
                SetElementList::Elements(vec![ListAttribute::Element(element)]),
            ],
        }
    }

    /// Goes on with a duplicate of the socket. Gives the old descriptor back.
    pub(super) fn replace_socket(&mut self, socket: OwnedFd) -> OwnedFd {
        self.netlink.replace_socket(socket)
    }
}

impl AsFd for Table {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.netlink.as_fd()
    }
}

/// What the kernel's refusal to make the table means.
fn explain(name: &str, refused: Refused) -> TableError {
    match refused {
        Refused { at: None, errno: Errno::EPERM } => TableError::NotPermitted,
        Refused {
            at: None,
            errno: Errno::EPROTONOSUPPORT | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT,
        } => TableError::NoNfTables,
        Refused { at: Some(0), errno: Errno::EPERM } => TableError::Owned(name.to_owned()),
        Refused { at: Some(0), errno: Errno::EOPNOTSUPP | Errno::EINVAL } => {
            TableError::NoOwnerFlag
        }
        Refused { at, errno } => TableError::Refused(name.to_owned(), at, errno),
    }
}

impl std::error::Error for TableError {}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNfTables => {
                f.write_str("this kernel has no nf_tables: load the module, or set firewall = \"iptables\" in the config")
            }
            Self::NoOwnerFlag => f.write_str(
                "this kernel cannot tie an nftables table to its process (Linux 5.12 can): \
                 set firewall = \"iptables\" in the config",
            ),
            Self::Owned(name) => write!(
                f,
                "another knock-daemon owns table inet {name}: end that one, or start this one with --instance NAME"
            ),
            Self::NotPermitted => f.write_str("changing the firewall needs CAP_NET_ADMIN: start knock-daemon as root"),
            Self::Refused(name, at, errno) => {
                write!(f, "the kernel refused table inet {name}")?;
                at.map_or(Ok(()), |at| write!(f, " at message {at}"))?;
                write!(f, ": {}", errno.desc())
            }
        }
    }
}
