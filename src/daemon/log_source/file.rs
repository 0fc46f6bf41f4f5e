//! A log file that is followed by its path, whatever becomes of the file behind it.
//!
//! Owns which files are read and in which order: the one at the path now, and before it those that were at the path
//! earlier, because a writer goes on writing to a file that was renamed or deleted until it opens the path again. A
//! file that appears at the path and is gone before the daemon has looked is never read; a rotation takes longer. Opens
//! files only through [`open_log`], which is what the sandbox lets it do.

use std::collections::VecDeque;
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Group};

use super::copytruncate::unread_rest;
use super::error::{Report, SourceError};
use super::open::{FileIdentity, is_missing, open_log, regular};
use super::path_watch::{CHANGED, NotWatched, PathWatch, WATCHED};
use super::resolved_path::ResolvedPath;
use super::tail::{self, MAX_LINE_LEN, PieceEnd, Tail};

/// Files that are read at once: the one at the path and some that were there before it.
const MAX_FILES: usize = 5;

/// Pieces of [`MAX_LINE_LEN`] bytes in one turn: 1 MiB, about a millisecond.
const MAX_PIECES: usize = 16;

/// A log file opened at its end, or missing still; not watched yet.
#[derive(Debug)]
pub struct OpenedFile {
    path: PathBuf,
    root: OwnedFd,
    first: Option<Tail>,
    group: Option<Gid>,
    group_name: Option<String>,
}

impl OpenedFile {
    /// Opens the file at its end. One that does not exist (yet) is no error.
    pub(crate) fn open(path: &Path) -> Result<Self, SourceError> {
        let cannot = |error| SourceError::Open(path.to_owned(), error);
        let path = std::path::absolute(path).map_err(cannot)?;
        let cannot = |error| SourceError::Open(path.clone(), error);
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root =
            nix::fcntl::open("/", flags, Mode::empty()).map_err(|error| cannot(error.into()))?;
        let (mut first, mut group) = (None, None);
        match open_log(root.as_fd(), &path) {
            Ok(file) => {
                group = group_that_opens(&file.metadata().map_err(cannot)?);
                let file = regular(file).map_err(cannot)?;
                let (file, identity) = file.ok_or_else(|| SourceError::NotAFile(path.clone()))?;
                first = Some(Tail::from_end(file, identity).map_err(cannot)?);
            }
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(cannot(error)),
        }
        // By name, for a report: it can be looked up now, and perhaps not later.
        let found = group.and_then(|group| Group::from_gid(group).ok().flatten());
        let group_name = found.map(|group| group.name);
        Ok(Self { path, root, first, group, group_name })
    }

    /// The absolute path, links not resolved.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is a file to read yet.
    #[must_use]
    pub(crate) fn is_there(&self) -> bool {
        self.first.is_some()
    }

    /// Where the path leads, links resolved: to the file, or to the first thing on the way that is missing.
    #[must_use]
    pub(crate) fn leads_to(&self) -> PathBuf {
        ResolvedPath::of(&self.path).file
    }

    /// The group that reading the log takes: the unprivileged side needs it when the log is rotated.
    #[must_use]
    pub(crate) fn group(&self) -> Option<Gid> {
        self.group
    }

    /// Starts to watch.
    pub(crate) fn watch(self) -> Result<FileLog, SourceError> {
        let watch = PathWatch::start(&self.path)
            .map_err(|error| SourceError::Watch(self.path.clone(), error))?;
        Ok(FileLog {
            path: self.path,
            root: self.root,
            group: self.group,
            group_name: self.group_name,
            trouble: None,
            watch,
            files: self.first.into_iter().collect(),
            buffer: tail::buffer(),
            turn: None,
            reports: Vec::new(),
        })
    }
}

/// A log file that is followed.
#[derive(Debug)]
pub struct FileLog {
    path: PathBuf,
    root: OwnedFd,
    group: Option<Gid>,
    group_name: Option<String>,
    watch: PathWatch,
    /// What was last reported to be at the path in place of a file that can be read.
    trouble: Option<Report>,
    /// Oldest first. The last one is at the path, or was the last to be there.
    files: VecDeque<Tail>,
    buffer: Vec<u8>,
    /// Reading that has begun. None: the next read checks the path first.
    turn: Option<ReadTurn>,
    reports: Vec<Report>,
}

/// How far reading has come since the descriptor was readable.
#[derive(Debug)]
struct ReadTurn {
    /// The file that is read, by its place in the list.
    at: usize,
    /// Whether the writer has stopped writing to the older files.
    moved_on: bool,
    pieces_left: usize,
}

impl FileLog {
    /// The absolute path, links not resolved.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The descriptor of `/` that later opens are relative to.
    #[must_use]
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Reads the next piece, oldest file first, at most 1 MiB in a turn. See [`super::LogSource::read`].
    pub(super) fn read(&mut self) -> Result<Option<&[u8]>, SourceError> {
        // Only the watch returns errors; a file that cannot be read is reported and skipped.
        let lines = self
            .next_lines()
            .map_err(|error| SourceError::Watch(self.path.clone(), error.to_string()))?;
        Ok(lines.and_then(|lines| self.buffer.get(lines)))
    }

    /// What has happened to the log since this was last asked.
    pub(super) fn take_reports(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.reports)
    }

    /// Where in the buffer the next lines stand. None: the turn is over.
    fn next_lines(&mut self) -> io::Result<Option<Range<usize>>> {
        let mut turn = match self.turn.take() {
            Some(turn) => turn,
            None => self.begin_turn()?,
        };
        while turn.pieces_left > 0 {
            turn.pieces_left -= 1;
            let at = turn.at;
            let is_newest = at + 1 >= self.files.len();
            let Some(tail) = self.files.get_mut(at).filter(|_| turn.moved_on || !is_newest) else {
                return Ok(None);
            };
            match tail.read_piece(&mut self.buffer) {
                Ok((lines, end)) => {
                    match end {
                        PieceEnd::More => {}
                        PieceEnd::LineTooLong => {
                            self.reports.push(Report::LineTooLong(self.path.clone(), MAX_LINE_LEN));
                        }
                        PieceEnd::Truncated => self.truncated(at),
                        PieceEnd::EndOfFile
                            if !is_newest
                                && (tail.is_copy || turn.moved_on && tail.is_deleted()) =>
                        {
                            self.forget(at)?;
                        }
                        PieceEnd::EndOfFile => turn.at += 1,
                    }
                    if !lines.is_empty() {
                        self.turn = Some(turn);
                        return Ok(Some(lines));
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    if !std::mem::replace(&mut tail.failing, true) {
                        self.reports.push(Report::Unreadable(self.path.clone(), error.to_string()));
                    }
                    turn.at += 1;
                }
            }
        }
        self.watch.again();
        Ok(None)
    }

    /// Learns what has happened since the last turn. Where something came, went or moved, has the way watched afresh and
    /// looks what is at its end.
    fn begin_turn(&mut self) -> io::Result<ReadTurn> {
        let news = self.watch.take_news()?;
        if news & CHANGED != 0 {
            let files = self.files.iter().filter(|tail| !tail.is_copy);
            self.watch.refresh(files.map(Tail::raw_fd))?;
        }
        if news & (CHANGED | WATCHED) != 0 {
            let report = self.look()?;
            self.reports.extend(report);
        }
        let not_watched = self.watch.not_watched().into_iter();
        let not_watched = not_watched.map(|NotWatched(path, why)| Report::NotWatched(path, why));
        self.reports.extend(not_watched);
        // The writer no longer writes to the older files once it has written to the newest. This is checked before the
        // older files are read to their ends, so that no line of the newest is read before one of theirs.
        let moved_on = self.files.back().is_some_and(Tail::has_begun);
        Ok(ReadTurn { at: 0, moved_on, pieces_left: MAX_PIECES })
    }

    /// Opens the path and puts what is there at the end of the list. Reports what is new.
    fn look(&mut self) -> io::Result<Option<Report>> {
        let path = self.path.clone();
        let trouble = match open_log(self.root.as_fd(), &path).and_then(regular) {
            Ok(Some((file, identity))) => return self.found(file, identity),
            Ok(None) => Report::NotAFile(path),
            Err(error) if is_missing(&error) => Report::Missing(path),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => self.denied(path),
            Err(error) => Report::Unreadable(path, error.to_string()),
        };
        let known = self.trouble.replace(trouble.clone());
        Ok((known.as_ref() != Some(&trouble)).then_some(trouble))
    }

    /// The file may not be opened: because of its mode, or because the way to it now leads through directories that the
    /// sandbox did not let in at the start. stat(2) works without opening the file, so its mode is known.
    fn denied(&self, path: PathBuf) -> Report {
        let readable = path.metadata().is_ok_and(|log| {
            log.mode() & 0o004 != 0
                || log.mode() & 0o040 != 0 && self.group == Some(Gid::from_raw(log.gid()))
        });
        if readable {
            Report::OutOfReach(path)
        } else {
            Report::NoAccess(path, self.group_name.clone())
        }
    }

    fn found(&mut self, file: File, identity: FileIdentity) -> io::Result<Option<Report>> {
        let was_away = self.trouble.take().is_some();
        let known = self.files.iter().position(|tail| !tail.is_copy && tail.identity() == identity);
        let Some(tail) = known.and_then(|at| self.files.remove(at)) else {
            let tail = Tail::from_beginning(file, identity);
            self.watch.open(tail.raw_fd())?;
            self.files.push_back(tail);
            if self.files.len() > MAX_FILES {
                self.forget(0)?;
            }
            return Ok(Some(Report::NewFile(self.path.clone())));
        };
        let was_older = known != Some(self.files.len());
        self.files.push_back(tail);
        Ok((was_away || was_older).then(|| Report::Back(self.path.clone())))
    }

    /// The file at this place of the list was cut: what had not been read may stand in a copy made just before.
    fn truncated(&mut self, at: usize) {
        let followed: Vec<FileIdentity> = self.files.iter().map(Tail::identity).collect();
        let Some(tail) = self.files.get_mut(at) else { return };
        let log = ResolvedPath::of(&self.path).file;
        let rest = unread_rest(self.root.as_fd(), &log, tail, &followed);
        let from_copy = rest.is_some();
        self.reports.push(Report::Truncated { path: self.path.clone(), from_copy });
        if let Err(error) = tail.restart() {
            self.reports.push(Report::Unreadable(self.path.clone(), error.to_string()));
        }
        if let Some(rest) = rest {
            self.files.insert(at, rest);
        }
    }

    /// Stops reading a file.
    fn forget(&mut self, at: usize) -> io::Result<()> {
        match self.files.remove(at).filter(|tail| !tail.is_copy) {
            Some(tail) => self.watch.close(tail.into_file()),
            None => Ok(()),
        }
    }
}

impl AsFd for FileLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}

/// The group that must be taken along to open the log again: none where others may read it too. Never root's group.
fn group_that_opens(log: &Metadata) -> Option<Gid> {
    let by_group_alone = log.mode() & 0o044 == 0o040;
    (by_group_alone && log.gid() != 0).then(|| Gid::from_raw(log.gid()))
}
