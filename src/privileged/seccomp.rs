//! The system calls that the helper may make once it reads from the pipe. Owns the list; anything else kills the process.
//!
//! The numbers come from libc for the target that is compiled for; x86-64 and aarch64 have all of them.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// The helper's descriptors, all that it has.
pub(super) const REQUEST_FD: i32 = 0;
pub(super) const REPLY_FD: i32 = 1;
pub(super) const STDERR_FD: i32 = 2;
pub(super) const NETLINK_FD: i32 = 3;
pub(super) const ROUTE_FD: i32 = 4;

/// Confines this thread, the helper's only one, to what the loop does.
pub(super) fn confine() -> Result<(), Error> {
    let arch = std::env::consts::ARCH.try_into()?;
    seccompiler::apply_filter(&filter(arch)?)
}

fn filter(arch: TargetArch) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(listed()?, SeccompAction::KillProcess, SeccompAction::Allow, arch)?
        .try_into()
}

/// What the loop needs: its pipes, netlink, stderr, memory that is never executable, the clock, and exit.
fn listed() -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let anonymous = masked(3, libc::MAP_ANONYMOUS, libc::MAP_ANONYMOUS)?;
    let not_executable = masked(2, libc::PROT_EXEC, 0)?;
    // To the kernel only (no address given), and back.
    let kernel = || {
        let sockets = [NETLINK_FD, ROUTE_FD].map(|socket| rule(&[is(0, socket)?, is_null(4)?]));
        sockets.into_iter().collect::<Result<Vec<_>, _>>()
    };
    Ok(BTreeMap::from([
        (libc::SYS_sendto, kernel()?),
        (libc::SYS_recvfrom, kernel()?),
        (libc::SYS_read, vec![rule(&[is(0, REQUEST_FD)?])?]),
        (libc::SYS_write, vec![rule(&[is(0, REPLY_FD)?])?, rule(&[is(0, STDERR_FD)?])?]),
        (libc::SYS_mmap, vec![rule(&[not_executable.clone(), anonymous])?]),
        (libc::SYS_mprotect, vec![rule(&[not_executable])?]), // how the allocator grows a thread's heap
        (libc::SYS_munmap, vec![]),
        (libc::SYS_mremap, vec![]),
        (libc::SYS_madvise, vec![]),
        (libc::SYS_brk, vec![]),
        (libc::SYS_clock_gettime, vec![]),
        (libc::SYS_gettid, vec![]), // a panic prints it, and
        (libc::SYS_futex, vec![]),  // unwinds with a lock
        (libc::SYS_rt_sigreturn, vec![]),
        (libc::SYS_exit_group, vec![]),
    ]))
}

fn rule(conditions: &[SeccompCondition]) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.to_vec())
}

/// Argument number `index` is `value`.
fn is(index: u8, value: i32) -> Result<SeccompCondition, BackendError> {
    let value = u64::from(value.cast_unsigned());
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

/// Argument number `index` is a null pointer.
fn is_null(index: u8) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)
}

/// The bits `mask` of argument number `index` are `value`.
fn masked(index: u8, mask: i32, value: i32) -> Result<SeccompCondition, BackendError> {
    let operator = SeccompCmpOp::MaskedEq(u64::from(mask.cast_unsigned()));
    SeccompCondition::new(
        index,
        SeccompCmpArgLen::Dword,
        operator,
        u64::from(value.cast_unsigned()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_builds_for_both_architectures() {
        for arch in [TargetArch::x86_64, TargetArch::aarch64] {
            assert!(!filter(arch).unwrap().is_empty());
        }
    }

    #[test]
    fn no_call_of_the_list_starts_a_program_or_opens_anything() {
        let listed = listed().unwrap();
        for call in [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_socket,
            libc::SYS_ptrace,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_kill,
            libc::SYS_prctl,
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
        ] {
            assert!(!listed.contains_key(&call), "system call {call}");
        }
    }
}
