//! The tables of this host's nftables, by name, for `knock-daemon --check`. Changes nothing, starts no program, reads no rule.

use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::nftables::{NfTablesMessage, TableAttribute};
use nix::errno::Errno;

use super::netlink::Netlink;

/// The names of the `inet` tables in the network namespace of this thread. Needs root.
pub(crate) fn tables() -> Result<Vec<String>, Errno> {
    let mut found = Vec::new();
    Netlink::open()?.list_tables(NetfilterProtoFamily::Inet, |answer| {
        if let NfTablesMessage::NewTable(table) = answer {
            found.extend(table.attributes.into_iter().filter_map(|attribute| match attribute {
                TableAttribute::Name(name) => Some(name),
                _ => None,
            }));
        }
    })?;
    Ok(found)
}
