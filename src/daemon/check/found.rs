//! The findings of `--check`: printed at once, and counted.

use std::fmt::Display;
use std::io::{self, Write};

/// How many problems were found so far.
#[derive(Debug, Default)]
pub(super) struct Found(usize);

impl Found {
    /// Reports what would prevent knocks from working, or let strangers in.
    pub(super) fn problem(&mut self, about: &str, what: impl Display) {
        self.0 += 1;
        self.say(about, format_args!("PROBLEM: {what}"));
    }

    /// Counts problems that were reported elsewhere.
    pub(super) fn count(&mut self, problems: usize) {
        self.0 += problems;
    }

    pub(super) fn problems(&self) -> usize {
        self.0
    }

    /// Reports a finding. Further lines, such as a hint, are indented below the first.
    #[expect(clippy::unused_self, reason = "what is said and what is counted go together")]
    pub(super) fn say(&self, about: &str, what: impl Display) {
        let what = what.to_string().replace('\n', "\n          ");
        // If standard output is closed, the exit status still counts.
        let _ = writeln!(io::stdout(), "{about:<9} {what}");
    }
}
