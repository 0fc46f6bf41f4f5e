//! Gives up what the program was started with, for good, once its raw sockets are open.
//!
//! Capabilities are each thread's own: this must run before a second thread is started.

#![forbid(unsafe_code)]

use caps::CapSet;

/// Drops every capability and, where `no_new_privs`, makes sure that no program started from here on gets one.
///
/// Then looks whether it is true: an error means that it is not, and nothing more may be done.
pub fn drop_all(no_new_privs: bool) -> Result<(), String> {
    // Ambient first: what is ambient must be inheritable and permitted. Effective before permitted, likewise.
    let sets = [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted];
    for set in sets {
        caps::clear(None, set).map_err(|why| why.to_string())?;
    }
    for set in sets {
        let left = caps::read(None, set).map_err(|why| why.to_string())?;
        if !left.is_empty() {
            return Err(format!("{left:?} left in the {set:?} set"));
        }
    }
    if no_new_privs {
        nix::sys::prctl::set_no_new_privs().map_err(|why| why.to_string())?;
    }
    Ok(())
}
