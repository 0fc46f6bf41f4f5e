//! The system calls that the helper may make once it reads from the pipe. Owns the list; anything else kills the process.
//!
//! The numbers come from libc for the target that is compiled for; x86-64 and aarch64 have all of them.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use super::split::{NETLINK_FD, REPLY_FD, REQUEST_FD, STDERR_FD};

/// Confines this thread, the helper's only one, to what the loop does with the nftables back end.
pub(super) fn confine_nftables() -> Result<(), Error> {
    let arch = std::env::consts::ARCH.try_into()?;
    seccompiler::apply_filter(&nftables(arch)?)
}

/// Confines the iptables back end's helper. It starts programs, and they run under the same filter, so this can only list
/// what no change of a firewall needs.
pub(super) fn confine_iptables() -> Result<(), Error> {
    let arch = std::env::consts::ARCH.try_into()?;
    seccompiler::apply_filter(&no_clone3(arch)?)?;
    seccompiler::apply_filter(&iptables(arch)?)
}

/// The flags of `clone3` are behind a pointer, where no filter sees them. Without it, the C library uses `clone`.
fn no_clone3(arch: TargetArch) -> Result<BpfProgram, BackendError> {
    let rules = BTreeMap::from([(libc::SYS_clone3, vec![])]);
    let absent = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    SeccompFilter::new(rules, SeccompAction::Allow, absent, arch)?.try_into()
}

fn iptables(arch: TargetArch) -> Result<BpfProgram, BackendError> {
    let never = [
        // other processes
        [libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev, libc::SYS_kill]
            .as_slice(),
        &[
            libc::SYS_pidfd_open,
            libc::SYS_pidfd_getfd,
            libc::SYS_pidfd_send_signal,
            libc::SYS_rt_sigqueueinfo,
        ],
        &[libc::SYS_tkill, libc::SYS_tgkill, libc::SYS_rt_tgsigqueueinfo],
        // the kernel
        &[
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_delete_module,
            libc::SYS_kexec_load,
        ],
        &[
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_userfaultfd,
            libc::SYS_reboot,
            libc::SYS_syslog,
        ],
        &[libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register],
        &[
            libc::SYS_add_key,
            libc::SYS_request_key,
            libc::SYS_keyctl,
            libc::SYS_personality,
            libc::SYS_acct,
        ],
        // what files there are, and which namespace this is
        &[
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_pivot_root,
            libc::SYS_chroot,
            libc::SYS_move_mount,
        ],
        &[
            libc::SYS_open_tree,
            libc::SYS_fsopen,
            libc::SYS_fsmount,
            libc::SYS_mount_setattr,
            libc::SYS_open_by_handle_at,
        ],
        &[
            libc::SYS_setns,
            libc::SYS_unshare,
            libc::SYS_swapon,
            libc::SYS_swapoff,
            libc::SYS_quotactl,
        ],
        // the clock, which the stop times go by, and the host's name
        &[
            libc::SYS_clock_settime,
            libc::SYS_settimeofday,
            libc::SYS_adjtimex,
            libc::SYS_clock_adjtime,
        ],
        &[libc::SYS_sethostname, libc::SYS_setdomainname],
    ];
    let mut rules: BTreeMap<_, _> = never.concat().into_iter().map(|call| (call, vec![])).collect();
    // A new user namespace gives every capability back, inside of it.
    let namespaces = [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
    ];
    let each = namespaces.map(|flag| rule(&[masked(0, flag, flag)?]));
    rules.insert(libc::SYS_clone, each.into_iter().collect::<Result<_, _>>()?);
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::KillProcess, arch)?.try_into()
}

fn nftables(arch: TargetArch) -> Result<BpfProgram, BackendError> {
    let mut rules = base()?;
    // To the kernel only (no address given), and back.
    rules.insert(libc::SYS_sendto, vec![rule(&[is(0, NETLINK_FD)?, is_null(4)?])?]);
    rules.insert(libc::SYS_recvfrom, vec![rule(&[is(0, NETLINK_FD)?, is_null(4)?])?]);
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch)?.try_into()
}

/// What any back end's loop needs: its pipe, its complaint, memory that is never executable, the clock, the end.
fn base() -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let anonymous = masked(3, libc::MAP_ANONYMOUS, libc::MAP_ANONYMOUS)?;
    let not_executable = masked(2, libc::PROT_EXEC, 0)?;
    Ok(BTreeMap::from([
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
            assert!(!nftables(arch).unwrap().is_empty());
            assert!(!iptables(arch).unwrap().is_empty());
            assert!(!no_clone3(arch).unwrap().is_empty());
        }
    }

    #[test]
    fn no_call_of_the_list_starts_a_program_or_opens_anything() {
        let listed = base().unwrap();
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
