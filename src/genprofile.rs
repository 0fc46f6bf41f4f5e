//! `knock-genprofile NAME PORT`: makes a profile on the server and says what to copy to the client.

#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use crate::profile;

/// Makes a profile: what one client needs to knock at this server
#[derive(Debug, Parser)]
#[command(name = "knock-genprofile", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Args {
    /// Where the server's config and profiles are
    #[arg(long, value_name = "DIR", default_value = "/etc/knockknock.d")]
    config_dir: PathBuf,

    /// What to call the profile: a client's name, like `laptop`
    name: String,

    /// The knock port: a closed TCP port that no other profile knocks on, 1 to 65535
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
}

const AFTER_HELP: &str = "\
Example:
  sudo knock-genprofile laptop 666

It gets fresh keys, a counter of 0 and the knock port, in DIR/profiles/NAME, and is copied to the
client once. One profile is for one client: two clients with one profile would use the same counters.
Nothing has to be listening on the knock port, and nothing should be.
Exit status: 0 made, 1 not made (nothing is left behind), 2 wrong usage.";

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let args = Args::parse();
    match profile::create(&args.config_dir.join("profiles"), &args.name, args.port) {
        Ok(dir) => {
            // The profile is made; that nobody reads what is said about it changes nothing.
            let _ = io::stdout().write_all(next_steps(&args, &dir).as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "knock-genprofile: {error}");
            ExitCode::FAILURE
        }
    }
}

fn next_steps(args: &Args, dir: &Path) -> String {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let host = host.filter(|name| !name.is_empty()).unwrap_or_else(|| "SERVER".into());
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    format!(
        "made the profile {name} in {dir}, knock port {port}

1. On the client, copy it, once, to a directory named as the client names this server:
     mkdir -p -m 700 ~/.knockknock
     scp -r root@{host}:{dir} ~/.knockknock/{host}
2. Here, let the firewall log knocks on port {port}, and let the daemon know the profile:
     minimal-firewall.sh          (run it again, if that is your firewall)
     systemctl restart knock-daemon
3. From the client:
     knock -p 22 {host} && ssh {host}
",
        name = args.name,
        port = args.port,
        dir = dir.display(),
    )
}
