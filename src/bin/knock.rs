//! Sends one knock.

use clap::Parser;
use knockknock::client::command::{cli::KnockCli, run::run};

fn main() -> std::process::ExitCode {
    run(&KnockCli::parse())
}
