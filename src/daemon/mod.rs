//! `knock-daemon`: follows the log, decides, asks the helper to open.
//!
//! ```text
//! cli, config, settings    what root says             start, lock, user, signals,      from root to a process that may
//! own_firewall, guard      what our table has           process_limits, load_profiles    only watch
//! log_source, log_event,   the log, and one line      sandbox              what that process may still do
//!   kernel_log_line          of it                    event_loop           waits, and pulls lines
//! authorize, match_knock,  what a SYN means           line_handler         what is done about a line
//!   policy, profile_state                             open_grants          what is open, and who connected
//! registry                 the profiles, by port      outcome, say         what came of it, and how it is said
//! expected_*               the knocks that may come   rate_limiter         what strangers may cost
//! rejected_knocks          those that were not valid  unreadable_lines     lines that cannot be read
//! check, trial_plan        `--check`, and what `--try` tries
//! ```
//!
//! It may read files that it opened as root, and one log; it starts no programs and opens no sockets.

mod authorize;
mod check;
mod cli;
pub mod config;
mod confirmed_guard;
mod error;
mod event_loop;
mod expected_knocks;
mod expected_sequences;
mod guard;
pub mod kernel_log_line;
mod line_handler;
mod load_profiles;
mod lock;
mod log_event;
pub mod log_source;
mod match_knock;
#[cfg(feature = "misbehave")]
mod misbehave;
mod open_grants;
mod outcome;
mod own_firewall;
mod policy;
mod process_limits;
mod profile_state;
mod rate_limiter;
mod registry;
mod rejected_knocks;
mod sandbox;
mod say;
mod settings;
mod signals;
mod start;
pub(crate) mod trial_plan;
mod unreadable_lines;
mod user;

use std::process::ExitCode;

use clap::Parser;

use crate::privileged::spawn::close_inherited;
use cli::DaemonArgs;
use settings::Settings;
use trial_plan::RunTrial;

/// The program. `trial` is what `--try` does.
pub(crate) fn main(trial: RunTrial) -> ExitCode {
    let args = DaemonArgs::parse();
    if let Err(errno) = close_inherited() {
        say::event(format_args!("cannot close inherited descriptors: {}", errno.desc()));
        return ExitCode::FAILURE;
    }
    let run = |settings: &Settings| match (args.check, args.r#try) {
        (false, _) => start::run(settings),
        (true, false) => check::run(settings, None),
        (true, true) => check::run(settings, Some(trial)),
    };
    match Settings::new(&args).and_then(|settings| run(&settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = error.exit_code();
            say::event(error);
            code.into()
        }
    }
}
