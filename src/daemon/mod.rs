//! `knock-daemon`: follows the log, decides, asks the helper to open.
//!
//! ```text
//! cli, config, setup   what root says                      start      from root to a process that may only watch
//! source, line, said   the log, and one line of it         sandbox    what that process may still do
//! door, guest, policy  what a SYN means                    watch      the loop
//! expected             the knocks that may come            openings   what is open, and who came in
//! meter, wrong         what strangers may cost             outcome    what came of it
//! check, trial         `--check`, and what `--try` tries   say        what is said, and how
//! unread               lines that tell of no knock           guard      what is closed, and our copy of it
//! ```
//!
//! It may read files that it opened as root, and one log; it starts no programs and opens no sockets.

mod check;
mod cli;
pub mod config;
mod door;
mod expected;
mod failure;
mod guard;
mod guest;
pub mod line;
mod meter;
#[cfg(feature = "misbehave")]
mod misbehave;
mod openings;
mod outcome;
mod policy;
mod said;
mod sandbox;
mod say;
mod setup;
pub mod source;
mod start;
pub mod trial;
mod unread;
mod watch;
mod wrong;

use std::process::ExitCode;

use clap::Parser;

use crate::privileged::spawn::close_inherited;
use cli::Args;
use setup::Setup;
use trial::Trial;

/// The program. `trial` is what `--try` does.
#[must_use]
pub fn main(trial: Trial) -> ExitCode {
    let args = Args::parse();
    if let Err(errno) = close_inherited() {
        say::event(format_args!("cannot close inherited descriptors: {}", errno.desc()));
        return ExitCode::FAILURE;
    }
    let run = |setup: &Setup| match (args.check, args.r#try) {
        (false, _) => start::run(setup),
        (true, false) => check::run(setup, None),
        (true, true) => check::run(setup, Some(trial)),
    };
    match Setup::new(&args).and_then(|setup| run(&setup)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let code = failure.exit_code();
            say::event(failure);
            code.into()
        }
    }
}
