//! What goes to standard output and standard error: for a person or another program, which may stop reading at any
//! time.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use clap_complete::Shell;
use nix::errno::Errno;

/// Prints `text`. A closed pipe is no error: its reader has read enough.
pub(crate) fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Writes `line` to standard error. A closed pipe or terminal must not end the program, as `eprintln` would: it may
/// have a command to run or connections to serve.
pub(crate) fn tell(line: fmt::Arguments<'_>) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Writes what is wrong to standard error, and the hint, if there is one, on a line of its own. An error may have brought its
/// own hint as a second line.
pub(crate) fn error(program: &str, what: &dyn fmt::Display, hint: Option<String>) {
    let hint = hint.map(|hint| format!("\n{hint}")).unwrap_or_default();
    let text = format!("{what}{hint}").replace('\n', &format!("\n{program}: "));
    tell(format_args!("{program}: {text}"));
}

/// What the system said, without its number.
pub(crate) fn reason(why: &io::Error) -> String {
    match why.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_owned(),
        None => why.to_string(),
    }
}

/// Prints the completions of `command` for `shell`.
pub(crate) fn completions(shell: Shell, command: &mut clap::Command) -> ExitCode {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, command, name, &mut script);
    print(&String::from_utf8_lossy(&script));
    ExitCode::SUCCESS
}
