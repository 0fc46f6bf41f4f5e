//! The command line of `knock`.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use clap_complete::Shell;

use super::target::{Target, parse_host_port, parse_new_host, parse_request, parse_target};
use crate::client::knock::route::Family;
use crate::layout::Request;

/// Opens a port for one connection, with one SYN that only you could have made.
#[derive(Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[command(
    name = "knock",
    version,
    override_usage = "\
knock [-p PORT] HOST... [-- COMMAND...]
       knock -W HOST:PORT
       knock --list",
    after_help = "\
Examples:
  knock -p 22 host.example && ssh host.example
  knock -p 22 host.example -- ssh host.example uptime
  ssh -o ProxyCommand='knock -W %h:%p' host.example
  ssh root@host.example knock-genprofile --print laptop | knock --import host.example

A HOST is a profile in ~/.knockknock, made on the server by knock-genprofile; user@HOST, HOST:PORT
and [ADDRESS]:PORT are understood. -W connects without a knock where there is no profile.
knock waits until its SYN is answered and 100 ms more, for the server to open; without an answer,
200 ms in all. Whether the server accepted it, nothing tells. -W tries for up to 10 seconds, with 2
counters at most (stealth: 4); before that it waits for other programs that knock with the same
profile.
Exit status: 0 done, 1 could not, 2 wrong usage; with a COMMAND: its own, 127 if it cannot start."
)]
pub struct KnockCli {
    /// Names of profiles
    #[arg(value_name = "HOST", value_parser = parse_target,
          required_unless_present_any = ["connect", "import", "list", "completions"])]
    pub(crate) hosts: Vec<Target>,
    /// The port to ask for: 22, tcp/22, udp/51820 [default: the profile's]
    #[arg(short, long, value_parser = parse_request)]
    pub(crate) port: Option<Request>,
    /// Knock and connect; input and output are the connection
    #[arg(short = 'W', value_name = "HOST:PORT", value_parser = parse_host_port,
          conflicts_with_all = ["hosts", "port", "dry_run", "command", "wait"])]
    pub(crate) connect: Option<(String, u16)>,
    /// Use IPv4 only [default: one knock for each family that HOST has]
    #[arg(short = '4')]
    pub(crate) v4: bool,
    /// Use IPv6 only
    #[arg(short = '6')]
    pub(crate) v6: bool,
    /// Knock from this address of this machine
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) source: Option<IpAddr>,
    /// Wait this long, 0 not at all [default: for the answer, see below]
    #[arg(long, value_name = "MILLISECONDS", value_parser = clap::value_parser!(u16))]
    pub(crate) wait: Option<u16>,
    /// Show the packet and the server's log line; send nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// List the profiles: knock port, counter, layout, address
    #[arg(long, conflicts_with_all = ["hosts", "connect", "dry_run", "command"])]
    pub(crate) list: bool,
    /// Make the profile of HOST of the line that knock-genprofile prints
    #[arg(long, value_name = "HOST", value_parser = parse_new_host,
          conflicts_with_all = ["hosts", "port", "connect", "v4", "v6", "source", "wait", "dry_run",
                                "list", "command"])]
    pub(crate) import: Option<String>,
    /// Where HOST has one, put the new one in its place; the old one is kept
    #[arg(long, requires = "import", conflicts_with_all = ["hosts", "connect", "list"])]
    pub(crate) replace: bool,
    /// Where the profiles are [default: ~/.knockknock]
    #[arg(long, value_name = "DIR")]
    pub(crate) profiles: Option<PathBuf>,
    /// Say more
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Say nothing but errors
    #[arg(short, long, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Print completions for this shell: bash, zsh, fish...
    #[arg(long, value_name = "SHELL", hide_possible_values = true)]
    pub(crate) completions: Option<Shell>,
    /// Run this after the knock
    #[arg(last = true, hide = true, conflicts_with = "dry_run")]
    pub(crate) command: Vec<OsString>,
}

impl KnockCli {
    /// What each option by itself cannot tell to be wrong.
    pub(crate) fn check(&self) -> Result<(), clap::Error> {
        for Target { host, port } in &self.hosts {
            if let (Some(Request(asked)), Some(named)) = (self.port, *port)
                && asked != named
            {
                let message = format!("{host:?}: both port {asked} (-p) and port {named}; use one");
                return Err(Self::command().error(ErrorKind::ArgumentConflict, message));
            }
        }
        Ok(())
    }

    /// The families that the options leave.
    pub(crate) fn family(&self) -> Family {
        match (self.v4, self.v6) {
            (true, false) => Family::V4,
            (false, true) => Family::V6,
            _ => Family::Any,
        }
    }

    /// How long to wait after the last knock; `None`: for the answers.
    pub(crate) fn wait_after(&self) -> Option<Duration> {
        self.wait.map(|milliseconds| Duration::from_millis(milliseconds.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<KnockCli, clap::Error> {
        KnockCli::try_parse_from([&["knock"], arguments].concat())
    }

    #[test]
    fn the_command_line_is_sound() {
        KnockCli::command().debug_assert();
    }

    #[test]
    fn a_port_is_asked_for_by_either_option() {
        for option in ["-p", "--port"] {
            assert_eq!(parse(&[option, "tcp/22", "host"]).unwrap().port, Some(Request(22)));
            assert!(parse(&[option, "ssh", "host"]).is_err());
        }
    }

    #[test]
    fn a_host_and_port_are_connected_to() {
        let cli = parse(&["-W", "me@host.example:22"]).unwrap();
        assert_eq!(cli.connect, Some(("host.example".to_owned(), 22)));
        assert!(parse(&["-W", "host.example"]).is_err());
    }

    #[test]
    fn a_host_is_asked_for_and_may_be_several() {
        assert!(parse(&["-p", "22"]).is_err());
        let hosts =
            |cli: KnockCli| cli.hosts.into_iter().map(|target| target.host).collect::<Vec<_>>();
        assert_eq!(hosts(parse(&["-p", "22", "a", "b"]).unwrap()), ["a", "b"]);
        for path in ["..", "a/b", "/etc", "", "a/", "me@", "me@..", ":22"] {
            assert!(parse(&["-p", "22", path]).is_err(), "{path:?}");
        }
    }

    #[test]
    fn two_ports_for_one_host_are_wrong_usage_unless_they_are_the_same() {
        for (arguments, fits) in [
            (&["-p", "22", "host:22"][..], true),
            (&["-p", "22", "host", "other:22"], true),
            (&["host:22", "other:23"], true),
            (&["-p", "22", "host:2222"], false),
            (&["-p", "tcp/22", "other", "me@[2001:db8::1]:2222"], false),
        ] {
            let checked = parse(arguments).unwrap().check();
            assert_eq!(checked.is_ok(), fits, "{arguments:?}");
            if let Err(wrong) = checked {
                assert_eq!(wrong.exit_code(), 2);
                assert!(wrong.to_string().contains("use one"), "{wrong}");
            }
        }
    }

    #[test]
    fn four_and_six_choose_a_family_or_both() {
        for (arguments, family) in [
            (&["host"][..], Family::Any),
            (&["-4", "host"], Family::V4),
            (&["-6", "host"], Family::V6),
            (&["-4", "-6", "host"], Family::Any),
            (&["-46", "host"], Family::Any),
        ] {
            assert_eq!(parse(arguments).unwrap().family(), family);
        }
    }

    #[test]
    fn what_follows_two_dashes_is_a_command() {
        let cli = parse(&["-p", "22", "host", "--", "ssh", "-v", "host"]).unwrap();
        assert_eq!(cli.hosts, [Target { host: "host".into(), port: None }]);
        assert_eq!(cli.command, ["ssh", "-v", "host"]);
        assert_eq!(cli.wait_after(), None);
        for milliseconds in [0, 7] {
            let cli = parse(&["--wait", &milliseconds.to_string(), "host"]).unwrap();
            assert_eq!(cli.wait_after(), Some(Duration::from_millis(milliseconds)));
        }
    }

    #[test]
    fn ways_that_exclude_each_other_are_refused() {
        for arguments in [
            &["-W", "h:22", "h"][..],
            &["-W", "h:22", "-p", "22"],
            &["-W", "h:22", "-n"],
            &["--list", "h"],
            &["-n", "h", "--", "true"],
            &["-q", "-v", "h"],
            &["-W", "h:22", "--", "true"],
            &["--import", "h", "h"],
            &["--import", "h", "--list"],
            &["--import", "h", "-p", "22"],
            &["--import"],
            &["--replace", "h"],
        ] {
            assert!(parse(arguments).is_err(), "{arguments:?}");
        }
    }
}
