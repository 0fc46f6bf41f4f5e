//! One knock: the profile, its lock, the route, the packet, the raw socket, and the answer.

pub mod answer;
pub mod capabilities;
pub mod dry_run;
pub mod error;
pub mod knocker;
pub mod packet;
pub mod profile_lock;
pub mod profile_match;
pub mod raw_socket;
pub mod route;
