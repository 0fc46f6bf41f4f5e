//! What a log source has to say to the admin: why it cannot go on, and what happened while it went on.

#![forbid(unsafe_code)]
#![expect(
    clippy::unnecessary_debug_formatting,
    reason = "a path comes from outside: Debug escapes it"
)]

use std::path::PathBuf;
use std::{fmt, io};

/// Why there is no log to read, or none any more.
#[derive(Debug)]
pub enum SourceError {
    /// The log could not be opened.
    Open(PathBuf, io::Error),
    /// The path names something else than a regular file.
    NotAFile(PathBuf),
    /// The file cannot be watched at all.
    Watch(PathBuf, String),
    /// An open log could not be read.
    Read(PathBuf, io::Error),
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(path, error) => write!(
                f,
                "cannot open the log {path:?}: {error}; start as root, or choose another log with --log (a path, kmsg)"
            ),
            Self::NotAFile(path) => {
                write!(f, "{path:?} is no regular file; choose another log with --log")
            }
            Self::Watch(path, error) => {
                write!(f, "cannot watch {path:?}: {error}; --log kmsg needs no watching")
            }
            Self::Read(path, error) => write!(f, "cannot read the log {path:?}: {error}"),
        }
    }
}

impl std::error::Error for SourceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Open(_, error) | Self::Read(_, error) => Some(error),
            Self::NotAFile(_) | Self::Watch(..) => None,
        }
    }
}

/// Something that happened to the log which an admin should know of. One line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Nothing is at the path. What was there before is still read.
    Missing(PathBuf),
    /// Another file has come to the path; it is read from its beginning.
    NewFile(PathBuf),
    /// The file that was followed before is at the path again.
    Back(PathBuf),
    /// The file was cut. `from_copy`: lines not read yet were found in the copy that was made of it.
    Truncated {
        /// The log.
        path: PathBuf,
        /// Whether a copy that goes on where reading had come to was found.
        from_copy: bool,
    },
    /// A line longer than the given bytes was refused.
    LineTooLong(PathBuf, usize),
    /// The file at the path may not be read. The group is the one that was taken along at the start to read it.
    NoAccess(PathBuf, Option<String>),
    /// The file may be read, but not by this process: the way to it is another than at the start.
    OutOfReach(PathBuf),
    /// What is at the path is no regular file.
    NotAFile(PathBuf),
    /// The file at the path could not be opened or read for another reason.
    Unreadable(PathBuf, String),
    /// A directory or file cannot be watched.
    NotWatched(PathBuf, String),
    /// The kernel overwrote records before they were read. How many is unknown before the first record is read.
    Lost(Option<u64>),
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(path) => write!(f, "there is no {path:?}; waiting for one"),
            Self::NewFile(path) => write!(f, "{path:?} is a new file; following it"),
            Self::Back(path) => write!(f, "{path:?} is back; following it"),
            Self::Truncated { path, from_copy: false } => {
                write!(f, "{path:?} was truncated; reading it from its beginning")
            }
            Self::Truncated { path, from_copy: true } => {
                write!(
                    f,
                    "{path:?} was truncated; reading the rest from its copy, then the file from its beginning"
                )
            }
            Self::LineTooLong(path, limit) => {
                write!(f, "{path:?} has a line longer than {limit} bytes; ignored it")
            }
            Self::NoAccess(path, group) => {
                write!(f, "{path:?} may not be read; ")?;
                match group {
                    Some(group) => write!(f, "make it readable for the group {group:?} as before"),
                    None => f.write_str("restart the daemon, or make it readable for its user"),
                }?;
                f.write_str(
                    " (logrotate: the `create` line; rsyslog: $FileGroup and $FileCreateMode)",
                )
            }
            Self::OutOfReach(path) => write!(
                f,
                "{path:?} now is in a directory that the daemon shut itself out of at its start; restart it"
            ),
            Self::NotAFile(path) => write!(f, "{path:?} is no regular file; waiting for one"),
            Self::Unreadable(path, error) => {
                write!(f, "cannot read {path:?}: {error}; trying again when it changes")
            }
            Self::NotWatched(path, error) => {
                write!(f, "cannot watch {path:?}: {error}; a change there may go unnoticed")
            }
            Self::Lost(Some(count)) => {
                write!(
                    f,
                    "the kernel's log overran: {count} records were overwritten before they were read"
                )
            }
            Self::Lost(None) => f.write_str(
                "the kernel's log overran: records were overwritten before they were read",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_the_file_and_what_to_do_and_lets_no_path_speak_to_the_terminal() {
        let path = PathBuf::from("/var/log/\x1b[2Jkern.log");
        let text = Report::NoAccess(path.clone(), Some("adm".into())).to_string();
        assert!(text.starts_with(r#""/var/log/\u{1b}[2Jkern.log" may not be read; "#), "{text}");
        assert!(text.contains("\"adm\"") && text.contains("logrotate"), "{text}");
        let text = SourceError::NotAFile(path).to_string();
        assert!(!text.contains('\x1b') && text.contains("--log"), "{text}");
    }
}
