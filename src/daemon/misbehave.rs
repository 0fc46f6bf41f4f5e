//! Imitates a compromised daemon for the tests: a knock for certain ports makes it do what its sandbox forbids. Only in
//! builds with the feature `misbehave`.

#![allow(
    unsafe_code,
    reason = "tgkill, and descriptors by their number: nobody has a safe form of them"
)]

use std::fs::File;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{SFlag, fstat};
use nix::sys::uio::pwrite;
use nix::unistd::{Pid, execv, getppid};

use super::helper_handle::HelperHandle;
use crate::grant::{Protocol, Spend};
use crate::layout::Request;

/// Does what the port that is asked for stands for. What the sandbox forbids does not return.
pub(super) fn misbehave(asked: Request, helper: &mut HelperHandle) {
    match asked.0 {
        64011 => drop(execv(c"/bin/true", &[c"true"])),
        64012 => drop(File::open("/etc/passwd")),
        64013 => drop(File::create("/tmp/made-by-knock-daemon")),
        64014 => drop(std::net::UdpSocket::bind("127.0.0.1:0")),
        64015 => drop(ptrace::attach(getppid())),
        64016 => drop(kill(Pid::from_raw(1), Signal::SIGCONT)),
        #[expect(clippy::panic, reason = "to see what a panic does")]
        64017 => panic!("asked to"),
        // SAFETY: tgkill takes any numbers, and touches no memory.
        64019 => drop(unsafe { libc::syscall(libc::SYS_tgkill, 1, 1, libc::SIGCONT) }),
        #[expect(clippy::panic, reason = "to say what came of it")]
        64020 => panic!("far into each file: {:?}", write_far_into_each_file()),
        // More than any profile may have: the helper must detect that the daemon is compromised.
        64018 => drop(helper.ask_open(&crate::grant::Grant {
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

/// The result of writing one byte at 1 MiB into each open regular file; equal results that follow each other are listed
/// once.
fn write_far_into_each_file() -> Vec<Result<usize, Errno>> {
    let mut answers: Vec<_> = (3..100)
        .filter_map(|number| {
            // SAFETY: nothing here closes a descriptor meanwhile, and none is kept.
            let file = unsafe { BorrowedFd::borrow_raw(number) };
            let mode = fstat(file).ok()?.st_mode;
            let is_file = mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits();
            is_file.then(|| pwrite(file, b"x", 1 << 20))
        })
        .collect();
    answers.dedup();
    answers
}
