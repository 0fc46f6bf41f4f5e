//! Netlink attributes, by the numbers of the kernel's headers: the one way in which anything is written for the kernel. Pure.

use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED};

/// Bytes as they are.
pub(super) fn bytes(kind: u16, value: &[u8]) -> DefaultNla {
    DefaultNla::new(kind, value.to_vec())
}

/// A number of four bytes, big-endian as netfilter has them.
pub(super) fn number(kind: u16, value: u32) -> DefaultNla {
    bytes(kind, &value.to_be_bytes())
}

/// A number of eight bytes.
pub(super) fn long_number(kind: u16, value: u64) -> DefaultNla {
    bytes(kind, &value.to_be_bytes())
}

/// A string, which ends with a zero.
pub(super) fn text(kind: u16, value: &str) -> DefaultNla {
    DefaultNla::new(kind, [value.as_bytes(), &[0]].concat())
}

/// Attributes within an attribute.
pub(super) fn nested(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    let mut value = vec![0; attributes.buffer_len()];
    attributes.emit(&mut value);
    DefaultNla::new(NLA_F_NESTED | kind, value)
}

/// A list of what has attributes; `NFTA_LIST_ELEM`.
pub(super) fn list(kind: u16, elements: impl IntoIterator<Item = Vec<DefaultNla>>) -> DefaultNla {
    let elements: Vec<_> = elements.into_iter().map(|element| nested(1, &element)).collect();
    nested(kind, &elements)
}
