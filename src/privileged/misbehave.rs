//! Imitates a compromised helper for the tests: on request it does what its filter forbids. Only in builds with the
//! feature `misbehave`.

use nix::fcntl::{OFlag, open};
use nix::sys::ptrace;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, execv};

use crate::grant::Grant;

/// Does what the port of `grant` stands for. What the filter forbids does not return.
pub(super) fn misbehave(grant: &Grant) {
    match grant.port {
        64001 => drop(execv(c"/bin/true", &[c"true"])),
        64002 => drop(open(c"/etc/passwd", OFlag::O_RDONLY, Mode::empty())),
        64003 => drop(socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None)),
        64004 => drop(ptrace::attach(Pid::from_raw(1))),
        #[expect(clippy::panic, reason = "to see what a panic does")]
        64005 => panic!("asked to"),
        _ => {}
    }
}
