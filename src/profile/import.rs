//! Puts a profile that came as a line where its client has it: whole or not at all.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::config::ProfileConfig;
use super::enrolment::Enrolment;
use super::error::ProfileError;
use super::unfinished::{HIDDEN, Unfinished, private_dir};

/// What has become of a profile that came in.
#[derive(Debug)]
pub(crate) struct ImportedProfile {
    /// Where it is.
    pub(crate) dir: PathBuf,
    /// What its config says.
    pub(crate) config: ProfileConfig,
    /// Where that is which it has replaced.
    pub(crate) old: Option<PathBuf>,
}

/// Why it is not there. What was there before still is.
#[derive(Debug, Error)]
pub(crate) enum ImportError {
    /// There is a profile of this name.
    #[error(
        "{0:?} exists\nfix: --replace puts the new one in its place and keeps the old one beside it"
    )]
    Exists(PathBuf),
    /// What would be written cannot be read.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// A file or directory could not be read or made.
    #[error("{0:?}: {1}")]
    Io(PathBuf, #[source] io::Error),
    /// What was there cannot be exchanged at once on this file system.
    #[error("{0:?}: cannot be replaced at once here ({1})\nfix: rename it, and import again")]
    NotExchanged(PathBuf, #[source] io::Error),
}

/// Fails where `host` has a profile already: before anybody pastes one.
pub(crate) fn refuse_existing(profiles: &Path, host: &str) -> Result<(), ImportError> {
    let dir = profiles.join(host);
    if dir.symlink_metadata().is_ok() { Err(ImportError::Exists(dir)) } else { Ok(()) }
}

/// Makes the profile of `host` in `profiles` (0700, files 0600). One that is there is an error or, with `replace`, changes
/// places with the new one, which keeps its `address`.
pub(crate) fn import(
    profiles: &Path,
    host: &str,
    enrolment: &Enrolment,
    replace: bool,
) -> Result<ImportedProfile, ImportError> {
    let failed = |path: &Path, why| ImportError::Io(path.to_owned(), why);
    private_dir(true).create(profiles).map_err(|why| failed(profiles, why))?;
    let lock = File::open(profiles).map_err(|why| failed(profiles, why))?;
    lock.lock().map_err(|why| failed(profiles, why))?;
    let dir = profiles.join(host);
    let replaces = dir.symlink_metadata().is_ok();
    if replaces && !replace {
        return Err(ImportError::Exists(dir));
    }
    let (text, config) = client_config(enrolment, replaces.then_some(dir.as_path()))?;
    let hidden = if replaces { free_name(profiles, host) } else { profiles.join(HIDDEN) };
    if !replaces {
        Unfinished::remove_left(&hidden).map_err(|why| failed(&hidden, why))?;
    }
    let new = Unfinished::write(hidden.clone(), enrolment, &text);
    let mut new = new.map_err(|why| failed(&hidden, why))?;
    let mut made = None;
    let old = if replaces {
        let exchanged = new.exchange_with(&dir);
        Some(exchanged.map_err(|why| ImportError::NotExchanged(dir.clone(), why))?)
    } else {
        new.move_to(&dir).map_err(|why| failed(&dir, why))?;
        // Kept below, once the name is on the disk as well.
        made = Some(new);
        None
    };
    lock.sync_all().map_err(|why| failed(profiles, why))?;
    made.map(Unfinished::keep);
    Ok(ImportedProfile { dir, config, old })
}

/// The config, as text and read again. `old`: the profile that is replaced; what its owner alone knows is kept.
fn client_config(
    enrolment: &Enrolment,
    old: Option<&Path>,
) -> Result<(String, ProfileConfig), ProfileError> {
    let old = old.map(|dir| dir.join("config")).and_then(|path| {
        // One that cannot be read is replaced all the same: that may be why.
        ProfileConfig::parse(&fs::read(&path).ok()?, &path).ok()
    });
    let (address, port) = old.map(|old| (old.address, old.port)).unwrap_or_default();
    let mut more = String::new();
    if let Some(port) = enrolment.port.or(port) {
        let _ = writeln!(more, "port = {port}");
    }
    if let Some(address) = address {
        let address = address.replace('\\', "\\\\").replace('"', "\\\"");
        let _ = writeln!(more, "address = \"{address}\"");
    }
    let text = enrolment.config(&more);
    let config = ProfileConfig::parse(text.as_bytes(), Path::new("config"))?;
    Ok((text, config))
}

/// A hidden name that nothing has, for the profile that is replaced. It may be the only one that opens anything, so it takes
/// the place of no other.
fn free_name(profiles: &Path, host: &str) -> PathBuf {
    let mut name = profiles.join(format!(".old-{host}"));
    for number in 2_u64.. {
        if name.symlink_metadata().is_err() {
            break;
        }
        name = profiles.join(format!(".old-{host}.{number}"));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::keys::Layout;
    use crate::profile::Profile;
    use zeroize::Zeroizing;

    fn stealth(byte: u8) -> Enrolment {
        let keys = vec![Zeroizing::new(vec![byte; 32])];
        let port = Some(22);
        Enrolment { layout: Layout::Stealth, knock_port: None, bind_source: true, port, keys }
    }

    fn classic() -> Enrolment {
        let keys = vec![Zeroizing::new(vec![1; 16]), Zeroizing::new(vec![2; 16])];
        let knock_port = Some(666);
        Enrolment { layout: Layout::Classic, knock_port, bind_source: false, port: None, keys }
    }

    fn names(dir: &Path) -> Vec<String> {
        let names = dir.read_dir().unwrap().map(|one| one.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn what_is_imported_loads_and_says_what_the_line_said() {
        let dir = tempfile::tempdir().unwrap();
        let profiles = dir.path().join("home/.knockknock");
        let imported = import(&profiles, "one", &stealth(7), false).unwrap();
        let (profile, counter) = Profile::load(&imported.dir).unwrap();
        assert_eq!(profile.config, imported.config);
        assert!(profile.config.bind_source && profile.config.port == Some(22));
        assert_eq!(counter.sender().unwrap().counter, 0);
        let imported = import(&profiles, "two", &classic(), false).unwrap();
        let (profile, _) = Profile::load(&imported.dir).unwrap();
        assert_eq!((profile.config.knock_port, profile.config.port), (Some(666), None));
        assert_eq!(names(&profiles), ["one", "two"]);
    }

    #[test]
    fn what_a_process_left_that_was_killed_is_gone_with_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let left = Unfinished::write(dir.path().join(HIDDEN), &stealth(1), "").unwrap();
        left.keep();
        import(dir.path(), "one", &stealth(7), false).unwrap();
        assert_eq!(names(dir.path()), ["one"]);
    }

    #[test]
    fn a_profile_is_replaced_when_that_is_asked_for_and_the_old_one_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = import(dir.path(), "one", &classic(), false).unwrap();
        let address = r#"odd; "name" \ # 1"#;
        let quoted = address.replace('\\', r"\\").replace('"', r#"\""#);
        let config = format!("[main]\nknock_port = 666\nport = 2222\naddress = \"{quoted}\"\n");
        fs::write(first.dir.join("config"), &config).unwrap();
        let refused = import(dir.path(), "one", &stealth(7), false).unwrap_err();
        assert!(matches!(refused, ImportError::Exists(_)), "{refused}");
        assert_eq!(names(dir.path()), ["one"]);

        let second = import(dir.path(), "one", &stealth(7), true).unwrap();
        assert_eq!(names(dir.path()), [".old-one", "one"]);
        assert_eq!(second.config.address.as_deref(), Some(address));
        assert_eq!(second.config.port, Some(22), "the server's word");
        assert_eq!(Profile::load(&second.dir).unwrap().0.keys.layout(), Layout::Stealth);
        let old = second.old.unwrap();
        assert_eq!(fs::read_to_string(old.join("config")).unwrap(), config);
        assert_eq!(Profile::load(&old).unwrap().0.keys.layout(), Layout::Classic);

        let third = import(dir.path(), "one", &classic(), true).unwrap();
        assert_eq!(names(dir.path()), [".old-one", ".old-one.2", "one"]);
        assert_eq!(third.config.port, Some(22), "where the server has none to say");
    }

    #[test]
    fn a_profile_that_cannot_be_read_is_replaced_too() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("one")).unwrap();
        fs::write(dir.path().join("one/config"), "junk").unwrap();
        let imported = import(dir.path(), "one", &stealth(7), true).unwrap();
        assert_eq!(imported.config.address, None);
        Profile::load(&imported.dir).unwrap();
    }
}
