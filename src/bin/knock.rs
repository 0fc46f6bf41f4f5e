//! Sends one knock.

use clap::Parser;
use knockknock::client::{cli::Cli, run::run};

fn main() -> std::process::ExitCode {
    run(&Cli::parse())
}
