//! Spawns the helper, which keeps one privilege, from the daemon, which will read input that strangers cause. Owns the
//! fork and the helper's descriptors, and is the only file of this directory with `unsafe` in it.

#![allow(
    unsafe_code,
    reason = "fork, close_range, descriptors by number, _exit: std and nix have no safe form of them"
)]

use std::fmt::Display;
use std::io::{Write, stderr, stdin, stdout};
use std::mem::forget;
use std::os::fd::{FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};

use caps::Capability;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::SigSet;
use nix::unistd::{ForkResult, Pid, chdir, dup2_raw, dup2_stdin, dup2_stdout, fork, pipe2, write};

use super::drop_privileges::{Ids, drop_privileges};
use super::firewall::Firewall;
use super::helper::{LoopEnd, answer_requests};
use super::limits::Limits;
use super::message::Reply;
use super::seccomp::{self, NETLINK_FD, ROUTE_FD};

/// The first number that is no descriptor of the helper's.
const FIRST_UNUSED: i32 = ROUTE_FD + 1;

/// The exit status of a helper that panicked, as Rust programs have it.
const PANICKED: i32 = 101;

/// The helper: its process, and the daemon's ends of its pipes. It writes [`Reply::Ready`] when it has confined itself, or a
/// line that says why it cannot.
#[derive(Debug)]
pub struct Spawned {
    pub(crate) pid: Pid,
    pub(crate) requests: OwnedFd,
    pub(crate) replies: OwnedFd,
}

/// Closes every descriptor that this process was started with but standard input, output and error.
///
/// Call it first, before anything is opened: what the parent left open belongs to neither daemon nor helper.
pub(crate) fn close_inherited() -> Result<(), Errno> {
    // SAFETY: by its contract this is called before anything in this process owns a descriptor from 3 on.
    Errno::result(unsafe { libc::close_range(3, u32::MAX, 0) }).map(drop)
}

/// Forks the helper, which drops all privileges but the one for `firewall`, proves it, and confines itself. The caller has no
/// access to the firewall any more.
///
/// Call it before a byte of untrusted data has been read, and while the process has one thread.
pub fn spawn_helper(firewall: Firewall, limits: &Limits, ids: &Ids) -> Result<Spawned, Errno> {
    let (request_end, requests) = pipe2(OFlag::O_CLOEXEC)?;
    let (replies, reply_end) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: the caller has one thread, so no lock is held by a thread that the child does not have.
    match unsafe { fork() }? {
        ForkResult::Child => run_helper(firewall, limits, ids, request_end, reply_end),
        // Here the daemon's copies of the helper's descriptors are closed: the netlink sockets and the pipe ends.
        ForkResult::Parent { child } => Ok(Spawned { pid: child, requests, replies }),
    }
}

/// The helper, from the fork to its exit. Never returns, and runs no destructor of what it inherits from the daemon.
fn run_helper(
    mut firewall: Firewall,
    limits: &Limits,
    ids: &Ids,
    requests: OwnedFd,
    replies: OwnedFd,
) -> ! {
    // The default hook opens files for a backtrace if the environment asks for one: the filter would kill us for it.
    set_hook(Box::new(|panic| report(panic)));
    let status = catch_unwind(AssertUnwindSafe(|| {
        if let Err(reason) =
            arrange_descriptors(&mut firewall, requests, replies).and_then(|()| confine(ids))
        {
            // To the daemon, which reports it.
            let _ = write(stdout(), reason.as_bytes());
            return 1;
        }
        serve(&mut firewall, limits)
    }));
    // SAFETY: _exit takes any status and has no other precondition.
    unsafe { libc::_exit(status.unwrap_or(PANICKED)) }
}

/// From [`Reply::Ready`] to the exit. All grants are revoked whatever ends it, also a panic.
fn serve(firewall: &mut Firewall, limits: &Limits) -> i32 {
    let status = catch_unwind(AssertUnwindSafe(|| {
        let ready = write(stdout(), &Reply::Ready.encode()).map_err(LoopEnd::Pipe);
        ready.and_then(|_| answer_requests((stdin(), stdout()), firewall, limits))
    }));
    if let Err(errno) = firewall.close_all() {
        report(&format_args!("cannot revoke every grant: {}", errno.desc()));
    }
    status.map_or(PANICKED, |ended| ended.inspect_err(|end| report(end)).is_err().into())
}

/// Gives the helper's descriptors their numbers and closes all others, also those that this process was started with.
fn arrange_descriptors(
    firewall: &mut Firewall,
    requests: OwnedFd,
    replies: OwnedFd,
) -> Result<(), String> {
    step("dup2", dup2_stdin(&requests))?;
    step("dup2", dup2_stdout(&replies))?;
    // What the descriptors were before is closed by number below, not by their owners.
    forget((requests, replies));
    // First to numbers that neither needs: one may have the number that the other is to have.
    let mut aside = [0; 2];
    for (aside, socket) in aside.iter_mut().zip(firewall.sockets()) {
        *aside = step("fcntl", fcntl(socket, FcntlArg::F_DUPFD_CLOEXEC(FIRST_UNUSED)))?;
    }
    let [netlink, routes] = aside;
    // SAFETY: both numbers were just made and nothing owns them, and nothing that still runs in this process uses 3 and 4.
    let sockets = unsafe {
        let [netlink, routes] = [netlink, routes].map(|aside| OwnedFd::from_raw_fd(aside));
        [step("dup2", dup2_raw(&netlink, NETLINK_FD))?, step("dup2", dup2_raw(&routes, ROUTE_FD))?]
    };
    forget(firewall.replace_sockets(sockets));
    let first_unused = FIRST_UNUSED.cast_unsigned();
    // SAFETY: the owners of these numbers were forgotten or belong to the daemon, whose code does not run here.
    step("close_range", Errno::result(unsafe { libc::close_range(first_unused, u32::MAX, 0) }))
        .map(drop)
}

/// From root to a process that can change the firewall, and nothing else.
fn confine(ids: &Ids) -> Result<(), String> {
    // The daemon ends the helper through the pipe. A signal to the whole group must not end it before the daemon.
    step("sigprocmask", SigSet::all().thread_block())?;
    step("prctl(PR_SET_NAME)", prctl::set_name(c"knock-helper"))?;
    step("chdir", chdir("/"))?;
    drop_privileges(ids, &[Capability::CAP_NET_ADMIN]).map_err(|error| error.to_string())?;
    seccomp::confine().map_err(|error| format!("cannot confine the helper: {error}"))
}

fn step<T>(what: &str, result: Result<T, Errno>) -> Result<T, String> {
    result.map_err(|errno| format!("{what}: {}", errno.desc()))
}

/// Writes a message of the helper's to stderr.
fn report(what: &dyn Display) {
    // Not `eprintln`, which panics if stderr is closed.
    let _ = writeln!(stderr(), "knock-daemon: helper: {what}");
}
