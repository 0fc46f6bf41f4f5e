//! The start of the daemon, from root's command line to a sandboxed process. [`run`] has the steps in order.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::unistd::{Pid, getppid};

use super::authorize::Authorizer;
use super::error::DaemonError;
use super::event_loop::EventLoop;
use super::expected_knocks::Listening;
use super::guard;
use super::helper_handle::HelperHandle;
use super::line_handler::LineHandler;
use super::load_profiles;
use super::lock;
use super::log_event::LogPrefixes;
use super::log_source::{LogSource, OpenedLog};
use super::own_firewall::{self, FirewallFeatures};
use super::process_limits::{cap_writing, raise_file_limit};
use super::refresh_timer::{RefreshTimer, step_now};
use super::registry::ProfileRegistry;
use super::rejected_knocks::MeantFor;
use super::sandbox;
use super::say;
use super::settings::Settings;
use super::signals::take_signals;
use super::user::user_to_run_as;
use crate::privileged::drop_privileges::{Ids, drop_privileges};
use crate::privileged::firewall::log_rules::LogRules;
use crate::privileged::limits::Limits;
use crate::privileged::spawn::spawn_helper;

/// Starts the daemon, and returns when a signal has ended it.
pub(super) fn run(settings: &Settings) -> Result<(), DaemonError> {
    end_with_trial(settings)?;
    let _lock = lock::lock(&settings.config_dir)?;
    let signed = lock::sign(&settings.config_dir, &settings.table);
    let user = user_to_run_as(settings.config.user.as_deref())?;
    let limits = settings.limits();

    // The helper comes first: it must never have had a profile, a key or a log in its memory.
    let log_rules = own_firewall::log_rules()?;
    let firewall = own_firewall::create(settings, &log_rules)?;
    let features = own_firewall::features(settings, &firewall);
    cap_writing()?;
    let firewall = match &signed {
        Ok(()) => guard::hold(settings, firewall),
        // Without the lock file, minimal-firewall.sh could not have it dropped again.
        Err(why) => {
            say::event(format_args!(
                "guard: not held here, because `lock` cannot be written: {why}"
            ));
            firewall
        }
    };
    let spawned = spawn_helper(firewall, &limits, &user).map_err(DaemonError::NoHelper)?;
    let helper = HelperHandle::when_ready(spawned)?;

    match prepare(settings, &user, &limits, features, helper.pid()) {
        Ok(prepared) => watch(settings, prepared, helper, limits, features, log_rules),
        Err(error) => {
            // Wait for its exit, so that nothing of ours is left in the kernel after ours.
            let _ = helper.end();
            Err(error)
        }
    }
}

/// What the loop needs. When it is complete, this process is confined.
struct Prepared {
    source: LogSource,
    registry: ProfileRegistry,
    signals: SignalFd,
    timer: Option<RefreshTimer>,
}

fn prepare(
    settings: &Settings,
    user: &Ids,
    limits: &Limits,
    features: FirewallFeatures,
    helper: Pid,
) -> Result<Prepared, DaemonError> {
    // Root opens the files and parses none of them.
    raise_file_limit()?;
    let Ok(choice) = settings.config.log.parse();
    let source = OpenedLog::open(&choice)?;
    let (files, _) = load_profiles::read_files(settings)?;
    let signals =
        take_signals().map_err(|why| DaemonError::System("cannot take over signals", why))?;
    let readable = directories(&source);
    drop_privileges(&with_group_of(&source, user), &[])?;
    // Another user's process has lost that.
    end_with_trial(settings)?;

    // From here on nothing is root's. The files are restricted before the log is watched, because that starts
    // threads; the system calls after, because the filter is for all of them.
    let (registry, _) = load_profiles::parse(settings, files, limits, features.logs_connections)?;
    if !sandbox::restrict_files(&readable)? {
        say::event(
            "this kernel has no Landlock: a daemon that was taken over could read what its user may read",
        );
    }
    let source = source.watch()?;
    let timer = (!registry.stealth.is_empty()).then(RefreshTimer::new).transpose();
    let timer = timer.map_err(|why| DaemonError::System("cannot make a timer", why.into()))?;
    sandbox::forbid_syscalls(root(&source), helper, timer.as_ref().map(AsFd::as_fd))?;
    Ok(Prepared { source, registry, signals, timer })
}

/// Has the kernel log the knocks, and runs the event loop.
fn watch(
    settings: &Settings,
    prepared: Prepared,
    helper: HelperHandle,
    limits: Limits,
    features: FirewallFeatures,
    log_rules: LogRules,
) -> Result<(), DaemonError> {
    let Prepared { source, registry, signals, timer } = prepared;
    let wanted = registry.wanted_ports(features.logs_connections);
    let max_open = settings.config.max_open_per_profile;
    let mut authorizer =
        Authorizer::new(registry, helper, limits, max_open, features.logs_connections);
    match authorizer.listen(settings.config.error_window, step_now(), features.logs_knocks) {
        Ok(listening) => say_listening(&listening, &authorizer.registry, settings.verbose),
        Err(error) => {
            let _ = authorizer.helper.end();
            return Err(error);
        }
    }
    say::event(format_args!("watching {source}"));
    say::ready();
    let log_prefix = settings.config.log_prefix.clone();
    let prefixes = LogPrefixes::new(log_rules, log_prefix, features.logs_knocks);
    let lines = LineHandler::new(authorizer, prefixes, settings.verbose);
    EventLoop { source, wanted, signals, timer, lines }.run()
}

/// Reports what the kernel logs, and which profiles a flood can keep from being logged.
fn say_listening(listening: &Listening, registry: &ProfileRegistry, verbose: bool) {
    let Listening { share, sequences, ports } = listening;
    say::detail(verbose, format_args!("{sequences} sequence numbers are expected"));
    share.shortage().for_each(say::event);
    if !ports.is_empty() {
        let names = |port: &u16| registry.names_of(MeantFor::KnockPort(*port));
        let names: Vec<_> = ports.iter().map(names).collect();
        say::event(say::can_be_silenced(&names));
    }
}

/// The group that may read the log file, beside the user's own, where that takes a group: the file is opened again when
/// it was rotated.
fn with_group_of(source: &OpenedLog, user: &Ids) -> Ids {
    let group = match source {
        OpenedLog::File(file) => file.group(),
        OpenedLog::Kmsg(_) => None,
    };
    Ids { groups: group.into_iter().collect(), ..*user }
}

/// Where the log is opened again after it was rotated: below the directory above its own, so that its own may be
/// replaced, and likewise where a link leads to. Of what is not there yet, below what is: but never all of `/`.
fn directories(source: &OpenedLog) -> Vec<PathBuf> {
    let OpenedLog::File(file) = source else { return Vec::new() };
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
fn root(source: &LogSource) -> Option<BorrowedFd<'_>> {
    match source {
        LogSource::File(file) => Some(file.root()),
        LogSource::Kmsg(_) => None,
    }
}

/// Has the kernel send this process SIGTERM when the trial that started it has ended, for whatever reason.
fn end_with_trial(settings: &Settings) -> Result<(), DaemonError> {
    let Some(trial) = settings.trial_of else { return Ok(()) };
    set_pdeathsig(Signal::SIGTERM)
        .map_err(|why| DaemonError::System("cannot ask to end with the trial", why.into()))?;
    if getppid() == trial { Ok(()) } else { Err(DaemonError::TrialIsOver) }
}
