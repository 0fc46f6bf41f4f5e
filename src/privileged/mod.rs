//! The privileged side. What strangers send reaches it as fixed-size messages through a pipe, each checked against limits
//! that root set before.
//!
//! ```text
//! once, at the start, as root
//!   firewall          the tables that the helper may change are set up
//!   spawn             the fork; then, in the helper:
//!   drop_privileges     it keeps CAP_NET_ADMIN alone, and proves it
//!   seccomp             it keeps the system calls of the loop alone
//! then, for each message
//!   message           the bytes on the pipes; the daemon's end of them is daemon::helper_handle
//!   helper            the loop: read, decode, check, apply, reply (answer_open, answer_close, …)
//!   limits            what root allows anyone to be granted
//!   grants            how many grants are open
//!   firewall          what changes in the kernel
//! ```
//!
//! Never uses layouts, profiles, logs, the client, crypto or clap.

pub mod drop_privileges;
pub mod firewall;
pub mod grants;
mod helper;
pub mod limits;
pub mod message;
#[cfg(feature = "misbehave")]
mod misbehave;
mod seccomp;
pub mod spawn;
