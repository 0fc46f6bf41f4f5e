//! A SOCKS proxy that knocks.

use clap::Parser;
use knockknock::client::proxy::{cli::ProxyCli, run::run};

fn main() -> std::process::ExitCode {
    run(&ProxyCli::parse())
}
