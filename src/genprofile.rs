//! `knock-genprofile NAME`: makes a profile on the server, and says how its client gets it or, with `--print`, prints it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use crate::grant::{NotAService, Service, listed};
use crate::profile::allow::{FirewallChoice, InConfig};
use crate::profile::create::{NewProfile, create_and_hand_over};
use crate::profile::error::CreateError;

/// Where the programs look without `--config-dir`.
const CONFIG_DIR: &str = "/etc/knockknock.d";

/// Makes a profile: what one client needs to knock at this server
#[derive(Debug, Parser)]
#[command(name = "knock-genprofile", version, max_term_width = 100, after_help = AFTER_HELP)]
struct GenprofileArgs {
    /// What it may ask for: tcp/22, udp/51820, tcp/8000-8010 (repeatable); any: every TCP port
    #[arg(long, value_name = "SERVICE,...", value_delimiter = ',', default_value = "tcp/22",
          value_parser = parse_allow)]
    allow: Vec<Allow>,

    /// Print it, once, as the one line that `knock --import HOST` reads; all else goes to stderr
    #[arg(long)]
    print: bool,

    /// A knock is good only from the address that sends it (not through NAT)
    #[arg(long, conflicts_with = "port")]
    bind_source: bool,

    /// Where the server's config and profiles are
    #[arg(long, value_name = "DIR", default_value = CONFIG_DIR)]
    config_dir: PathBuf,

    /// What to call the profile: a client's name, like `laptop`
    name: String,

    /// For the classic layout, which the original's programs have: the knock port, a closed TCP
    /// port that no other profile knocks on, 1 to 65535
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
}

/// One word of `--allow`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Allow {
    Any,
    Service(Service),
}

fn parse_allow(text: &str) -> Result<Allow, NotAService> {
    match text.trim() {
        "any" => Ok(Allow::Any),
        text => text.parse().map(Allow::Service),
    }
}

const AFTER_HELP: &str = "\
Examples:
  ssh root@server.example knock-genprofile --print laptop | knock --import server.example
  sudo knock-genprofile --allow tcp/22,udp/51820 phone
  sudo knock-genprofile old-laptop 666

It gets fresh keys and a counter of 0, in DIR/profiles/NAME. One profile is for one client: two with
one profile would use the same counters. Without PORT, a knock goes to the port that it asks for.
What it may ask for stands as `allow` in its config, and in DIR/config, which limits every profile,
where that has no `allow` yet. With --allow any, neither gets one.
Nothing has to be listening on a knock port, and nothing should be.
Exit status: 0 made, 1 not made (nothing is left behind), 2 wrong usage.";

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let args = GenprofileArgs::parse();
    let allow = args.services().unwrap_or_else(|wrong| wrong.exit());
    let new = NewProfile { knock_port: args.port, bind_source: args.bind_source, allow: &allow };
    let made = create_and_hand_over(&args.config_dir, &args.name, &new, |enrolment| {
        if !args.print {
            return Ok(());
        }
        let mut line = enrolment.line();
        line.push('\n');
        // Not through the buffer of `io::stdout`, which nobody wipes.
        write_unbuffered(line.as_bytes())
    });
    match made {
        Ok((dir, in_config)) => {
            let mut said = made_text(&args, &dir, &allow, &in_config);
            said.push_str(&next_steps(&args, &dir, &allow));
            // The profile exists; a closed standard output or error is no error.
            let _ = if args.print {
                io::stderr().write_all(said.as_bytes())
            } else {
                io::stdout().write_all(said.as_bytes())
            };
            ExitCode::SUCCESS
        }
        Err(error) => {
            let error = match error {
                CreateError::Exists(dir) if args.print => printed_once(&dir),
                error => error.to_string(),
            };
            let error = error.replace('\n', "\nknock-genprofile: ");
            let _ = writeln!(io::stderr(), "knock-genprofile: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write_unbuffered(bytes: &[u8]) -> io::Result<()> {
    File::from(io::stdout().as_fd().try_clone_to_owned()?).write_all(bytes)
}

/// Two clients with one profile would use the same counters, so there is no second time.
fn printed_once(dir: &Path) -> String {
    format!(
        "{dir:?} exists, and a profile is printed once, when it is made\n\
         fix: make one with another name, and remove this one when no client uses it"
    )
}

impl GenprofileArgs {
    /// What the profile may ask for, each once; nothing for `any`.
    fn services(&self) -> Result<Vec<Service>, clap::Error> {
        let mut services = Vec::new();
        for allow in &self.allow {
            match allow {
                Allow::Service(service) if services.contains(service) => {}
                Allow::Service(service) => services.push(*service),
                Allow::Any if self.allow.iter().all(|allow| *allow == Allow::Any) => {}
                Allow::Any => {
                    let message = "--allow any is for every TCP port; name services, or any";
                    return Err(Self::command().error(ErrorKind::ArgumentConflict, message));
                }
            }
        }
        Ok(services)
    }

    fn absolute_config_dir(&self) -> PathBuf {
        std::path::absolute(&self.config_dir).unwrap_or_else(|_| self.config_dir.clone())
    }

    /// The option that other programs need if the directory is not the default.
    fn config_dir_option(&self) -> String {
        if self.config_dir == Path::new(CONFIG_DIR) {
            String::new()
        } else {
            format!(" --config-dir {}", self.absolute_config_dir().display())
        }
    }
}

/// What was written, what it means, and how to widen it.
fn made_text(args: &GenprofileArgs, dir: &Path, allow: &[Service], in_config: &InConfig) -> String {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let config = args.absolute_config_dir().join("config");
    let (dir, config, line) = (dir.display(), config.display(), listed(allow, ", "));
    let limits = match in_config {
        InConfig::Written => format!(
            "\
wrote `allow = {line}` to its config, and to {config}, which had none: it limits every profile.
To widen it, name more services in both, like `allow = {line}, tcp/8000-8010`, and restart the daemon.
"
        ),
        InConfig::Kept { allow: None, .. } => format!(
            "\
no `allow` is in its config, nor in {config}: it may ask for every TCP port. To narrow it, write a
line like `allow = tcp/22` below [main] in one of them, and restart the daemon.
"
        ),
        InConfig::Kept { allow: Some(limit), .. } if allow.is_empty() => format!(
            "no `allow` is in its config; that of {config} limits it, too: {}\n",
            listed(limit, ", ")
        ),
        InConfig::Kept { missing, .. } => {
            let mut said = format!(
                "\
wrote `allow = {line}` to its config; {config} has an `allow`, and stays as it is.
"
            );
            for service in missing {
                let _ = writeln!(said, "config's allow does not name {service}: nobody can have it until it does");
            }
            said.push_str("To widen it, name more services in both, and restart the daemon.\n");
            said
        }
    };
    let knocks = match args.port {
        Some(port) => format!("knock port {port}"),
        None => "stealth: a knock goes to the port that it asks for".to_owned(),
    };
    format!("made the profile {} in {dir}, {knocks}\n{limits}", args.name)
}

/// One profile, one daemon, one guard line. The client comes first: an admin who closes the port over the network needs
/// the profile to get in again.
fn next_steps(args: &GenprofileArgs, dir: &Path, allow: &[Service]) -> String {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let host = host.filter(|name| !name.is_empty()).unwrap_or_else(|| "SERVER".into());
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let options = args.config_dir_option();
    let daemon = if options.is_empty() {
        "systemctl enable knock-daemon && systemctl restart knock-daemon".to_owned()
    } else {
        format!("knock-daemon{options}          (stop the running one first)")
    };
    let hand_over = if args.print {
        format!(
            "\
1. The line on standard output is the profile. Give it to the client, once, and keep no copy:
     knock --import {host}"
        )
    } else {
        format!(
            "\
1. On the client, copy it, once, to a directory named as the client names this server:
     mkdir -p -m 700 ~/.knockknock
     scp -r root@{host}:{dir} ~/.knockknock/{host}",
            dir = dir.display()
        )
    };
    format!(
        "
{hand_over}
2. Here, have the daemon read it:
     {daemon}
3. {close}
4. From the client:
     {knock}
",
        close = how_to_close(args, allow, &options),
        knock = how_to_knock(allow, &host),
    )
}

/// The guard line; no line at all where a choice is remembered, which it would replace.
fn how_to_close(args: &GenprofileArgs, allow: &[Service], options: &str) -> String {
    let Some(choice) = FirewallChoice::remembered(&args.absolute_config_dir()) else {
        let (services, note) = match allow {
            [] => ("tcp/22".to_owned(), "          (what you hide, like tcp/22,tcp/443)"),
            services => (listed(services, ","), ""),
        };
        return format!(
            "Here, close what is to be hidden, beside any firewall or none:
     minimal-firewall.sh --only {services}{options}{note}"
        );
    };
    let mut said = format!("The firewall stays as you chose it ({}).", choice.path.display());
    let open = choice.leaves_open(allow);
    if !open.is_empty() {
        let _ = write!(said, " It does not close {}.", listed(&open, ", "));
    }
    said
}

fn how_to_knock(allow: &[Service], host: &str) -> String {
    let ssh: Service = Service::tcp(22);
    match allow {
        [first, ..] if !ssh.is_in(allow) => {
            let first = Service { last_port: first.first_port, ..*first };
            format!("knock -p {first} {host}")
        }
        _ => format!("knock -p 22 {host} && ssh {host}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(arguments: &[&str]) -> GenprofileArgs {
        GenprofileArgs::try_parse_from(
            [&["knock-genprofile"], arguments, &["laptop", "666"]].concat(),
        )
        .unwrap()
    }

    #[test]
    fn what_may_be_asked_for_is_a_list_or_any() {
        GenprofileArgs::command().debug_assert();
        for (arguments, expected) in [
            (&[][..], "tcp/22"),
            (&["--allow", "tcp/22,tcp/443"], "tcp/22 tcp/443"),
            (&["--allow", "tcp/22, udp/5", "--allow=tcp/8000-8010"], "tcp/22 udp/5 tcp/8000-8010"),
            (&["--allow", "tcp/1,tcp/1"], "tcp/1"),
            (&["--allow", "any"], ""),
        ] {
            assert_eq!(
                listed(&args(arguments).services().unwrap(), " "),
                expected,
                "{arguments:?}"
            );
        }
        let both = args(&["--allow", "any,tcp/22"]).services().unwrap_err();
        assert_eq!(both.exit_code(), 2);
        for wrong in ["ssh", "tcp/0", "", "tcp/22,"] {
            let parsed = GenprofileArgs::try_parse_from([
                "knock-genprofile",
                "--allow",
                wrong,
                "laptop",
                "666",
            ]);
            assert!(parsed.is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_knock_port_makes_it_classic_and_only_stealth_binds_the_source() {
        let parse = |arguments: &[&str]| {
            GenprofileArgs::try_parse_from([&["knock-genprofile"], arguments].concat())
        };
        assert_eq!(parse(&["laptop"]).unwrap().port, None);
        assert_eq!(parse(&["laptop", "666"]).unwrap().port, Some(666));
        assert!(parse(&["--bind-source", "laptop"]).unwrap().bind_source);
        for wrong in [&["laptop", "0"][..], &["--bind-source", "laptop", "666"], &[]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
