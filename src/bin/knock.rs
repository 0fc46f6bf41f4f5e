//! Sends one knock.

use clap::Parser;
use knockknock::client::{cli::KnockCli, run::run};

fn main() -> std::process::ExitCode {
    run(&KnockCli::parse())
}
