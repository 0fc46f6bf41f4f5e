//! Netlink attributes that the crate has no type for: by the numbers of the kernel's headers. Pure.

use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED};

/// A number of four bytes, big-endian as netfilter has them.
pub(super) fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

/// A number of eight bytes.
pub(super) fn long_number(kind: u16, value: u64) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
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
