//! Sends one knock.

#![forbid(unsafe_code)]

use clap::Parser;
use knockknock::client::{cli::Cli, run::run};

fn main() -> std::process::ExitCode {
    run(&Cli::parse())
}
