//! The client's side: from a profile to one SYN on the wire. Knows nothing of the daemon or of what runs as root.
//!
//! ```text
//! knock      one knock: profile, route, packet, raw socket, answer
//! connect    knock, then connect
//! proxy      the program knock-proxy: SOCKS in front of connect
//! ```
//!
//! The files of this floor are the program `knock`.

pub mod cli;
mod connect;
mod connect_stdio;
pub mod knock;
mod plan;
pub mod proxy;
pub mod run;
mod say;
mod target;
