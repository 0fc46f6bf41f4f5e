//! Lines about a knock port that cannot be parsed as a packet, and which of them are reported without `-v`. If the
//! daemon can parse no line at all, no knock ever works, and the admin has to learn why.

use std::fmt;

use super::kernel_log_line::not_a_syn::NotASyn;

/// If this many lines in a row, from the first one on, cannot be parsed, the log has a format that we do not know.
const MAX_UNREADABLE: u8 = 10;

/// What has been reported of the lines that could not be read.
#[derive(Debug, Default)]
pub(super) struct UnreadableLines {
    /// Errors that concern every line: each is reported once.
    reported: Vec<NotASyn>,
    /// Whether a line was a kernel's line about a packet, so that the log is what it should be.
    understood: bool,
    lines: u8,
}

/// How a line is reported.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Always.
    Event(NotASyn),
    /// Always: none of the first lines could be parsed, and this is the error in the last one.
    NothingUnderstood(NotASyn),
    /// With `-v` only.
    Detail(NotASyn),
}

impl UnreadableLines {
    /// A line was about a packet.
    pub(super) fn understood(&mut self) {
        self.understood = true;
    }

    /// A line could not be read, or was about no SYN.
    pub(super) fn judge(&mut self, why: NotASyn) -> Verdict {
        use NotASyn::{
            Fragment, Framing, Incomplete, Malformed, NoSequence, NotKernel, NotTcp, OtherFlags,
            OtherPrefix,
        };
        match why {
            NoSequence | Framing | OtherPrefix if !self.reported.contains(&why) => {
                self.reported.push(why);
                return Verdict::Event(why);
            }
            NotTcp | Fragment | Incomplete | OtherFlags => self.understood = true,
            NoSequence | Framing | OtherPrefix | NotKernel | Malformed(_) => {}
        }
        if self.understood || self.lines == MAX_UNREADABLE {
            return Verdict::Detail(why);
        }
        self.lines += 1;
        // What was reported by its own name need not be reported again.
        if self.lines == MAX_UNREADABLE && !self.reported.contains(&why) {
            return Verdict::NothingUnderstood(why);
        }
        Verdict::Detail(why)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event(why) => why.fmt(f),
            Self::NothingUnderstood(why) => write!(
                f,
                "none of the first {MAX_UNREADABLE} lines about a knock port could be read (-v says why for each); the last: \
                 {why}"
            ),
            Self::Detail(why) => write!(f, "not a knock: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BROKEN: NotASyn = NotASyn::Malformed("SRC=");

    #[test]
    fn a_log_in_which_nothing_is_understood_is_reported_once() {
        let mut unread = UnreadableLines::default();
        for nth in 1..=100 {
            let expected = if nth == 10 {
                Verdict::NothingUnderstood(BROKEN)
            } else {
                Verdict::Detail(BROKEN)
            };
            assert_eq!(unread.judge(BROKEN), expected, "{nth}");
        }
    }

    #[test]
    fn one_line_that_is_understood_is_enough() {
        let heard: [fn(&mut UnreadableLines); 2] = [UnreadableLines::understood, |unread| {
            unread.judge(NotASyn::OtherFlags);
        }];
        for heard in heard {
            let mut unread = UnreadableLines::default();
            heard(&mut unread);
            assert!((0..100).all(|_| unread.judge(BROKEN) == Verdict::Detail(BROKEN)));
        }
    }

    #[test]
    fn what_is_wrong_with_every_line_is_reported_by_its_name_and_once() {
        let mut unread = UnreadableLines::default();
        let told: Vec<_> = (0..100).map(|_| unread.judge(NotASyn::OtherPrefix)).collect();
        assert_eq!(told[0], Verdict::Event(NotASyn::OtherPrefix));
        assert!(told[1..].iter().all(|told| *told == Verdict::Detail(NotASyn::OtherPrefix)));
    }
}
