//! The command line of `knock`.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use clap_complete::Shell;

use super::knock::is_plain_name;
use super::target::Family;
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

A HOST is a profile in ~/.knockknock, made on the server by knock-genprofile.
knock waits until its SYN is answered and 20 ms more, for the server to open;
without an answer, 200 ms in all. Whether the server accepted it, nothing tells.
-W tries for up to 10 seconds, with 2 counters at most; who came first with the
same profile has its turn before that.
Exit status: 0 done, 1 could not, 2 wrong usage; with a COMMAND: the command's,
127 if it cannot be started."
)]
pub struct Cli {
    /// Names of profiles
    #[arg(value_name = "HOST", value_parser = parse_host,
          required_unless_present_any = ["connect", "list", "completions"])]
    pub hosts: Vec<String>,
    /// The TCP port to ask for, 22 or tcp/22 [default: the profile's]
    #[arg(short, value_parser = parse_request)]
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
    /// Print completions for this shell: bash, zsh, fish...
    #[arg(long, value_name = "SHELL", hide_possible_values = true)]
    pub completions: Option<Shell>,
    /// Run this after the knock
    #[arg(last = true, hide = true, conflicts_with = "dry_run")]
    pub command: Vec<OsString>,
}

impl Cli {
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
        Ok(0) | Err(_) => Err("a port is 1 to 65535, as 22 or tcp/22".into()),
        Ok(port) => Ok(port),
    }
}

fn parse_request(text: &str) -> Result<Request, String> {
    parse_port(text.strip_prefix("tcp/").unwrap_or(text)).map(Request)
}

/// `HOST:PORT`; an IPv6 address may stand in brackets, as everywhere, and as ssh's `%h` it may do without.
fn parse_host_port(text: &str) -> Result<(String, u16), String> {
    let (host, port) = text.rsplit_once(':').ok_or("the form is HOST:PORT")?;
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
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn ports_are_a_number_with_or_without_tcp() {
        for text in ["22", "tcp/22"] {
            assert_eq!(parse(&["-p", text, "host"]).unwrap().port, Some(Request(22)));
        }
        for text in ["0", "65536", "-1", "ssh", "udp/22", "tcp/", "", "tcp/tcp/22"] {
            assert!(parse(&["-p", text, "host"]).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_host_is_asked_for_and_may_be_several() {
        assert!(parse(&["-p", "22"]).is_err());
        assert_eq!(parse(&["-p", "22", "a", "b"]).unwrap().hosts, ["a", "b"]);
        for path in ["..", "a/b", "/etc", "", "a/"] {
            assert!(parse(&["-p", "22", path]).is_err(), "{path:?}");
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
        assert_eq!(cli.hosts, ["host"]);
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
            &["-W", "h:22", "--", "true"],
        ] {
            assert!(parse(arguments).is_err(), "{arguments:?}");
        }
    }
}
