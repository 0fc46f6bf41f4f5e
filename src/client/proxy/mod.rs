//! `knock-proxy`: a SOCKS proxy that knocks before it connects to a host that there is a profile for.
//!
//! ```text
//! socks     bytes of a SOCKS client            -> a host and a port
//! http      bytes of a client that is none     -> what it should do instead
//! lookup    that host, the profiles, the DNS   -> a profile to knock with, or plain addresses
//! upstream  either of them                     -> a connection
//! serve     both connections                   -> bytes, until both are done
//! ```
//!
//! Raw sockets are opened and every privilege is given up before the first byte is accepted.

pub mod auth;
pub mod cli;
mod http;
pub mod lookup;
pub mod run;
mod serve;
pub mod socks;
mod upstream;
