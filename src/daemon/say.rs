//! The daemon's messages: an event on stderr, lower case, what happened and to whom; a hint on a line of its own, as in
//! `fix: …`. A service manager adds the time. The caller prints names that came from outside with `{:?}`.

use std::fmt::Display;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Reports an event to the admin.
pub(super) fn event(what: impl Display) {
    line(format_args!("knock-daemon: {}", what.to_string().replace('\n', "\nknock-daemon: ")));
}

/// Reports an event with `-v` only.
pub(super) fn detail(verbose: bool, what: impl Display) {
    if verbose {
        event(what);
    }
}

/// The one line that scripts wait for.
pub(super) fn ready() {
    line("ready");
}

/// How many events could not be written since the last one that could.
static LOST: AtomicUsize = AtomicUsize::new(0);

fn line(text: impl Display) {
    let mut stderr = io::stderr();
    // A pipe that its reader does not empty must not delay a knock, nor SIGTERM.
    let mut polled = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut polled, PollTimeout::ZERO) == Ok(0) {
        LOST.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let text = match LOST.swap(0, Ordering::Relaxed) {
        0 => format!("{text}\n"),
        lost => format!("knock-daemon: nobody read stderr; {lost} lines are lost\n{text}\n"),
    };
    // One write, so that lines of several processes do not mix. A closed stderr must not end the daemon.
    let _ = stderr.write_all(text.as_bytes());
}

/// More profiles than these would hide what a line says.
const MAX_NAMED: usize = 5;

/// The first of these names.
pub(super) fn some_of(mut names: impl Iterator<Item = String>) -> String {
    let shown: Vec<_> = names.by_ref().take(MAX_NAMED).collect();
    format!("{}{}", shown.join(", "), if names.next().is_some() { " and others" } else { "" })
}

/// That a flood can keep the knocks of these profiles, quoted names, from being logged.
pub(super) fn can_be_silenced(profiles: &[String]) -> String {
    format!(
        "no `allow`, or one too wide to list, for the profiles {}: a flood of SYNs can silence their knocks\n\
         fix: write what they may ask for, as in allow = tcp/22",
        some_of(profiles.iter().cloned())
    )
}
