//! `knock-daemon --check`: walks the start without starting anything, and says what it finds.
//!
//! ```text
//! this file   config, user, firewall, log, profiles       host    what the kernel is set to
//! guard       what our own firewall script remembers      open    what a knock could open
//! ```

mod clock;
mod found;
mod guard;
mod host;
mod open;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::config::LogRule;
use super::confirmed_guard::ConfirmedGuard;
use super::error::DaemonError;
use super::load_profiles;
use super::log_source::{self, OpenedLog};
use super::own_firewall;
use super::registry::ProfileRegistry;
use super::say;
use super::settings::Settings;
use super::trial_plan::{Finding, Interrupted, RunTrial, TrialPlan};
use super::user::user_to_run_as;
use crate::grant::{Protocol, listed};
use crate::privileged::drop_privileges::drop_privileges;
use found::Found;
use open::Offer;

/// Where programs send their log lines to syslog.
const DEV_LOG: &str = "/dev/log";

/// Whether the firewalls of network namespaces may write to the kernel's log. Only the host's own namespace has it.
const NF_LOG_SETTING: &str = "/proc/sys/net/netfilter/nf_log_all_netns";

/// Checks config, user, firewall, log and profiles, and with a `trial` by packets. Every problem is reported; one is enough
/// to fail.
pub(super) fn run(settings: &Settings, trial: Option<RunTrial>) -> Result<(), DaemonError> {
    let mut found = Found::default();
    found.say("config", config(settings));
    let limits = settings.limits();
    let user = user_to_run_as(settings.config.user.as_deref());
    match &user {
        Ok(ids) => found.say("user", format_args!("runs as uid {}, gid {}", ids.uid, ids.gid)),
        Err(error) => found.problem("user", error),
    }
    let knows_connections = firewall(settings, &mut found);
    host::conntrack(settings.config.max_open, &mut found);
    let guard = guard::check(&settings.config_dir, &mut found);

    let Ok(choice) = settings.config.log.parse();
    match OpenedLog::open(&choice) {
        Ok(source) => log(&source, &mut found),
        Err(error) => found.problem("log", error),
    }

    // Root reads the profiles; whoever looks into them is root no more, but with `--try`, which is root's to the end.
    let files = load_profiles::read_files(settings);
    let allow = settings.config.allow.as_deref();
    if let (Some(trial), Ok((files, _))) = (trial, &files) {
        let offers = Offer::of_all(files, allow);
        try_out(settings, trial, &offers, guard.as_ref(), &mut found)?;
    }
    if let Ok(ids) = &user {
        drop_privileges(ids, &[])?;
    }
    let files = files.and_then(|(files, unreadable)| {
        let offers = Offer::of_all(&files, allow);
        let (registry, broken) = load_profiles::parse(settings, files, &limits, knows_connections)?;
        Ok((offers, registry, broken + unreadable))
    });
    let has_stealth = files.as_ref().is_ok_and(|(_, registry, _)| !registry.stealth.is_empty());
    host::clock(has_stealth, &mut found);
    match files {
        Ok((possible, registry, left_out)) => {
            offers(&possible, guard.as_ref(), trial.is_some(), &found);
            share(settings, &registry, &mut found);
            let unlisted = registry.unlisted();
            if !unlisted.is_empty() {
                let warning = say::can_be_silenced(&unlisted);
                found.say("profiles", format_args!("WARNING: {warning}"));
            }
            // Those were reported one by one.
            found.count(left_out);
        }
        Err(error) => found.problem("profiles", error),
    }
    if found.problems() > 0 {
        return Err(DaemonError::Problems(found.problems()));
    }
    found.say("result", "nothing was found that would keep a knock from working");
    Ok(())
}

fn config(settings: &Settings) -> String {
    let config = &settings.config;
    let allow = match &config.allow {
        None => "any TCP port".to_owned(),
        Some(services) => listed(services, ", "),
    };
    format!(
        "{:?}: {allow}, open for {} s; window {}; log prefix {:?}",
        settings.config_dir, config.delay, config.error_window, config.log_prefix
    )
}

/// Whether a knock would be heard, and who else could write what is taken for one.
fn log(source: &OpenedLog, found: &mut Found) {
    match source {
        OpenedLog::File(file) if !file.is_there() => found.problem(
            "log",
            format_args!(
                "there is no {:?}; the daemon would wait for one, and hear nothing until then",
                file.path()
            ),
        ),
        OpenedLog::File(file) if !log_source::is_in_use(file.path()) => found.problem(
            "log",
            format_args!(
                "nobody has written to {:?} since this host was started\n\
                 fix: have rsyslog write the kernel's lines there, or set log = \"kmsg\"",
                file.path()
            ),
        ),
        source => found.say("log", source),
    }
    match source {
        OpenedLog::File(_) if anybody_may_log() => found.say(
            "log",
            "every user of this host can write lines to that file (through /dev/log) that look like the kernel's; \
             without a profile's keys they open nothing, but they can replay what they see\n\
             fix: set log = \"kmsg\", which has the kernel's lines alone",
        ),
        OpenedLog::Kmsg(_) if namespaces_may_log(Path::new(NF_LOG_SETTING)) => found.say(
            "log",
            "WARNING: net.netfilter.nf_log_all_netns is 1: a user who may make a user namespace can have the kernel log \
             any packet; without a profile's keys such lines open nothing, but what was seen can be replayed\n\
             fix: unless you need it: sysctl -w net.netfilter.nf_log_all_netns=0",
        ),
        _ => {}
    }
}

/// Whether a firewall in a network namespace, which any user may own, writes to the log that this host's own writes to.
fn namespaces_may_log(setting: &Path) -> bool {
    std::fs::read_to_string(setting).is_ok_and(|value| value.trim() == "1")
}

/// Whether the numbers of all profiles have room in the kernel's set.
fn share(settings: &Settings, registry: &ProfileRegistry, found: &mut Found) {
    if settings.config.log_rule != LogRule::Own {
        return;
    }
    match registry.share(settings.config.error_window) {
        Ok(share) => {
            for less in share.shortage() {
                found.say("profiles", less);
            }
        }
        Err(error) => found.problem("profiles", error),
    }
}

/// Tries the back end out. Whether it tells of connections; where there is none, that is not known.
fn firewall(settings: &Settings, found: &mut Found) -> bool {
    let firewall = match own_firewall::try_to_create(settings) {
        Ok(firewall) => firewall,
        Err(error) => {
            found.problem("firewall", error);
            return true;
        }
    };
    let Some([v4, v6]) = firewall.conntrack_helpers() else {
        found.say(
            "firewall",
            "nftables works; every other firewall must accept our mark (README has a line for each)",
        );
        return false;
    };
    found.say(
        "firewall",
        format_args!(
            "conntrack works (helpers: {} for IPv4, {} for IPv6): any firewall that accepts ESTABLISHED,RELATED lets in what a \
             knock opens",
            v4.unwrap_or("none"),
            v6.unwrap_or("none")
        ),
    );
    for (family, wanted, helper) in
        [("IPv4", settings.config.ipv4, v4), ("IPv6", settings.config.ipv6, v6)]
    {
        if wanted && helper.is_none() {
            found.problem(
                "firewall",
                format_args!(
                    "this kernel has no conntrack helper for {family}, so nothing can be opened for it\n\
                     fix: load one of its modules, or set {} = false",
                    family.to_lowercase()
                ),
            );
        }
    }
    if !firewall.has_table() {
        found.say(
            "firewall",
            "this kernel has no nf_tables: knocks are heard only if another firewall logs them",
        );
    }
    firewall.has_table()
}

/// Says what a knock could open, and whether the guard closes it to everybody else.
fn offers(offers: &[Offer], guard: Option<&ConfirmedGuard>, is_tried: bool, found: &Found) {
    for offer in offers {
        let at = offer
            .knock_port
            .map_or_else(|| "the port that it asks for".to_owned(), |port| format!("port {port}"));
        found.say(
            "profile",
            format_args!(
                "{:?} ({}) knocks on {at} and can open {}",
                offer.profile,
                offer.layout.name(),
                offer.text()
            ),
        );
    }
    let (services, _) = open::to_try(offers, guard);
    let unsure = services
        .iter()
        .filter(|service| guard.is_none_or(|guard| !guard.closes(Protocol::Tcp, service.port)));
    let unsure: Vec<_> = unsure.map(|service| format!("tcp/{}", service.port)).collect();
    if !unsure.is_empty() && !is_tried {
        found.say(
            "guard",
            format_args!(
                "no guard of ours closes {}; whether strangers are kept out cannot be seen without a packet: \
                 `--check --try` tries it",
                unsure.join(", ")
            ),
        );
    }
}

/// Has each service tried as a stranger, and by a knock.
fn try_out(
    settings: &Settings,
    trial: RunTrial,
    offers: &[Offer],
    guard: Option<&ConfirmedGuard>,
    found: &mut Found,
) -> Result<(), DaemonError> {
    let (services, too_many) = open::to_try(offers, guard);
    let config = &settings.config;
    let plan = TrialPlan {
        config_dir: settings.config_dir.clone(),
        log: config.log.clone(),
        firewall: config.firewall.name(),
        user: config.user.clone(),
        services,
        taken: offers.iter().filter_map(|offer| offer.knock_port).collect(),
        ipv4: config.ipv4,
        ipv6: config.ipv6,
    };
    let tried = trial(&plan, &mut |finding| match finding {
        Finding::Note(what) => found.say("try", what),
        Finding::Problem(what) => found.problem("try", what),
    });
    tried.map_err(|Interrupted| DaemonError::Interrupted)?;
    let udp = open::udp(offers, guard);
    if !udp.is_empty() {
        found.say("try", format_args!("not tried, because silence tells nothing: {udp}"));
    }
    if too_many {
        found.say("try", "there are more services; the first 16 were tried");
    }
    Ok(())
}

fn anybody_may_log() -> bool {
    std::fs::metadata(DEV_LOG).is_ok_and(|metadata| metadata.permissions().mode() & 0o002 != 0)
}
