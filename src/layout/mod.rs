//! How a request is hidden in the header fields of a SYN, and found again.
//!
//! Pure: no files, no network, no clock. `docs/protocol.md` is the specification.

pub mod classic;
pub mod keys;
pub mod reach;
pub mod receiver;
pub mod stealth;
pub mod steps;

/// What a knock asks for: a 16-bit number. Without server policy for it, *n* means "TCP port *n*";
/// 0 means "the profile's default".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Request(pub u16);
