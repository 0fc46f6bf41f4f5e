//! From root's command line to a process that may do nothing but watch. [`run`] is the story, in order.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc::{O_CREAT, O_NOFOLLOW};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{Pid, getpid, getppid};

use super::door::{Door, Listening, Means};
use super::failure::Failure;
use super::guard;
use super::said::Prefixes;
use super::sandbox;
use super::say;
use super::setup::Setup;
use super::source::{Opened, Source};
use super::unread::Unread;
use super::watch::Watch;
use crate::layout::receiver::FAR;
use crate::privileged::{self, Helper, Ids, Limits};

/// Starts the daemon, and returns when it has ended as it was told to.
pub(super) fn run(setup: &Setup) -> Result<(), Failure> {
    end_with_trial(setup)?;
    let _lock = lock(setup)?;
    let signed = sign(setup);
    let user = setup.user()?;
    let limits = setup.limits();

    // The helper comes first: it must never have had a profile, a key or a log in its memory.
    let log_rules = Setup::log_rules()?;
    let firewall = setup.firewall(&log_rules)?;
    let means = setup.means(&firewall);
    if !firewall.has_table() {
        say::event(
            "this kernel has no nf_tables: a knock is heard only if another firewall logs it, and opens for one SYN, whoever \
             sends it",
        );
    }
    cap_writing()?;
    let firewall = match &signed {
        Ok(()) => guard::hold(setup, firewall),
        // Nobody could have it dropped again.
        Err(why) => {
            say::event(format_args!(
                "guard: not held here, because `lock` cannot be written: {why}"
            ));
            firewall
        }
    };
    let mut helper = privileged::split(firewall, &limits, &user).map_err(Failure::NoHelper)?;

    let prepared = prepare(setup, &user, limits, means, helper.pid());
    match prepared.and_then(|prepared| listen(setup, prepared, &mut helper)) {
        Ok(Prepared { source, door, signals }) => {
            say::event(format_args!("watching {source}"));
            say::ready();
            let log_prefix = setup.config.log_prefix.clone();
            let prefixes = Prefixes::new(log_rules, log_prefix, means.logs);
            let verbose = setup.verbose;
            let unread = Unread::default();
            Watch { source, door, helper, signals, prefixes, verbose, unread }.run()
        }
        Err(failure) => {
            // Whoever looks after we have ended finds nothing of ours.
            let _ = helper.end();
            Err(failure)
        }
    }
}

/// What the loop needs, in a process that may do nothing else.
struct Prepared {
    source: Source,
    door: Door,
    signals: SignalFd,
}

/// Has the kernel log the knocks, and says what that leaves open to a flood.
fn listen(setup: &Setup, mut prepared: Prepared, helper: &mut Helper) -> Result<Prepared, Failure> {
    let window = setup.config.error_window;
    let listening = prepared.door.listen(helper, window).map_err(Failure::NoAnswer)?;
    let Listening { numbers, counters, ports } = listening.map_err(Failure::NotListening)?;
    if setup.verbose {
        say::event(format_args!("{numbers} sequence numbers are expected"));
    }
    if numbers > 0 && counters < FAR {
        say::event(format_args!(
            "so many profiles share the kernel's set that knocks are heard up to {counters} counters ahead, not {FAR}"
        ));
    }
    if !ports.is_empty() {
        let names: Vec<_> = ports.iter().map(|port| prepared.door.profile_names(*port)).collect();
        say::event(say::can_be_silenced(&names));
    }
    Ok(prepared)
}

fn prepare(
    setup: &Setup,
    user: &Ids,
    limits: Limits,
    means: Means,
    helper: Pid,
) -> Result<Prepared, Failure> {
    // Root opens, and looks at nothing.
    raise_file_limit()?;
    let source = setup.source()?;
    let (files, _) = setup.profiles()?;
    let signals = take_signals().map_err(|why| Failure::System("cannot take over signals", why))?;
    let readable = directories(&source);
    privileged::drop_to(&with_group_of(&source, user), &[]).map_err(Failure::Drop)?;
    // Another user's process has lost that.
    end_with_trial(setup)?;

    // From here on nothing is root's. The files are restricted before the log is watched, because that starts
    // threads; the system calls after, because the filter is for all of them.
    let (door, _) = setup.door(files, limits, means)?;
    if !sandbox::restrict_files(&readable).map_err(Failure::Sandbox)? {
        say::event(
            "this kernel has no Landlock: a daemon that was taken over could read what its user may read",
        );
    }
    let source = source.watch().map_err(Failure::Log)?;
    sandbox::forbid_syscalls(root(&source), helper).map_err(Failure::Sandbox)?;
    Ok(Prepared { source, door, signals })
}

/// The group that may read the log file, beside the user's own, where that takes a group: the file is opened again when
/// it was rotated.
fn with_group_of(source: &Opened, user: &Ids) -> Ids {
    let group = match source {
        Opened::File(file) => file.group(),
        Opened::Kmsg(_) => None,
    };
    Ids { groups: group.into_iter().collect(), ..*user }
}

/// Where the log is opened again after it was rotated: below the directory above its own, so that its own may be
/// replaced, and likewise where a link leads to. Of what is not there yet, below what is: but never all of `/`.
fn directories(source: &Opened) -> Vec<PathBuf> {
    let Opened::File(file) = source else { return Vec::new() };
    let above = |path: &Path| {
        let dir = path.parent()?;
        let above = dir.parent().filter(|above| above.parent().is_some()).unwrap_or(dir);
        let there = above.ancestors().find(|dir| dir.is_dir())?;
        there.parent().map(|_| there.to_owned())
    };
    let linked = Some(file.leads_to()).filter(|real| !file.path().starts_with(real));
    [above(file.path()), linked.as_deref().and_then(above)].into_iter().flatten().collect()
}

/// The directory that opening the log again is relative to.
fn root(source: &Source) -> Option<BorrowedFd<'_>> {
    match source {
        Source::File(file) => Some(file.root()),
        Source::Kmsg(_) => None,
    }
}

/// Has the kernel tell this process to end when the one that tries things out with it is gone, however it went.
fn end_with_trial(setup: &Setup) -> Result<(), Failure> {
    let Some(trial) = setup.trial_of else { return Ok(()) };
    set_pdeathsig(Signal::SIGTERM)
        .map_err(|why| Failure::System("cannot ask to end with the trial", why.into()))?;
    if getppid() == trial { Ok(()) } else { Err(Failure::TrialIsOver) }
}

/// Two daemons on one config directory would hand out the same counters. The lock is a file that only root can open:
/// whoever can open a file, or the directory itself, can lock it, and would keep the daemon from starting. It is held for
/// as long as the daemon runs, so nothing can be written through it.
fn lock(setup: &Setup) -> Result<File, Failure> {
    let dir = &setup.config_dir;
    let mut how = File::options();
    // The standard library's `create` asks for a descriptor that can be written.
    how.read(true).mode(0o600).custom_flags(O_CREAT | O_NOFOLLOW);
    let lock = how.open(dir.join("lock")).map_err(|why| Failure::ConfigDir(dir.clone(), why))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => Err(Failure::Locked(dir.clone())),
        Err(std::fs::TryLockError::Error(why)) => Err(Failure::ConfigDir(dir.clone(), why)),
    }
}

/// Says in the lock who holds it, and which table that process has: minimal-firewall.sh reads it, to have our copy of the
/// guard dropped.
fn sign(setup: &Setup) -> io::Result<()> {
    // Whoever reads there which process to send it to must not end us with it before we listen.
    SigSet::from(Signal::SIGUSR1).thread_block()?;
    let mut how = File::options();
    how.write(true).truncate(true).custom_flags(O_NOFOLLOW);
    let mut lock = how.open(setup.config_dir.join("lock"))?;
    writeln!(lock, "{} {}", getpid(), setup.table)
}

/// Each profile keeps its counter open.
fn raise_file_limit() -> Result<(), Failure> {
    getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard))
        .map_err(|why| Failure::System("cannot raise the limit of open files", why.into()))
}

/// How long a file may become by a write of the daemon or its helper: counters have some ten bytes, pipes have no length.
const LONGEST_FILE: u64 = 64 * 1024;

/// How much may be added where stderr is a file.
const ROOM_FOR_EVENTS: u64 = 1 << 30;

/// Whoever takes the daemon or its helper over fills no disk. A write past the cap is an error, since the signal that
/// would come with it is blocked.
fn cap_writing() -> Result<(), Failure> {
    let cap = |stderr| {
        SigSet::from(Signal::SIGXFSZ).thread_block()?;
        let stderr = fstat(stderr)?;
        let is_file = stderr.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits();
        let length = u64::try_from(stderr.st_size).unwrap_or(0);
        let cap = if is_file { length.saturating_add(ROOM_FOR_EVENTS) } else { LONGEST_FILE };
        let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE)?;
        setrlimit(Resource::RLIMIT_FSIZE, cap.min(hard), cap.min(hard))
    };
    cap(io::stderr()).map_err(|why| Failure::System("cannot limit what is written", why.into()))
}

/// Stopping is an event like any other: nothing is interrupted half-way, and a SIGHUP ends nothing. What `nohup` or a shell had this process ignore
/// (it must outlive a terminal, or a Ctrl-C) stays ignored: a signal that is blocked would be queued all the same.
fn take_signals() -> io::Result<SignalFd> {
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
