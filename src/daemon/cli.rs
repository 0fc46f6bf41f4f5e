//! The command line of `knock-daemon`.

use std::path::PathBuf;

use clap::Parser;

use super::config::FirewallKind;

/// Opens ports for those who knock: follows the kernel's log for SYNs that carry a valid knock
#[derive(Debug, Parser)]
#[command(name = "knock-daemon", version, max_term_width = 100, after_help = AFTER_HELP)]
pub(super) struct DaemonArgs {
    /// Where the config and the profiles are [default: /etc/knockknock.d, or /etc/knockknock-NAME.d with --instance]
    #[arg(long, value_name = "DIR")]
    pub(super) config_dir: Option<PathBuf>,

    /// Where to read: a log file, `kmsg` (the kernel itself), or `auto` (/var/log/kern.log if in use, else kmsg)
    #[arg(long, value_name = "PATH|kmsg|auto")]
    pub(super) log: Option<String>,

    /// What opens ports [default: auto]
    #[arg(long, value_name = "auto|conntrack|nftables")]
    pub(super) firewall: Option<FirewallKind>,

    /// Whom to run as when nothing needs root any more [default: knockknock if there is such a user, else nobody]
    #[arg(long, value_name = "NAME")]
    pub(super) user: Option<String>,

    /// One of several daemons on this host: its own config directory, firewall table and lock
    #[arg(long, value_name = "NAME")]
    pub(super) instance: Option<String>,

    /// Check config, profiles, log and firewall, say what is found, and exit
    #[arg(long)]
    pub(super) check: bool,

    /// With --check: try each service as a stranger from a network namespace, by packets
    #[arg(long, requires = "check")]
    pub(super) r#try: bool,

    /// The process that tries: this daemon ends when that does
    #[arg(long, value_name = "PID", hide = true)]
    pub(super) trial_of: Option<i32>,

    /// Say more: why a line was no knock
    #[arg(short, long)]
    pub(super) verbose: bool,
}

const AFTER_HELP: &str = "\
Examples:
  knock-daemon --check           is everything in place? (changes nothing)
  knock-daemon --check --try     and does a knock work, is every service closed to strangers?
  knock-daemon                   run in the foreground, as a service manager likes it
  knock-daemon --log kmsg -v     read the kernel's own log, say more

A valid knock gets its sender one connection to the port it asks for, within a few seconds; then
the port is closed again. Start it as root: it opens what it needs, hands the firewall to a helper
that can do nothing else, and continues as an ordinary user. Events go to stderr, a line each;
`ready` once it watches. SIGTERM ends it and revokes every grant; SIGUSR1 drops its guard's copy.
Exit status: 0 ended as told, 1 could not go on, 2 wrong usage.";
