//! What goes to standard output: for a person or another program, which may stop reading at any time.

#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use clap_complete::Shell;

/// Prints `text`. A reader that has gone is no error: it has what it wanted.
pub fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Prints the completions of `command` for `shell`.
pub fn completions(shell: Shell, command: &mut clap::Command) -> ExitCode {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, command, name, &mut script);
    print(&String::from_utf8_lossy(&script));
    ExitCode::SUCCESS
}
