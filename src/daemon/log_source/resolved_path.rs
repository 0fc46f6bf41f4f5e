//! The way from `/` to a log file: which directories must be watched to notice that it leads elsewhere.
//!
//! Owns the walk along a path, through symbolic links, to the file or to the first thing that is missing. Opens nothing.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

/// As in the kernel, a path may lead through at most 40 links.
const MAX_LINKS: usize = 40;

/// One path, as it leads now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ResolvedPath {
    /// The directories to watch, by their real names.
    ///
    /// Each tells when it is itself moved or deleted, so the root is watched only where something to come and go stands
    /// directly in it: programs open things in `/` all day, and each would wake us.
    pub(super) directories: Vec<PathBuf>,
    /// The names whose coming or going changes where the path leads.
    pub(super) names: Vec<PathBuf>,
    /// The last name, links resolved: the file's own if the path leads to one.
    pub(super) file: PathBuf,
}

impl ResolvedPath {
    /// Walks an absolute path.
    pub(super) fn of(path: &Path) -> Self {
        let root = PathBuf::from("/");
        let mut resolved = Self::default();
        let mut ahead = parts(path);
        let mut here = root.clone();
        let mut links = 0;
        while let Some(part) = ahead.pop_front() {
            if part == ".." {
                here.pop();
                continue;
            }
            let next = here.join(&part);
            resolved.file.clone_from(&next);
            add(&mut resolved.names, &next);
            match std::fs::read_link(&next) {
                Ok(target) => {
                    add(&mut resolved.directories, &here);
                    links += 1;
                    if links > MAX_LINKS {
                        break;
                    }
                    if target.is_absolute() {
                        here.clone_from(&root);
                    }
                    let mut onward = parts(&target);
                    onward.append(&mut ahead);
                    ahead = onward;
                }
                // It exists, and is not a link.
                Err(error) if error.kind() == ErrorKind::InvalidInput && !ahead.is_empty() => {
                    add(&mut resolved.directories, &next);
                    here = next;
                }
                Err(_) => {
                    add(&mut resolved.directories, &here);
                    break;
                }
            }
        }
        resolved
    }
}

fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(_) | Component::ParentDir => Some(component.as_os_str().to_owned()),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
        })
        .collect()
}

fn add(paths: &mut Vec<PathBuf>, path: &Path) {
    if !paths.iter().any(|known| known == path) {
        paths.push(path.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_way_is_watched_by_its_real_names_and_the_root_only_where_it_must_be() {
        let directory = tempfile::tempdir().unwrap();
        let here = directory.path().canonicalize().unwrap();
        std::fs::create_dir_all(here.join("real/log")).unwrap();
        symlink("real", here.join("link")).unwrap();
        let resolved = ResolvedPath::of(&here.join("link/log/kern.log"));
        for watched in ["", "real", "real/log"] {
            assert!(
                resolved.directories.contains(&here.join(watched)),
                "{watched:?} of {resolved:?}"
            );
        }
        assert!(!resolved.directories.contains(&PathBuf::from("/")));
        for name in ["link", "real", "real/log", "real/log/kern.log"] {
            assert!(resolved.names.contains(&here.join(name)), "{name:?} of {resolved:?}");
        }
        assert_eq!(resolved.file, here.join("real/log/kern.log"));
        assert_eq!(
            ResolvedPath::of(Path::new("/no-such-directory/kern.log")).directories,
            [Path::new("/")]
        );
    }

    #[test]
    fn links_that_lead_in_a_circle_are_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let here = directory.path().canonicalize().unwrap();
        symlink("b", here.join("a")).unwrap();
        symlink("a", here.join("b")).unwrap();
        let resolved = ResolvedPath::of(&here.join("a"));
        assert!(resolved.directories.contains(&here));
        assert!(
            resolved.names.contains(&here.join("a")) && resolved.names.contains(&here.join("b"))
        );
    }
}
