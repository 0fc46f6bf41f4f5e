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

mod authorize;
mod check;
mod cli;
pub mod config;
mod error;
mod event_loop;
mod expected_sequences;
mod guard;
pub mod kernel_log_line;
mod log_event;
pub mod log_source;
#[cfg(feature = "misbehave")]
mod misbehave;
mod open_grants;
mod outcome;
mod policy;
mod profile_state;
mod rate_limiter;
mod rejected_knocks;
mod sandbox;
mod say;
mod setup;
mod start;
pub mod trial_plan;
mod unreadable_lines;

use std::process::ExitCode;

use clap::Parser;

use crate::privileged;
use cli::Args;
use setup::Setup;
use trial_plan::Trial;

/// The program. `trial` is what `--try` does.
#[must_use]
pub fn main(trial: Trial) -> ExitCode {
    let args = Args::parse();
    if let Err(errno) = privileged::close_inherited() {
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
