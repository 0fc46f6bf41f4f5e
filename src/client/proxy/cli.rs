//! The command line of `knock-proxy`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use clap::Parser;
use clap_complete::Shell;

/// A SOCKS proxy that knocks before it connects to a host that you have a profile for.
#[derive(Debug, Parser)]
#[command(
    name = "knock-proxy",
    version,
    after_help = "\
Examples:
  knock-proxy 1080
  curl --socks5-hostname 127.0.0.1:1080 https://host.example/
  ssh -o ProxyCommand='nc -X 5 -x 127.0.0.1:1080 %h %p' host.example
  knock-proxy --auth ~/.config/knock-proxy.auth 1080

It speaks SOCKS 5, 4a and 4: CONNECT, names looked up by the proxy. A name that
is a profile's in ~/.knockknock, or an address that is one's or that its name
has, is knocked for; any other is connected to as it is, also a name that only
resolves to a profile's address. New profiles need no restart. SIGTERM: no new connections, 10 seconds for those that run.
Without --auth, every user of this machine can use it, and your profiles by it.
Exit status: 0 done, 1 could not, 2 wrong usage."
)]
pub struct ProxyCli {
    /// The port to listen on; none where systemd hands a socket over
    pub(crate) port: Option<u16>,
    /// Listen on this address of this machine
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub(crate) listen: IpAddr,
    /// Ask for the name and password in this file: one line, user:password
    #[arg(long, value_name = "FILE")]
    pub(crate) auth: Option<PathBuf>,
    /// Where the profiles are [default: ~/.knockknock]
    #[arg(long, value_name = "DIR")]
    pub(crate) profiles: Option<PathBuf>,
    /// Say more: a line for each connection
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Print completions for this shell: bash, zsh, fish...
    #[arg(long, value_name = "SHELL", hide_possible_values = true)]
    pub(crate) completions: Option<Shell>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        ProxyCli::command().debug_assert();
    }
}
