//! The daemon's voice: one line an event on stderr, lower case, what happened and to whom. A service manager adds the
//! time. Names that came from outside are printed with `{:?}` by those who know them to be names.

#![forbid(unsafe_code)]

use std::fmt::Display;
use std::io::{self, Write};

/// An event that an admin wants to know of.
pub(super) fn event(what: impl Display) {
    line(format_args!("knock-daemon: {what}"));
}

/// What only `-v` shows.
pub(super) fn detail(verbose: bool, what: impl Display) {
    if verbose {
        event(what);
    }
}

/// The one line that scripts wait for.
pub(super) fn ready() {
    line("ready");
}

fn line(text: impl Display) {
    // One write, so that lines of several processes do not mix. A stderr that is gone must not end the daemon.
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}
