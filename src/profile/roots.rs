//! Whether root alone decides what a file or directory of the server's config is.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Refuses what is not root's, and what others may write to. Of directories, check the upper one first: in one that is
/// root's alone, nobody else can put another thing in the place of what was checked.
///
/// A symbolic link must lead straight to its end, and there each directory on the way must be root's alone too.
pub(crate) fn roots_alone(path: &Path) -> Result<(), NotRoots> {
    let unreadable = |why| NotRoots::Unreadable(path.to_owned(), why);
    let metadata = path.symlink_metadata().map_err(unreadable)?;
    if !metadata.is_symlink() {
        return check(path, &metadata);
    }
    let real = path.canonicalize().map_err(unreadable)?;
    if path.read_link().map_err(unreadable)? != real {
        return Err(NotRoots::Roundabout(path.to_owned(), real));
    }
    real.ancestors().try_for_each(|path| {
        let metadata = path.symlink_metadata();
        check(path, &metadata.map_err(|why| NotRoots::Unreadable(path.to_owned(), why))?)
    })
}

fn check(path: &Path, metadata: &Metadata) -> Result<(), NotRoots> {
    if metadata.uid() != 0 {
        Err(NotRoots::Owner(path.to_owned()))
    } else if metadata.mode() & 0o022 != 0 {
        Err(NotRoots::Writable(path.to_owned()))
    } else {
        Ok(())
    }
}

/// What another user than root could change, and the command that fixes it.
#[derive(Debug, Error)]
pub enum NotRoots {
    /// Cannot be looked at.
    #[error("{0:?}: cannot be read: {1}")]
    Unreadable(PathBuf, #[source] io::Error),
    /// Belongs to another user.
    #[error("{0:?}: not owned by root\nfix: check what is in it, then: chown root:root {0:?}")]
    Owner(PathBuf),
    /// The group or others may write to it.
    #[error("{0:?}: others may write to it\nfix: check what is in it, then: chmod go-w {0:?}")]
    Writable(PathBuf),
    /// A link that leads through other links, or that is relative; and where to.
    #[error(
        "{0:?}: a symbolic link whose target is not a canonical path\nfix: ln -sfn {1:?} {0:?}"
    )]
    Roundabout(PathBuf, PathBuf),
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    #[test]
    fn what_others_own_or_may_write_to_is_refused_and_named() {
        for path in ["/", "/usr", "/etc/passwd"] {
            roots_alone(Path::new(path)).unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        // Without root, the directory is another's already.
        if nix::unistd::geteuid().is_root() {
            for mode in [0o720, 0o702] {
                fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
                let error = roots_alone(dir.path()).unwrap_err();
                let mend = format!("chmod go-w {:?}", dir.path());
                assert!(error.to_string().ends_with(&mend), "{error}");
            }
            fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
            roots_alone(dir.path()).unwrap();
            chown(dir.path(), Some(65_534), None).unwrap();
        }
        let error = roots_alone(dir.path()).unwrap_err();
        assert!(
            error.to_string().ends_with(&format!("chown root:root {:?}", dir.path())),
            "{error}"
        );
        assert!(matches!(roots_alone(&dir.path().join("none")), Err(NotRoots::Unreadable(..))));
    }

    #[test]
    fn a_link_leads_straight_to_what_is_roots_alone_or_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let link = |name: &str, to: &Path| {
            let link = dir.path().join(name);
            symlink(to, &link).unwrap();
            roots_alone(&link)
        };
        link("good", Path::new("/usr/share")).unwrap();
        let good = dir.path().join("good");
        assert!(matches!(link("twice", &good), Err(NotRoots::Roundabout(..))));
        assert!(matches!(link("relative", Path::new("good")), Err(NotRoots::Roundabout(..))));
        // What root has below a directory that is not root's alone, others can replace.
        let below = dir.path().canonicalize().unwrap().join("below");
        fs::create_dir(&below).unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        let error = link("below-link", &below).unwrap_err();
        assert!(matches!(&error, NotRoots::Writable(_) | NotRoots::Owner(_)), "{error}");
    }
}
