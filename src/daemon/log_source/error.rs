//! What a log source reports to the admin: errors that end it, and events that do not.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why there is no log to read, or none any more.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The log could not be opened.
    #[error(
        "cannot open the log {0:?}: {1}\nfix: start as root, or choose another log with --log (a path, kmsg)"
    )]
    Open(PathBuf, #[source] io::Error),
    /// The path names something else than a regular file.
    #[error("{0:?} is not a regular file\nfix: choose another log with --log")]
    NotAFile(PathBuf),
    /// The file cannot be watched at all.
    #[error("cannot watch {0:?}: {1}\nfix: --log kmsg needs no watching")]
    Watch(PathBuf, String),
    /// An open log could not be read.
    #[error("cannot read the log {0:?}: {1}")]
    Read(PathBuf, #[source] io::Error),
}

/// Something that happened to the log which an admin should know of.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Report {
    /// Nothing is at the path. What was there before is still read.
    #[error("there is no {0:?}; waiting for one")]
    Missing(PathBuf),
    /// Another file has come to the path; it is read from its beginning.
    #[error("{0:?} is a new file; following it")]
    NewFile(PathBuf),
    /// The file that was followed before is at the path again.
    #[error("{0:?} is back; following it")]
    Back(PathBuf),
    /// The file was cut. `from_copy`: lines not read yet were found in the copy that was made of it.
    #[error("{path:?} was truncated; reading {from} its beginning",
        from = if *.from_copy { "the rest from its copy, then the file from" } else { "it from" })]
    Truncated {
        /// The log.
        path: PathBuf,
        /// Whether a copy that goes on where reading had come to was found.
        from_copy: bool,
    },
    /// A line longer than the given bytes was refused.
    #[error("{0:?} has a line longer than {1} bytes; ignored it")]
    LineTooLong(PathBuf, usize),
    /// The file at the path may not be read. The group is the one that was taken along at the start to read it.
    #[error("{0:?} may not be read\nfix: {fix} (logrotate: the `create` line; rsyslog: $FileGroup and $FileCreateMode)",
        fix = make_readable(.1.as_deref()))]
    NoAccess(PathBuf, Option<String>),
    /// The file may be read, but not by this process: the way to it is another than at the start.
    #[error(
        "{0:?} is in a directory that the daemon may not read since its start\nfix: restart the daemon"
    )]
    OutOfReach(PathBuf),
    /// What is at the path is no regular file.
    #[error("{0:?} is not a regular file; waiting for one")]
    NotAFile(PathBuf),
    /// The file at the path could not be opened or read for another reason.
    #[error("cannot read {0:?}: {1}; trying again when it changes")]
    Unreadable(PathBuf, String),
    /// A directory or file cannot be watched.
    #[error("cannot watch {0:?}: {1}; a change there may go unnoticed")]
    NotWatched(PathBuf, String),
    /// The kernel overwrote records before they were read. How many is unknown before the first record is read.
    #[error("the kernel's log overran: {}records were overwritten before they were read",
        .0.map(|count| format!("{count} ")).unwrap_or_default())]
    Lost(Option<u64>),
}

fn make_readable(group: Option<&str>) -> String {
    group.map_or_else(
        || "restart the daemon, or make it readable for its user".to_owned(),
        |group| format!("make it readable for the group {group:?} as before"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_the_file_and_what_to_do_and_lets_no_path_speak_to_the_terminal() {
        let path = PathBuf::from("/var/log/\x1b[2Jkern.log");
        let text = Report::NoAccess(path.clone(), Some("adm".into())).to_string();
        assert!(
            text.starts_with("\"/var/log/\\u{1b}[2Jkern.log\" may not be read\nfix: "),
            "{text}"
        );
        assert!(text.contains("\"adm\"") && text.contains("logrotate"), "{text}");
        let text = SourceError::NotAFile(path).to_string();
        assert!(!text.contains('\x1b') && text.contains("--log"), "{text}");
    }
}
