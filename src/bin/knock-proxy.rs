//! A SOCKS proxy that knocks.

use clap::Parser;
use knockknock::client::proxy::{cli::Cli, run::run};

fn main() -> std::process::ExitCode {
    run(&Cli::parse())
}
