//! What goes to standard output and standard error: for a person or another program, which may stop reading at any
//! time.

#![forbid(unsafe_code)]

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use clap_complete::Shell;

/// Prints `text`. A reader that has gone is no error: it has what it wanted.
pub fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Says `line` on standard error. That nobody reads it any more (a closed pipe, a terminal that is gone) must not end
/// anything, as `eprintln` would: a command is still to run, connections are still to be served.
pub fn tell(line: fmt::Arguments<'_>) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Prints the completions of `command` for `shell`.
pub fn completions(shell: Shell, command: &mut clap::Command) -> ExitCode {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, command, name, &mut script);
    print(&String::from_utf8_lossy(&script));
    ExitCode::SUCCESS
}
