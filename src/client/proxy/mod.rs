//! `knock-proxy`: a SOCKS proxy that knocks before it connects to a host that there is a profile for.
//!
//! ```text
//! socks     bytes of a SOCKS client            -> a host and a port
//! http      bytes of a client that is none     -> what it should do instead
//! lookup    that host, the profiles            -> a profile to knock with, or plain addresses
//! resolver  names                              -> addresses, from the system's resolver or remembered
//! upstream  a profile or plain addresses       -> a connection
//! relay     both connections                   -> bytes, until both are done
//! serve     clients                            -> each through all of these
//! ```
//!
//! Raw sockets are opened and every privilege is given up before the first byte is accepted.

pub mod auth;
pub mod cli;
mod http;
mod lookup;
mod relay;
mod resolver;
pub mod run;
mod serve;
pub mod socks;
mod upstream;
