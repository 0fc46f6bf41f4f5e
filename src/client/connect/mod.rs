//! Knock, then connect: what `knock -W` and the proxy share. Runs on tokio, on one thread.
//!
//! ```text
//! send_order    which packet leaves next: a knock of its own, or one sent again
//! dial          one attempt at a connection
//! refusals      what failed attempts tell
//! race          knocks and attempts, until a connection stands
//! plain         a host without a profile: attempts without a knock
//! stdio_relay   standard input and output as the ends of the connection
//! ```

mod dial;
pub(crate) mod error;
pub(crate) mod never_opened;
pub(crate) mod plain;
pub(crate) mod race;
mod refusals;
pub(crate) mod send_order;
pub(crate) mod stdio_relay;
