//! `knock-daemon --check`: walks the start without starting anything, and says what it finds.

#![forbid(unsafe_code)]

use std::fmt::Display;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;

use super::config::FirewallKind;
use super::failure::Failure;
use super::setup::Setup;
use super::source::Opened;
use crate::privileged::{self, Neighbour};

/// Where programs send their log lines to syslog.
const DEV_LOG: &str = "/dev/log";

/// Checks config, user, firewall, log and profiles. Every problem is told of; one is enough to fail.
pub(super) fn run(setup: &Setup) -> Result<(), Failure> {
    let mut found = Found { problems: 0 };
    say("config", config(setup));
    let limits = setup.limits()?;
    let user = setup.user();
    match &user {
        Ok(ids) => say("user", format_args!("goes on as uid {}, gid {}", ids.uid, ids.gid)),
        Err(failure) => found.problem("user", failure),
    }
    firewall(setup, &mut found);

    let source = setup.source();
    match &source {
        Ok(Opened::File(file)) if !file.is_there() => found.problem(
            "log",
            format_args!(
                "there is no {:?}; the daemon would wait for one, and hear nothing until then",
                file.path()
            ),
        ),
        Ok(source) => say("log", source),
        Err(failure) => found.problem("log", failure),
    }
    if source.as_ref().is_ok_and(|source| matches!(source, Opened::File(_))) && anybody_may_log() {
        say(
            "log",
            "every user of this host can write lines to that file (through /dev/log) that look like the kernel's; \
             without a profile's keys they open nothing, but they can replay what they see. `log = \"kmsg\"` hears the \
             kernel alone",
        );
    }

    // Root reads the profiles; whoever looks into them is root no more.
    let files = setup.profiles();
    if let Ok(ids) = &user {
        privileged::drop_to(ids, &[]).map_err(Failure::Drop)?;
    }
    match files.and_then(|(files, unreadable)| Ok((setup.door(files, limits)?, unreadable))) {
        Ok(((door, broken), unreadable)) => {
            let mut ports: Vec<_> = door.knock_ports().collect();
            ports.sort_unstable();
            for port in ports {
                say("profile", format_args!("{} knocks on port {port}", door.profile_names(port)));
            }
            // Those were told of one by one.
            found.problems += broken + unreadable;
        }
        Err(failure) => found.problem("profiles", failure),
    }
    if found.problems > 0 { Err(Failure::Problems(found.problems)) } else { Ok(()) }
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

/// Tries the back end out, and says what else has a word on this host's packets.
fn firewall(setup: &Setup, found: &mut Found) {
    match setup.trial_firewall() {
        Ok(()) => say("firewall", format_args!("{:?} works", setup.config.firewall)),
        Err(failure) => found.problem("firewall", failure),
    }
    match privileged::neighbours() {
        Ok(neighbours) if neighbours.is_empty() => {
            say(
                "firewall",
                "nothing on this host refuses packets, so nothing is closed yet: see minimal-firewall.sh",
            );
        }
        Ok(neighbours) => neighbours.iter().for_each(|one| beside(setup.config.firewall, one)),
        Err(errno) => found
            .problem("firewall", format_args!("cannot list the other firewalls: {}", errno.desc())),
    }
}

/// The lines against a neighbour are for the mark, which the nftables back end alone puts on packets.
fn beside(ours: FirewallKind, neighbour: &Neighbour) {
    use privileged::FirewallKind::{Firewalld, Iptables, Legacy, Nftables, Ufw};
    let Neighbour { kind, family, table, chain, .. } = neighbour;
    let (table, chain) = (table.escape_debug(), chain.escape_debug());
    let name = format_args!("{kind} (table {family} {table}, chain {chain})");
    match (ours, kind) {
        (FirewallKind::Nftables, _) | (FirewallKind::Iptables, Legacy) => {
            say("firewall", neighbour);
        }
        (FirewallKind::Iptables, Iptables | Ufw) => {
            say("firewall", format_args!("{name} needs no line: our chain goes before its rules"));
        }
        (FirewallKind::Iptables, Nftables | Firewalld) => say(
            "firewall",
            format_args!(
                "{name} would drop what a knock let in, and the iptables back end has no way past it: set firewall = \"nftables\""
            ),
        ),
    }
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
        say(about, format_args!("PROBLEM: {what}"));
    }
}

fn say(about: &str, what: impl Display) {
    // Whoever does not read the findings still gets the exit status.
    let _ = writeln!(io::stdout(), "{about:<9} {what}");
}
