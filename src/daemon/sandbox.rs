//! What the daemon's process may do once it reads input that strangers caused: read its log, write its counters, talk
//! to its helper. Privileges are dropped elsewhere ([`crate::privileged::drop_privileges`]); this is the rest.
//!
//! Landlock says which directories can be read from, seccomp which system calls there are. Any other call kills the
//! process; then the helper exits and closes what is open.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use nix::libc;
use nix::unistd::{Pid, getpid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use thiserror::Error;

use super::refresh_timer::ARM_FLAGS;

/// Takes the right to open any file away from this thread and those that it starts, but for reading below
/// `readable`. Says whether the kernel does it: one without Landlock leaves what the user's identity allows.
pub(super) fn restrict_files(readable: &[PathBuf]) -> Result<bool, SandboxError> {
    let everything = AccessFs::from_all(ABI::V5);
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(everything)?
        .handle_access(AccessNet::from_all(ABI::V5))?
        .scope(Scope::AbstractUnixSocket)?
        .create()?;
    for dir in readable {
        // A directory that the user may not search stays unreadable.
        if let Ok(dir) = PathFd::new(dir) {
            rules =
                rules.add_rule(PathBeneath::new(dir, AccessFs::ReadFile | AccessFs::ReadDir))?;
        }
    }
    Ok(rules.restrict_self()?.ruleset != RulesetStatus::NotEnforced)
}

/// From here on, the kernel kills this process when any of its threads makes a system call that is not listed.
///
/// `root` is the directory that a log is opened from again after it was rotated; without it nothing can be opened. `timer` is
/// set again and again; without it no timer can be.
pub(super) fn forbid_syscalls(
    root: Option<BorrowedFd<'_>>,
    helper: Pid,
    timer: Option<BorrowedFd<'_>>,
) -> Result<(), SandboxError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    seccompiler::apply_filter_all_threads(&filter(root, helper, timer, arch)?)?;
    Ok(())
}

fn filter(
    root: Option<BorrowedFd<'_>>,
    helper: Pid,
    timer: Option<BorrowedFd<'_>>,
    arch: TargetArch,
) -> Result<BpfProgram, SandboxError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALWAYS.iter().chain(OF_THIS_ARCH).map(|&call| (call, Vec::new())).collect();
    // No new code: memory is for data.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![without_bits(2, libc::PROT_EXEC)?]);
    }
    // The standard library asks whether a descriptor is open before it closes it, in builds with debug assertions; the
    // C library asks what one is before it lists a directory, and marks it close-on-exec.
    let asks = [libc::F_GETFD, libc::F_GETFL, libc::F_SETFD].map(|what| all_equal(&[(1, what)]));
    rules.insert(libc::SYS_fcntl, asks.into_iter().collect::<Result<_, _>>()?);
    // Signals go to the helper alone, to end it if it does not end by itself.
    rules.insert(libc::SYS_kill, vec![all_equal(&[(0, helper.as_raw())])?]);
    // A panic that aborts sends a signal to this process; signals to other processes stay forbidden.
    rules.insert(libc::SYS_tgkill, vec![all_equal(&[(0, getpid().as_raw())])?]);
    if let Some(root) = root {
        rules.insert(libc::SYS_openat, vec![all_equal(&[(0, root.as_raw_fd()), (2, OPEN_FLAGS)])?]);
    }
    if let Some(timer) = timer {
        let arguments = [(0, timer.as_raw_fd()), (1, ARM_FLAGS.bits())];
        rules.insert(libc::SYS_timerfd_settime, vec![all_equal(&arguments)?]);
    }
    let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch)?;
    Ok(filter.try_into()?)
}

/// The flags with which [`super::log_source`] opens, as the kernel sees them: no writing, no creating.
const OPEN_FLAGS: i32 = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;

/// Allowed whatever the arguments are. None of these starts a program, opens a file, or makes a socket.
const ALWAYS: &[i64] = &[
    // The log, the counters, the helper's pipe, the lines on stderr.
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_fdatasync,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_close,
    libc::SYS_readlinkat,
    libc::SYS_getdents64, // to find the copy that logrotate makes before it truncates
    // Waiting: the main thread, and notify's.
    libc::SYS_ppoll,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_ctl,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    // The helper's end.
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_pidfd_open,
    // Memory and threads, as the C library and Rust's runtime use them.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_getrandom,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Older names of calls above, which x86-64 still has and its C library still uses.
#[cfg(target_arch = "x86_64")]
const OF_THIS_ARCH: &[i64] = &[libc::SYS_poll, libc::SYS_epoll_wait, libc::SYS_readlink];
#[cfg(not(target_arch = "x86_64"))]
const OF_THIS_ARCH: &[i64] = &[];

fn all_equal(arguments: &[(u8, i32)]) -> Result<SeccompRule, SandboxError> {
    let conditions = arguments.iter().map(|&(index, value)| {
        // The kernel takes these as 32-bit integers, so that is what is compared.
        SeccompCondition::new(
            index,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::Eq,
            u64::from(value.cast_unsigned()),
        )
    });
    Ok(SeccompRule::new(conditions.collect::<Result<_, _>>()?)?)
}

fn without_bits(index: u8, bits: i32) -> Result<SeccompRule, SandboxError> {
    let mask = SeccompCmpOp::MaskedEq(u64::from(bits.cast_unsigned()));
    Ok(SeccompRule::new(vec![SeccompCondition::new(index, SeccompCmpArgLen::Dword, mask, 0)?])?)
}

/// Why the sandbox could not be closed. The daemon does not go on without it.
#[derive(Debug, Error)]
pub(super) enum SandboxError {
    /// Landlock.
    #[error("cannot restrict files with Landlock: {0}")]
    Files(#[from] RulesetError),
    /// Building the filter.
    #[error("cannot build the seccomp filter: {0}")]
    Filter(#[from] seccompiler::BackendError),
    /// Installing it.
    #[error("cannot install the seccomp filter: {0}\nfix: use a kernel with CONFIG_SECCOMP_FILTER")]
    Install(#[from] seccompiler::Error),
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn the_filter_can_be_built_for_each_architecture() {
        let root = std::fs::File::open("/").unwrap();
        for arch in [TargetArch::x86_64, TargetArch::aarch64] {
            let (root, helper) = (Some(root.as_fd()), Pid::from_raw(1));
            let program = filter(root, helper, root, arch).unwrap();
            assert!(program.len() > ALWAYS.len());
        }
    }
}
