//! Whether this host's clock is synchronised. Changes nothing.

#![allow(unsafe_code, reason = "adjtimex: std and nix have no safe form of it")]

use nix::libc;

/// Whether the kernel was told that its clock is synchronised. None: it does not say.
pub(super) fn is_synchronised() -> Option<bool> {
    // SAFETY: `timex` is integers alone, for which zero is a value. `modes` is zero: nothing is changed.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a whole `timex` of our own, for as long as the call takes.
    match unsafe { libc::adjtimex(&raw mut timex) } {
        -1 => None,
        state => Some(state != libc::TIME_ERROR),
    }
}
