//! The command line of `knock`.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use clap_complete::Shell;

use super::knock::knocker::is_plain_name;
use super::knock::route::Family;
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
  knock -n -p tcp/443 host.example      what would be sent

A HOST is a profile in ~/.knockknock, made on the server by knock-genprofile;
user@HOST, HOST:PORT and [ADDRESS]:PORT are understood. -W connects without a
knock where there is no profile.
knock waits until its SYN is answered and 100 ms more, for the server to open;
without an answer, 200 ms in all. Whether the server accepted it, nothing tells.
-W tries for up to 10 seconds, with 2 counters at most; who came first with the
same profile has its turn before that.
Exit status: 0 done, 1 could not, 2 wrong usage; with a COMMAND: the command's,
127 if it cannot be started."
)]
pub struct Cli {
    /// Names of profiles
    #[arg(value_name = "HOST", value_parser = parse_target,
          required_unless_present_any = ["connect", "list", "completions"])]
    pub hosts: Vec<Target>,
    /// The port to ask for: 22, tcp/22, udp/51820 [default: the profile's]
    #[arg(short, long, value_parser = parse_request)]
    pub port: Option<Request>,
    /// Knock and connect; input and output are the connection
    #[arg(short = 'W', value_name = "HOST:PORT", value_parser = parse_host_port,
          conflicts_with_all = ["hosts", "port", "dry_run", "command", "wait"])]
    pub connect: Option<(String, u16)>,
    /// Use IPv4 alone [default: one knock for each that HOST has]
    #[arg(short = '4')]
    pub v4: bool,
    /// Use IPv6 alone
    #[arg(short = '6')]
    pub v6: bool,
    /// Knock from this address of this machine
    #[arg(long, value_name = "ADDRESS")]
    pub source: Option<IpAddr>,
    /// Wait this long, 0 not at all [default: for the answer, see below]
    #[arg(long, value_name = "MILLISECONDS", value_parser = clap::value_parser!(u16))]
    pub wait: Option<u16>,
    /// Show the packet and the server's log line; send nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// List the profiles: knock port, counter, layout, address
    #[arg(long, conflicts_with_all = ["hosts", "connect", "dry_run", "command"])]
    pub list: bool,
    /// Where the profiles are [default: ~/.knockknock]
    #[arg(long, value_name = "DIR")]
    pub profiles: Option<PathBuf>,
    /// Say more
    #[arg(short, long)]
    pub verbose: bool,
    /// Say nothing but errors
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Print completions for this shell: bash, zsh, fish...
    #[arg(long, value_name = "SHELL", hide_possible_values = true)]
    pub completions: Option<Shell>,
    /// Run this after the knock
    #[arg(last = true, hide = true, conflicts_with = "dry_run")]
    pub command: Vec<OsString>,
}

/// A host of the command line, as people write one for ssh: `[user@]HOST[:PORT]`. The user is ssh's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The host.
    pub host: String,
    /// The port, where one is named.
    pub port: Option<u16>,
}

impl Cli {
    /// What each option by itself cannot tell to be wrong.
    pub fn check(&self) -> Result<(), clap::Error> {
        for Target { host, port } in &self.hosts {
            if let (Some(Request(asked)), Some(named)) = (self.port, *port)
                && asked != named
            {
                let message = format!("{host:?}: both port {asked} (-p) and port {named}; say one");
                return Err(Self::command().error(ErrorKind::ArgumentConflict, message));
            }
        }
        Ok(())
    }

    /// The families that the options leave.
    #[must_use]
    pub fn family(&self) -> Family {
        match (self.v4, self.v6) {
            (true, false) => Family::V4,
            (false, true) => Family::V6,
            _ => Family::Any,
        }
    }

    /// How long to wait after the last knock; `None`: for the answers.
    #[must_use]
    pub fn wait_after(&self) -> Option<Duration> {
        self.wait.map(|milliseconds| Duration::from_millis(milliseconds.into()))
    }
}

fn parse_host(text: &str) -> Result<String, String> {
    if is_plain_name(text) {
        Ok(text.to_owned())
    } else {
        Err("a HOST is the name of a profile: a plain name, no path".into())
    }
}

fn parse_port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("a port is 1 to 65535, as 22, tcp/22 or udp/51820".into()),
        Ok(port) => Ok(port),
    }
}

/// A knock carries the port alone: by what it opens, TCP or UDP, is the server's `allow`.
fn parse_request(text: &str) -> Result<Request, String> {
    let port = ["tcp/", "udp/"].iter().find_map(|transport| text.strip_prefix(transport));
    parse_port(port.unwrap_or(text)).map(Request)
}

/// `[user@]HOST[:PORT]`. What has several colons and no brackets is an IPv6 address without a port.
fn parse_target(text: &str) -> Result<Target, String> {
    let text = without_user(text);
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let form = "the form is [ADDRESS]:PORT";
        let (host, port) = rest.split_once(']').ok_or(form)?;
        let port = (!port.is_empty()).then(|| port.strip_prefix(':').ok_or(form)).transpose()?;
        (host, port)
    } else {
        match text.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            _ => (text, None),
        }
    };
    Ok(Target { host: parse_host(host)?, port: port.map(parse_port).transpose()? })
}

fn without_user(text: &str) -> &str {
    text.rsplit_once('@').map_or(text, |(_user, host)| host)
}

/// `[user@]HOST:PORT`; an IPv6 address may stand in brackets, as everywhere, and as ssh's `%h` it may do without.
fn parse_host_port(text: &str) -> Result<(String, u16), String> {
    let (host, port) = without_user(text).rsplit_once(':').ok_or("the form is HOST:PORT")?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Ok((parse_host(host)?, parse_port(port)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from([&["knock"], arguments].concat())
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn ports_are_a_number_with_or_without_tcp_or_udp() {
        for text in ["22", "tcp/22", "udp/22"] {
            for option in ["-p", "--port"] {
                assert_eq!(parse(&[option, text, "host"]).unwrap().port, Some(Request(22)));
            }
        }
        for text in
            ["0", "65536", "-1", "ssh", "sctp/22", "tcp/", "udp/", "", "tcp/tcp/22", "tcp/udp/22"]
        {
            assert!(parse(&["-p", text, "host"]).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_host_is_asked_for_and_may_be_several() {
        assert!(parse(&["-p", "22"]).is_err());
        let hosts = |cli: Cli| cli.hosts.into_iter().map(|target| target.host).collect::<Vec<_>>();
        assert_eq!(hosts(parse(&["-p", "22", "a", "b"]).unwrap()), ["a", "b"]);
        for path in ["..", "a/b", "/etc", "", "a/", "me@", "me@..", ":22"] {
            assert!(parse(&["-p", "22", path]).is_err(), "{path:?}");
        }
    }

    #[test]
    fn a_host_is_understood_as_ssh_s_users_write_it() {
        for (text, host, port) in [
            ("host.example", "host.example", None),
            ("host.example:2222", "host.example", Some(2222)),
            ("me@host.example", "host.example", None),
            ("me@corp@host.example:2222", "host.example", Some(2222)),
            ("2001:db8::1", "2001:db8::1", None),
            ("[2001:db8::1]", "2001:db8::1", None),
            ("me@[2001:db8::1]:22", "2001:db8::1", Some(22)),
            ("[fe80::1%eth0]:22", "fe80::1%eth0", Some(22)),
            ("192.0.2.1:22", "192.0.2.1", Some(22)),
        ] {
            let expected = Target { host: host.to_owned(), port };
            assert_eq!(parse(&[text]).unwrap().hosts, [expected], "{text}");
        }
        for text in ["host:", "host:0", "host:ssh", "host:65536", "[::1]22", "[::1", "[]:22"] {
            let taken = parse(&[text]).map(|cli| cli.hosts);
            assert!(taken.is_err(), "{text}: {taken:?}");
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
                assert!(wrong.to_string().contains("say one"), "{wrong}");
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
    fn host_and_port_part_at_the_last_colon() {
        for (text, host, port) in [
            ("host.example:22", "host.example", 22),
            ("me@host.example:22", "host.example", 22),
            ("[2001:db8::1]:22", "2001:db8::1", 22),
            ("2001:db8::1:22", "2001:db8::1", 22),
        ] {
            let cli = parse(&["-W", text]).unwrap();
            assert_eq!(cli.connect, Some((host.to_owned(), port)));
        }
        for text in ["host", "host:", "host:0", ":22", "a/b:22", "..:22", "host:22x"] {
            assert!(parse(&["-W", text]).is_err(), "{text:?}");
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
        ] {
            assert!(parse(arguments).is_err(), "{arguments:?}");
        }
    }
}
