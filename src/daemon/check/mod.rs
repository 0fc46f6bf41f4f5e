//! `knock-daemon --check`: walks the start without starting anything, and says what it finds.
//!
//! ```text
//! this file   config, user, firewall, log, profiles       host    what the kernel is set to
//! guard       what our own firewall script remembers      open    what a knock could open
//! ```

mod guard;
mod host;
mod open;

use std::fmt::Display;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::authorize::FirewallFeatures;
use super::error::DaemonError;
use super::guard::Remembered;
use super::say;
use super::setup::Setup;
use super::log_source::{self, Opened};
use super::trial_plan::{Finding, Interrupted, Plan, Trial};
use crate::privileged;
use open::Offer;

/// To look at the profiles takes no firewall.
const NO_MEANS: FirewallFeatures = FirewallFeatures { logs: false, tells: false };

/// Where programs send their log lines to syslog.
const DEV_LOG: &str = "/dev/log";

/// Whether the firewalls of network namespaces may write to the kernel's log. Only the host's own namespace has it.
const NF_LOG_SETTING: &str = "/proc/sys/net/netfilter/nf_log_all_netns";

/// Checks config, user, firewall, log and profiles, and with a `trial` by packets. Every problem is told of; one is enough
/// to fail.
pub(super) fn run(setup: &Setup, trial: Option<Trial>) -> Result<(), DaemonError> {
    let mut found = Found { problems: 0 };
    found.say("config", config(setup));
    let limits = setup.limits();
    let user = setup.user();
    match &user {
        Ok(ids) => found.say("user", format_args!("goes on as uid {}, gid {}", ids.uid, ids.gid)),
        Err(failure) => found.problem("user", failure),
    }
    firewall(setup, &mut found);
    host::conntrack(setup.config.max_open, &mut found);
    let guard = guard::check(&setup.config_dir, &mut found);
    host::clock(&mut found);

    match setup.source() {
        Ok(source) => log(&source, &mut found),
        Err(failure) => found.problem("log", failure),
    }

    // Root reads the profiles; whoever looks into them is root no more, but with `--try`, which is root's to the end.
    let files = setup.profiles();
    let allow = setup.config.allow.as_deref();
    if let (Some(trial), Ok((files, _))) = (trial, &files) {
        let offers = Offer::of_all(files, allow);
        try_out(setup, trial, &offers, guard.as_ref(), &mut found)?;
    }
    if let Ok(ids) = &user {
        privileged::drop_to(ids, &[]).map_err(DaemonError::Drop)?;
    }
    let files = files.and_then(|(files, unreadable)| {
        let offers = Offer::of_all(&files, allow);
        let (door, broken) = setup.door(files, limits, NO_MEANS)?;
        Ok((offers, door.unlisted(), broken + unreadable))
    });
    match files {
        Ok((possible, unlisted, left_out)) => {
            offers(&possible, guard.as_ref(), trial.is_some(), &found);
            if !unlisted.is_empty() {
                let warning = say::can_be_silenced(&unlisted);
                found.say("profiles", format_args!("WARNING: {warning}"));
            }
            // Those were told of one by one.
            found.problems += left_out;
        }
        Err(failure) => found.problem("profiles", failure),
    }
    if found.problems > 0 {
        return Err(DaemonError::Problems(found.problems));
    }
    found.say("result", "nothing was found that would keep a knock from working");
    Ok(())
}

fn config(setup: &Setup) -> String {
    let config = &setup.config;
    let allow = match &config.allow {
        None => "any TCP port".to_owned(),
        Some(services) => services.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    format!(
        "{:?}: {allow}, open for {} s; window {}; log prefix {:?}",
        setup.config_dir, config.delay, config.error_window, config.log_prefix
    )
}

/// Whether a knock would be heard, and who else could write what is taken for one.
fn log(source: &Opened, found: &mut Found) {
    match source {
        Opened::File(file) if !file.is_there() => found.problem(
            "log",
            format_args!(
                "there is no {:?}; the daemon would wait for one, and hear nothing until then",
                file.path()
            ),
        ),
        Opened::File(file) if !source::is_in_use(file.path()) => found.problem(
            "log",
            format_args!(
                "nobody has written to {:?} since this host was started: does rsyslog run, and write the kernel's lines \
                 there? `log = \"kmsg\"` needs nobody",
                file.path()
            ),
        ),
        source => found.say("log", source),
    }
    match source {
        Opened::File(_) if anybody_may_log() => found.say(
            "log",
            "every user of this host can write lines to that file (through /dev/log) that look like the kernel's; \
             without a profile's keys they open nothing, but they can replay what they see. `log = \"kmsg\"` hears the \
             kernel alone",
        ),
        Opened::Kmsg(_) if namespaces_may_log(Path::new(NF_LOG_SETTING)) => found.say(
            "log",
            "WARNING: net.netfilter.nf_log_all_netns is 1: a user who may make a user namespace can have the kernel log \
             any packet; without a profile's keys such lines open nothing, but what was seen can be replayed. Unless you \
             need it: sysctl -w net.netfilter.nf_log_all_netns=0",
        ),
        _ => {}
    }
}

/// Whether a firewall in a network namespace, which any user may own, writes to the log that this host's own writes to.
fn namespaces_may_log(setting: &Path) -> bool {
    std::fs::read_to_string(setting).is_ok_and(|value| value.trim() == "1")
}

/// Tries the back end out.
fn firewall(setup: &Setup, found: &mut Found) {
    let firewall = match setup.trial_firewall() {
        Ok(firewall) => firewall,
        Err(failure) => {
            found.problem("firewall", failure);
            return;
        }
    };
    let Some([v4, v6]) = firewall.conntrack_helpers() else {
        found.say(
            "firewall",
            "nftables works; every other firewall must accept our mark (README has a line for each)",
        );
        return;
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
        [("IPv4", setup.config.ipv4, v4), ("IPv6", setup.config.ipv6, v6)]
    {
        if wanted && helper.is_none() {
            found.problem(
                "firewall",
                format_args!(
                    "this kernel has no conntrack helper for {family}, so nothing can be opened for it: load one of its modules, \
                     or set {} = false",
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
}

/// Says what a knock could open, and whether the guard closes it to everybody else.
fn offers(offers: &[Offer], guard: Option<&Remembered>, is_tried: bool, found: &Found) {
    for offer in offers {
        found.say(
            "profile",
            format_args!(
                "{:?} knocks on port {} and can open {}",
                offer.profile,
                offer.knock_port,
                offer.text()
            ),
        );
    }
    let (services, _) = open::to_try(offers, guard);
    let unsure = services.iter().filter(|service| {
        guard.is_none_or(|guard| !guard.closes(privileged::Protocol::Tcp, service.port))
    });
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
    setup: &Setup,
    trial: Trial,
    offers: &[Offer],
    guard: Option<&Remembered>,
    found: &mut Found,
) -> Result<(), DaemonError> {
    let (services, too_many) = open::to_try(offers, guard);
    let config = &setup.config;
    let plan = Plan {
        config_dir: setup.config_dir.clone(),
        log: config.log.clone(),
        firewall: config.firewall.name(),
        user: config.user.clone(),
        services,
        taken: offers.iter().map(|offer| offer.knock_port).collect(),
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

/// How many problems were found so far.
struct Found {
    problems: usize,
}

impl Found {
    fn problem(&mut self, about: &str, what: impl Display) {
        self.problems += 1;
        self.say(about, format_args!("PROBLEM: {what}"));
    }

    #[expect(clippy::unused_self, reason = "what is said and what is counted go together")]
    fn say(&self, about: &str, what: impl Display) {
        // Whoever does not read the findings still gets the exit status.
        let _ = writeln!(io::stdout(), "{about:<9} {what}");
    }
}
