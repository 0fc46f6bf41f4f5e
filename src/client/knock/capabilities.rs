//! Gives up what the program was started with, for good, once its raw sockets are open.
//!
//! Capabilities are each thread's own: this must run before a second thread is started.

use std::collections::HashSet;

use caps::errors::CapsError;
use caps::{CapSet, Capability};
use nix::errno::Errno;

/// Why capabilities are still held, or may be again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CapabilityError {
    /// The kernel refused.
    #[error("cannot drop capabilities ({0})")]
    Caps(#[from] CapsError),
    /// The kernel agreed, and did not do it.
    #[error("cannot drop capabilities ({1:?} are left in the {0:?} set)")]
    Left(CapSet, HashSet<Capability>),
    /// A program started from here on could get one.
    #[error("cannot set no_new_privs ({})", .0.desc())]
    NoNewPrivs(#[from] Errno),
}

/// Drops every capability and, where `no_new_privs`, makes sure that no program started from here on gets one.
///
/// Then looks whether it is true: an error means that it is not, and nothing more may be done.
pub(crate) fn drop_all(no_new_privs: bool) -> Result<(), CapabilityError> {
    // Ambient first: what is ambient must be inheritable and permitted. Effective before permitted, likewise.
    let sets = [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted];
    for set in sets {
        caps::clear(None, set)?;
    }
    for set in sets {
        let left = caps::read(None, set)?;
        if !left.is_empty() {
            return Err(CapabilityError::Left(set, left));
        }
    }
    if no_new_privs {
        nix::sys::prctl::set_no_new_privs()?;
    }
    Ok(())
}
