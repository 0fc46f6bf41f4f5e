//! Knock, then connect: what `knock -W` and the proxy share.

pub mod plain;
pub mod race;
pub mod send_order;
pub mod stdio_relay;
