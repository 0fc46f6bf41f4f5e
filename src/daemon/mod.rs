//! `knock-daemon`: follows the log, decides, asks the helper to open.
//!
//! ```text
//! start                 the steps of the start, in order
//!   cli, config, settings, user, lock, process_limits, signals
//!   own_firewall          our table and the back end; guard, confirmed_guard: our copy of what closes services
//!   load_profiles         registry: the profiles by knock port and by tag
//!     classic_profile       keys, counter and window of one; stealth_profile: keys and numbers at hand; profile_state: of both
//!     stealth_profiles      all of them, and live_tags: which number of whom a SYN may have
//!   sandbox               what the process may still do
//! event_loop            waits, and pulls lines
//!   log_source            the log; port_filter: its lines about our ports
//!   refresh_timer         the clock, and when stealth numbers have to move with it
//!   line_handler          acts on a line and reports; unreadable_lines
//!   log_event             what a line reports; kernel_log_line: its grammar
//! authorize             what a SYN means
//!   match_knock           which profile's knock it is; rate_limiter: limits the work that strangers can cause
//!   valid_knock           of either layout, once it is found
//!   policy                what that profile may have
//!   open_grants           the open grants, and their connections
//!   expected_knocks       the knocks that may come next; expected_sequences: their numbers; set_share: how many of whom
//!   rejected_knocks       those that were not valid
//!   helper_handle         the pipes to the helper: ask_open, ask_close, ask_expect, …
//!   outcome               the result as a message; say: how messages are written
//! check                 `--check`; trial_plan: what `--try` tries
//! ```
//!
//! It may read files that it opened as root, and one log; it starts no programs and opens no sockets.

mod authorize;
mod check;
mod classic_profile;
mod cli;
pub mod config;
mod confirmed_guard;
mod error;
mod event_loop;
mod expected_knocks;
mod expected_sequences;
mod guard;
pub mod helper_handle;
pub mod kernel_log_line;
mod line_handler;
pub mod live_tags;
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
mod refresh_timer;
mod registry;
mod rejected_knocks;
mod sandbox;
mod say;
mod set_share;
mod settings;
mod signals;
mod start;
mod stealth_profile;
mod stealth_profiles;
pub(crate) mod trial_plan;
mod unreadable_lines;
mod user;
mod valid_knock;

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
