//! The client's side: from a profile to one SYN on the wire. Knows nothing of the daemon or of what runs as root.

pub mod answer;
pub mod cli;
pub mod connect;
pub mod failure;
pub mod knock;
pub mod known;
pub mod order;
pub mod packet;
pub mod plain;
pub mod privilege;
pub mod proxy;
pub mod relay;
pub mod run;
pub mod say;
pub mod show;
pub mod target;
pub mod turn;
pub mod wire;
