//! The signals that the daemon takes.

use std::io;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Stopping is an event like any other: nothing is interrupted half-way, and a SIGHUP ends nothing. What `nohup` or a
/// shell had this process ignore (it must outlive a terminal, or a Ctrl-C) stays ignored: a signal that is blocked would be
/// queued all the same.
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
