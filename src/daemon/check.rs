//! `knock-daemon --check`: walks the start without starting anything, and says what it finds.

#![forbid(unsafe_code)]

use std::fmt::Display;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::door::Means;
use super::failure::Failure;
use super::guard;
use super::setup::Setup;
use super::source::{self, Opened};
use crate::privileged;

/// To look at the profiles takes no firewall.
const NO_MEANS: Means = Means { logs: false, tells: false };

/// Where programs send their log lines to syslog.
const DEV_LOG: &str = "/dev/log";

/// Whether the firewalls of network namespaces may write to the kernel's log. Only the host's own namespace has it.
const NF_LOG_SETTING: &str = "/proc/sys/net/netfilter/nf_log_all_netns";

/// Checks config, user, firewall, log and profiles. Every problem is told of; one is enough to fail.
pub(super) fn run(setup: &Setup) -> Result<(), Failure> {
    let mut found = Found { problems: 0 };
    say("config", config(setup));
    let limits = setup.limits();
    let user = setup.user();
    match &user {
        Ok(ids) => say("user", format_args!("goes on as uid {}, gid {}", ids.uid, ids.gid)),
        Err(failure) => found.problem("user", failure),
    }
    firewall(setup, &mut found);
    match guard::state(setup) {
        guard::State::Note(note) => say("guard", note),
        guard::State::Problem(problem) => found.problem("guard", problem),
    }

    match setup.source() {
        Ok(source) => log(&source, &mut found),
        Err(failure) => found.problem("log", failure),
    }

    // Root reads the profiles; whoever looks into them is root no more.
    let files = setup.profiles();
    if let Ok(ids) = &user {
        privileged::drop_to(ids, &[]).map_err(Failure::Drop)?;
    }
    match files
        .and_then(|(files, unreadable)| Ok((setup.door(files, limits, NO_MEANS)?, unreadable)))
    {
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
    if found.problems > 0 {
        return Err(Failure::Problems(found.problems));
    }
    say("result", "nothing was found that would keep a knock from working");
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
        source => say("log", source),
    }
    match source {
        Opened::File(_) if anybody_may_log() => say(
            "log",
            "every user of this host can write lines to that file (through /dev/log) that look like the kernel's; \
             without a profile's keys they open nothing, but they can replay what they see. `log = \"kmsg\"` hears the \
             kernel alone",
        ),
        Opened::Kmsg(_) if namespaces_may_log(Path::new(NF_LOG_SETTING)) => say(
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

/// Tries the back end out, and says what else has a word on this host's packets.
fn firewall(setup: &Setup, found: &mut Found) {
    let expectations = match setup.trial_firewall() {
        Ok(true) => {
            say(
                "firewall",
                "conntrack works: any firewall that accepts ESTABLISHED,RELATED lets in what a knock opens",
            );
            true
        }
        Ok(false) => {
            say("firewall", "nftables works");
            false
        }
        Err(failure) => {
            found.problem("firewall", failure);
            return;
        }
    };
    match privileged::neighbours() {
        Ok(neighbours) if neighbours.is_empty() => {
            say(
                "firewall",
                "nothing on this host refuses packets, so nothing is closed yet: see minimal-firewall.sh",
            );
        }
        // Their lines are for the mark, which only the nftables back end puts on packets.
        Ok(neighbours) if !expectations => {
            for one in &neighbours {
                // Nobody can see what the legacy iptables does.
                if one.kind == privileged::FirewallKind::Legacy
                    || one.accepts_mark && !one.is_before_ours
                {
                    say("firewall", one);
                } else {
                    found.problem("firewall", one);
                }
            }
        }
        Ok(_) => {}
        Err(errno) => found
            .problem("firewall", format_args!("cannot list the other firewalls: {}", errno.desc())),
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
