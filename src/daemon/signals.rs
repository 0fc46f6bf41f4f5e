//! The signals that the daemon takes.

use std::io;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The event loop reads signals like other events, so no signal interrupts an operation, and SIGHUP does not end the
/// daemon. A signal that was ignored when this process started, as by `nohup`, stays ignored: if it were blocked, the
/// kernel would queue it.
pub(super) fn take_signals() -> io::Result<SignalFd> {
    let ignored = ignored_signals()?;
    let mut taken: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
        .into_iter()
        .filter(|&signal| ignored >> (signal as i32 - 1) & 1 == 0)
        .collect();
    taken.add(Signal::SIGUSR1);
    taken.thread_block()?;
    Ok(SignalFd::with_flags(&taken, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// One bit for each signal that this process was started to ignore; signal 1 is the lowest.
fn ignored_signals() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .ok_or_else(|| io::Error::other("/proc/self/status does not say which are ignored"))
}
