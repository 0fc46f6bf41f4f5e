//! `knock-genprofile NAME PORT`: makes a profile on the server and says what to copy to the client.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use crate::grant::{NotAService, Service, listed};
use crate::profile::allow::{FirewallChoice, InConfig};
use crate::profile::create::create;

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

    /// Where the server's config and profiles are
    #[arg(long, value_name = "DIR", default_value = CONFIG_DIR)]
    config_dir: PathBuf,

    /// What to call the profile: a client's name, like `laptop`
    name: String,

    /// The knock port: a closed TCP port that no other profile knocks on, 1 to 65535
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
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
  sudo knock-genprofile laptop 666
  sudo knock-genprofile --allow tcp/22,udp/51820 phone 667

It gets fresh keys, a counter of 0 and the knock port, in DIR/profiles/NAME, and is copied to the
client once. One profile is for one client: two clients with one profile would use the same counters.
What it may ask for stands as `allow` in its config, and in DIR/config, which limits every profile,
where that has no `allow` yet. With --allow any, neither gets one.
Nothing has to be listening on the knock port, and nothing should be.
Exit status: 0 made, 1 not made (nothing is left behind), 2 wrong usage.";

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let args = GenprofileArgs::parse();
    let allow = args.services().unwrap_or_else(|wrong| wrong.exit());
    match create(&args.config_dir, &args.name, Some(args.port), &allow) {
        Ok((dir, in_config)) => {
            let mut said = made(&args, &dir, &allow, &in_config);
            said.push_str(&next_steps(&args, &dir, &allow));
            // The profile exists; a closed standard output is no error.
            let _ = io::stdout().write_all(said.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let error = error.to_string().replace('\n', "\nknock-genprofile: ");
            let _ = writeln!(io::stderr(), "knock-genprofile: {error}");
            ExitCode::FAILURE
        }
    }
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
fn made(args: &GenprofileArgs, dir: &Path, allow: &[Service], in_config: &InConfig) -> String {
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
    format!("made the profile {} in {dir}, knock port {}\n{limits}", args.name, args.port)
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
    format!(
        "
1. On the client, copy it, once, to a directory named as the client names this server:
     mkdir -p -m 700 ~/.knockknock
     scp -r root@{host}:{dir} ~/.knockknock/{host}
2. Here, have the daemon read it:
     {daemon}
3. {close}
4. From the client:
     {knock}
",
        dir = dir.display(),
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
}
