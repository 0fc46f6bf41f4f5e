//! The client's side: from a profile to one SYN on the wire. Knows nothing of the daemon or of what runs as root.
//!
//! ```text
//! command    the program knock
//! proxy      the program knock-proxy: SOCKS in front of connect
//! connect    knock, then connect
//! knock      one knock: profile, route, packet, raw socket, answer
//! say        output that all of them share
//! ```

pub mod command;
mod connect;
pub mod knock;
pub mod proxy;
mod say;
