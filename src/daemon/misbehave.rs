//! A daemon that has been taken over, as far as the tests go: a knock for certain ports makes it do what its sandbox
//! forbids. In no build but the tests' (feature `misbehave`).

#![forbid(unsafe_code)]

use std::fs::File;

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, execv, getppid};

use crate::layout::Request;
use crate::privileged::{Helper, Protocol, Spend};

/// Does what the port that is asked for stands for. What the sandbox forbids does not return.
pub(super) fn misbehave(asked: Request, helper: &mut Helper) {
    match asked.0 {
        64011 => drop(execv(c"/bin/true", &[c"true"])),
        64012 => drop(File::open("/etc/passwd")),
        64013 => drop(File::create("/tmp/made-by-knock-daemon")),
        64014 => drop(std::net::UdpSocket::bind("127.0.0.1:0")),
        64015 => drop(ptrace::attach(getppid())),
        64016 => drop(kill(Pid::from_raw(1), Signal::SIGCONT)),
        #[expect(clippy::panic, reason = "to see what a panic does")]
        64017 => panic!("asked to"),
        // More than anybody may have: the helper must take this for what it is.
        64018 => drop(helper.ask_open(&crate::privileged::Request {
            address: [192, 0, 2, 1].into(),
            destination: [192, 0, 2, 2].into(),
            protocol: Protocol::Tcp,
            port: 22,
            seconds: u16::MAX,
            spend: Spend::One,
        })),
        _ => {}
    }
}
