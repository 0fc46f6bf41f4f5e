//! Drops privileges, and proves that they are gone. Owns the order of the steps; opens nothing, reads no file.

use std::fmt::Display;

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{
    Gid, Uid, getgroups, getresgid, getresuid, setegid, seteuid, setgid, setgroups, setresgid,
    setresuid, setuid,
};
use thiserror::Error;

/// The user and groups to run as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ids {
    /// The user.
    pub uid: Uid,
    /// The group.
    pub gid: Gid,
    /// The supplementary groups; all others are dropped.
    pub groups: Vec<Gid>,
}

/// Why privileges could not be dropped, or remained. A process that gets this must exit.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DropError {
    /// This step failed, for this reason.
    #[error("cannot drop privileges: {0}: {1}: start knock-daemon as root")]
    Failed(&'static str, String),
    /// Each step succeeded, and yet this was still possible, or still set.
    #[error("privileges remain after dropping them: {0}: do not trust this kernel or container")]
    NotDropped(&'static str),
}

/// Becomes `ids` for good, with exactly the capabilities `keep` and no way to gain another: empty bounding set,
/// `no_new_privs`, not dumpable, umask 077. Then tries to regain the others, which must fail.
///
/// Needs root. Call it while the process has one thread: capabilities belong to threads.
pub(crate) fn drop_privileges(ids: &Ids, keep: &[Capability]) -> Result<(), DropError> {
    let sets = Sets { keep: keep.iter().copied().collect(), none: CapsHashSet::new() };
    give_up(ids, &sets)?;
    prove(ids, &sets)
}

struct Sets {
    keep: CapsHashSet,
    none: CapsHashSet,
}

fn give_up(ids: &Ids, sets: &Sets) -> Result<(), DropError> {
    step("prctl(PR_SET_KEEPCAPS)", prctl::set_keepcaps(true))?;
    for capability in step("read the bounding set", caps::read(None, CapSet::Bounding))? {
        step("empty the bounding set", caps::drop(None, CapSet::Bounding, capability))?;
    }
    step("setgroups", setgroups(&ids.groups))?;
    step("setresgid", setresgid(ids.gid, ids.gid, ids.gid))?;
    step("setresuid", setresuid(ids.uid, ids.uid, ids.uid))?;
    step("set the effective capabilities", caps::set(None, CapSet::Effective, &sets.keep))?;
    step("empty the inheritable capabilities", caps::set(None, CapSet::Inheritable, &sets.none))?;
    step("set the permitted capabilities", caps::set(None, CapSet::Permitted, &sets.keep))?;
    step("empty the ambient capabilities", caps::clear(None, CapSet::Ambient))?;
    step("prctl(PR_SET_KEEPCAPS)", prctl::set_keepcaps(false))?;
    step("prctl(PR_SET_NO_NEW_PRIVS)", prctl::set_no_new_privs())?;
    step("prctl(PR_SET_DUMPABLE)", prctl::set_dumpable(false))?;
    umask(Mode::from_bits_truncate(0o077));
    Ok(())
}

/// Each step succeeded. This reads the result back, and tries to undo it.
fn prove(ids: &Ids, sets: &Sets) -> Result<(), DropError> {
    let root = Uid::from_raw(0);
    if ids.uid != root {
        must_fail("setresuid(0, 0, 0)", &setresuid(root, root, root))?;
        must_fail("setuid(0)", &setuid(root))?;
        must_fail("seteuid(0)", &seteuid(root))?;
    }
    if ids.gid != Gid::from_raw(0) {
        must_fail("setgid(0)", &setgid(Gid::from_raw(0)))?;
        must_fail("setegid(0)", &setegid(Gid::from_raw(0)))?;
    }
    must_fail("setgroups", &setgroups(&[Gid::from_raw(0)]))?;

    let users = step("getresuid", getresuid())?;
    must_hold("another user id", [users.real, users.effective, users.saved] == [ids.uid; 3])?;
    let groups = step("getresgid", getresgid())?;
    must_hold("another group id", [groups.real, groups.effective, groups.saved] == [ids.gid; 3])?;
    let (mut have, mut want) = (step("getgroups", getgroups())?, ids.groups.clone());
    have.sort_unstable_by_key(|gid| gid.as_raw());
    want.sort_unstable_by_key(|gid| gid.as_raw());
    must_hold("another supplementary group", have == want)?;

    for (name, set, want) in [
        ("an effective capability", CapSet::Effective, &sets.keep),
        ("a permitted capability", CapSet::Permitted, &sets.keep),
        ("an inheritable capability", CapSet::Inheritable, &sets.none),
        ("an ambient capability", CapSet::Ambient, &sets.none),
        ("a capability in the bounding set", CapSet::Bounding, &sets.none),
    ] {
        must_hold(name, step("read capabilities", caps::read(None, set))? == *want)?;
    }
    for capability in caps::all().difference(&sets.keep) {
        must_fail("raising a capability", &caps::raise(None, CapSet::Permitted, *capability))?;
    }
    must_hold("new privileges", step("prctl(PR_GET_NO_NEW_PRIVS)", prctl::get_no_new_privs())?)?;
    must_hold("dumping memory", !step("prctl(PR_GET_DUMPABLE)", prctl::get_dumpable())?)
}

fn step<T, E: Display>(what: &'static str, result: Result<T, E>) -> Result<T, DropError> {
    result.map_err(|error| DropError::Failed(what, error.to_string()))
}

fn must_fail<E>(what: &'static str, result: &Result<(), E>) -> Result<(), DropError> {
    must_hold(what, result.is_err())
}

fn must_hold(what: &'static str, holds: bool) -> Result<(), DropError> {
    if holds { Ok(()) } else { Err(DropError::NotDropped(what)) }
}
