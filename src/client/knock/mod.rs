//! One knock: the profile, its lock, the route, the packet, the raw socket, and the answer.
//!
//! ```text
//! profile_match  a host as somebody writes it        -> which profile is meant
//! knocker        that profile, the next counter      -> the packet, and out with it
//! route          the host's name, the routing table  -> where from and where to
//! packet         the knock's fields                  -> bytes
//! kernel_syn     a route and a port                  -> the SYN that the kernel would send there
//! raw_socket     bytes                               -> the wire
//! answer_socket  what comes back                     -> an answer to that packet, or none
//! ```

pub(crate) mod answer;
pub(crate) mod answer_socket;
pub(crate) mod capabilities;
pub(crate) mod dry_run;
mod ephemeral_ports;
pub(crate) mod error;
mod initial_window;
pub mod kernel_syn;
pub(crate) mod knocker;
pub(crate) mod list;
mod log_line;
pub mod packet;
pub(crate) mod profile_lock;
pub mod profile_match;
pub mod raw_socket;
mod receive_buffer;
pub mod route;
mod route_metrics;
mod socket_options;
pub mod source_port;
pub mod syn_options;
mod sysctl;
