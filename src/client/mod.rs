//! The client's side: from a profile to one SYN on the wire. Knows nothing of the daemon or of what runs as root.

pub mod cli;
pub mod connect;
pub mod knock;
pub mod proxy;
pub mod run;
pub mod say;
