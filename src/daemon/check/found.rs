//! What `--check` has found: said as it goes, and counted.

use std::fmt::Display;
use std::io::{self, Write};

/// How many problems were found so far.
#[derive(Debug, Default)]
pub(super) struct Found(usize);

impl Found {
    /// Says that something would keep knocks from working, or strangers from being kept out.
    pub(super) fn problem(&mut self, about: &str, what: impl Display) {
        self.0 += 1;
        self.say(about, format_args!("PROBLEM: {what}"));
    }

    /// Counts problems that were said elsewhere.
    pub(super) fn count(&mut self, problems: usize) {
        self.0 += problems;
    }

    pub(super) fn problems(&self) -> usize {
        self.0
    }

    /// Says what is so. What follows in another line, such as a hint, stands below the first one.
    #[expect(clippy::unused_self, reason = "what is said and what is counted go together")]
    pub(super) fn say(&self, about: &str, what: impl Display) {
        let what = what.to_string().replace('\n', "\n          ");
        // Whoever does not read the findings still gets the exit status.
        let _ = writeln!(io::stdout(), "{about:<9} {what}");
    }
}
