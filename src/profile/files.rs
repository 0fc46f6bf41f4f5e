//! The files of a profile as bytes: opened and read, not yet looked at.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use zeroize::Zeroizing;

use super::Profile;
use super::checked_file::{FileError, read_checked, refuse_writable_by_others};
use super::config::ProfileConfig;
use super::error::ProfileError;
use super::roots::{NotRoots, roots_alone};
use crate::counter::{self, Counter};
use crate::layout::classic::{KEY_LEN, Keys};
use crate::layout::keys::{Layout, LayoutKeys};
use crate::layout::stealth::{SECRET_LEN, StealthKeys};

/// No file of a profile is anywhere near as large, in bytes.
const MAX_LEN: u64 = 16 * 1024;

/// Every file that has a key in one of the layouts. Which of them a profile has is known only when its config is parsed.
const KEY_FILES: [&str; 3] = ["cipher.key", "mac.key", "secret.key"];

/// The keys of the examples in `profiles` in the repository. They are published, so they open nothing.
const EXAMPLE_KEYS: [&[u8]; 3] =
    [b"example, do not ", b"use these keys!!", b"example, do not use this secret!"];

/// Whether everybody knows this key.
pub(super) fn is_published(key: &[u8]) -> bool {
    EXAMPLE_KEYS.contains(&key)
}

/// The bytes of a profile's files and its open counter. What reads them needs no privilege to parse them.
/// No `Debug`: it would show the keys.
pub struct ProfileFiles {
    dir: PathBuf,
    /// Of [`KEY_FILES`] those that are there.
    keys: [Option<Zeroizing<Vec<u8>>>; KEY_FILES.len()],
    config: Zeroizing<Vec<u8>>,
    /// None: there is no such file.
    counter: Option<Counter>,
    readable_by_others: bool,
}

impl Profile {
    /// Reads and parses the profile in `dir`, and opens its counter.
    pub fn load(dir: &Path) -> Result<(Self, Counter), ProfileError> {
        ProfileFiles::read(dir)?.parse()
    }
}

impl ProfileFiles {
    /// The same on the server, where root reads for a process that acts on it: nothing of it may be in others' hands.
    pub(crate) fn read_of_root(dir: &Path) -> Result<Self, ProfileError> {
        roots_alone(dir)?;
        for name in KEY_FILES {
            match roots_alone(&dir.join(name)) {
                Err(NotRoots::Unreadable(_, why)) if why.kind() == ErrorKind::NotFound => {}
                checked => checked?,
            }
        }
        for name in ["config", counter::FILE_NAME] {
            roots_alone(&dir.join(name))?;
        }
        Self::read_each(dir)
    }

    /// Opens and reads the files of the profile in `dir`: all of one profile, also while `knock --import --replace` puts
    /// another in its place. With the keys of one and the counter of the other, a counter would be used twice.
    pub fn read(dir: &Path) -> Result<Self, ProfileError> {
        let identity = || dir.metadata().map(|there| (there.dev(), there.ino())).ok();
        loop {
            let before = identity();
            let files = Self::read_each(dir);
            if identity() == before {
                return files;
            }
        }
    }

    fn read_each(dir: &Path) -> Result<Self, ProfileError> {
        let unreadable = |why| FileError::Unreadable(dir.to_owned(), why);
        let dir_metadata = dir.metadata().map_err(unreadable)?;
        refuse_writable_by_others(dir, &dir_metadata)?;
        let is_private = dir_metadata.mode() & 0o077 == 0;
        let mut readable_by_others = false;
        let mut keys = [const { None }; KEY_FILES.len()];
        for (name, key) in KEY_FILES.iter().zip(&mut keys) {
            match read_checked(&dir.join(name), MAX_LEN) {
                Ok(file) => {
                    readable_by_others |= file.readable_by_others && !is_private;
                    *key = Some(file.bytes);
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        let config = read_checked(&dir.join("config"), MAX_LEN)?.bytes;
        let counter = match Counter::open(dir) {
            Err(error) if error.is_not_found() => None,
            opened => Some(opened?),
        };
        if let Some(counter) = &counter {
            refuse_writable_by_others(&dir.join(counter::FILE_NAME), &counter.metadata()?)?;
        }
        Ok(Self { dir: dir.to_owned(), keys, config, counter, readable_by_others })
    }

    /// The profile's directory.
    #[must_use]
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether users other than the owner can read the keys: worth a warning, with `chmod -R go-rwx DIR`.
    #[must_use]
    pub(crate) fn readable_by_others(&self) -> bool {
        self.readable_by_others
    }

    /// Parses the bytes, and gives the counter away with what they say.
    ///
    /// A client with the stealth layout needs no counter to be there: the clock decides then, and the file is made.
    pub fn parse(self) -> Result<(Profile, Counter), ProfileError> {
        let profile = self.profile()?;
        let counter = match (self.counter, profile.config.layout) {
            (Some(counter), _) => counter,
            (None, Layout::Stealth) => Counter::create(&self.dir)?,
            (None, Layout::Classic) => Counter::open(&self.dir)?,
        };
        Ok((profile, counter))
    }

    /// Its open counter, if there is one.
    #[must_use]
    pub(crate) fn counter(&self) -> Option<&Counter> {
        self.counter.as_ref()
    }

    /// Parses the bytes. The name is the directory's.
    pub(crate) fn profile(&self) -> Result<Profile, ProfileError> {
        let config = ProfileConfig::parse(&self.config, &self.dir.join("config"))?;
        let keys = match config.layout {
            Layout::Classic => LayoutKeys::Classic(Keys::new(
                *self.key::<KEY_LEN>("cipher.key")?,
                *self.key::<KEY_LEN>("mac.key")?,
            )),
            Layout::Stealth => {
                LayoutKeys::Stealth(StealthKeys::new(&*self.key::<SECRET_LEN>("secret.key")?))
            }
        };
        let name =
            self.dir.file_name().unwrap_or(self.dir.as_os_str()).to_string_lossy().into_owned();
        Ok(Profile { name, keys, config })
    }

    /// The key in the file `name`.
    fn key<const LEN: usize>(&self, name: &str) -> Result<Zeroizing<[u8; LEN]>, ProfileError> {
        let path = self.dir.join(name);
        let place = KEY_FILES.iter().position(|file| *file == name);
        let Some(bytes) = place.and_then(|place| self.keys.get(place)?.as_ref()) else {
            return Err(FileError::Unreadable(path, ErrorKind::NotFound.into()).into());
        };
        // Longer than a key, so that a longer one is told apart from a cut one.
        let mut decoded = Zeroizing::new([0; SECRET_LEN + 8]);
        let length = BASE64_STANDARD.decode_slice(bytes.trim_ascii(), &mut *decoded);
        let key = length.ok().and_then(|length| decoded.get(..length)?.try_into().ok());
        let key: Zeroizing<[u8; LEN]> = Zeroizing::new(key.ok_or(ProfileError::BadKey(path, LEN))?);
        if is_published(key.as_slice()) {
            return Err(ProfileError::ExampleKeys(self.dir.clone()));
        }
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

    const KEY_A: &str = "HoCD3Bo5mY7IjLvEwJY9nQ==\n";
    const KEY_B: &str = "HNFz0K+tNUD67c7/gxNXjg==\n";

    fn profile(cipher: &str, mac: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in [
            ("cipher.key", cipher),
            ("mac.key", mac),
            ("config", "[main]\nknock_port = 666\n\n"),
            ("counter", "7\n"),
        ] {
            fs::write(dir.path().join(name), content).unwrap();
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
        dir
    }

    fn error(dir: &tempfile::TempDir) -> ProfileError {
        Profile::load(dir.path()).map(|_| ()).unwrap_err()
    }

    #[test]
    fn a_whole_profile_loads() {
        let dir = profile(KEY_A, KEY_B);
        let (profile, counter) = Profile::load(dir.path()).unwrap();
        assert_eq!(profile.config.knock_port, Some(666));
        let LayoutKeys::Classic(keys) = profile.keys else { panic!("{:?}", profile.keys) };
        assert_eq!(
            keys.bytes().0,
            b"\x1e\x80\x83\xdc\x1a\x39\x99\x8e\xc8\x8c\xbb\xc4\xc0\x96\x3d\x9d"
        );
        assert_eq!(counter.read::<u32>().unwrap(), 7);
    }

    #[test]
    fn keys_that_are_cut_empty_longer_or_no_base64_are_refused() {
        for key in [
            "",
            "\n",
            "HoCD3Bo5mY7IjLvEwJY9",
            "HoCD3Bo5mY7IjLvEwJY9nQ",
            "!!!!",
            "HoCD3Bo5mY7IjLvEwJY9nTIz\n",
        ] {
            assert!(
                matches!(error(&profile(key, KEY_B)), ProfileError::BadKey(..)),
                "{key:?} as cipher.key"
            );
            assert!(
                matches!(error(&profile(KEY_A, key)), ProfileError::BadKey(..)),
                "{key:?} as mac.key"
            );
        }
    }

    #[test]
    fn the_published_example_is_refused() {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles/example");
        let files = |name| fs::read_to_string(example.join(name)).unwrap();
        let dir = profile(&files("cipher.key"), &files("mac.key"));
        assert!(matches!(error(&dir), ProfileError::ExampleKeys(_)));
        let one_of_them = profile(KEY_A, &files("mac.key"));
        assert!(matches!(error(&one_of_them), ProfileError::ExampleKeys(_)));

        let stealth = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles/example-stealth");
        let dir = profile(KEY_A, KEY_B);
        for name in ["config", "counter", "secret.key"] {
            fs::write(dir.path().join(name), fs::read(stealth.join(name)).unwrap()).unwrap();
        }
        assert!(matches!(error(&dir), ProfileError::ExampleKeys(_)));
        fs::write(dir.path().join("secret.key"), "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n")
            .unwrap();
        assert!(Profile::load(dir.path()).is_ok(), "it is a profile but for the key");
    }

    #[test]
    fn files_that_others_may_write_to_are_refused_and_named() {
        for name in ["cipher.key", "mac.key", "config", "counter"] {
            let dir = profile(KEY_A, KEY_B);
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o622)).unwrap();
            let error = error(&dir);
            assert!(
                matches!(&error, ProfileError::File(FileError::WritableByOthers(path)) if path.ends_with(name)),
                "{error}"
            );
        }
    }

    #[test]
    fn what_is_no_file_or_far_too_large_is_refused() {
        let dir = profile(KEY_A, KEY_B);
        fs::remove_file(dir.path().join("config")).unwrap();
        assert!(matches!(error(&dir), ProfileError::File(FileError::Unreadable(..))));
        fs::create_dir(dir.path().join("config")).unwrap();
        assert!(matches!(error(&dir), ProfileError::File(FileError::NotAFile(_))));

        let dir = profile(KEY_A, KEY_B);
        fs::write(dir.path().join("config"), vec![b'\n'; 20_000]).unwrap();
        assert!(matches!(error(&dir), ProfileError::File(FileError::TooLarge(..))));
    }

    /// Another profile takes the place of this one once in each read, at every point of it.
    #[test]
    fn keys_config_and_counter_are_of_one_profile_also_while_another_takes_its_place() {
        let places = tempfile::tempdir().unwrap();
        let [here, aside] = ["here", "aside"].map(|name| places.path().join(name));
        for (place, port) in [(&here, 1), (&aside, 2)] {
            fs::create_dir(place).unwrap();
            let key = BASE64_STANDARD.encode([port; KEY_LEN]);
            for (name, content) in [
                ("cipher.key", key.as_str()),
                ("mac.key", &key),
                ("config", &format!("[main]\nknock_port = {port}\n")),
                ("counter", &format!("{port}\n")),
            ] {
                fs::write(place.join(name), content).unwrap();
            }
        }
        let (start, started) = mpsc::channel::<u64>();
        let (done, exchanged) = mpsc::channel();
        let exchange = {
            let here = here.clone();
            move || {
                for microseconds in started {
                    let begin = Instant::now();
                    while begin.elapsed() < Duration::from_micros(microseconds) {}
                    renameat2(AT_FDCWD, &here, AT_FDCWD, &aside, RenameFlags::RENAME_EXCHANGE)
                        .unwrap();
                    done.send(()).unwrap();
                }
            }
        };
        let thread = std::thread::spawn(exchange);
        for nth in 0..3000 {
            start.send(nth % 300).unwrap();
            let (profile, counter) = Profile::load(&here).unwrap();
            let (cipher, mac) = profile.keys.classic().unwrap().bytes();
            let port = profile.config.knock_port.unwrap();
            let counter: u16 = counter.read().unwrap();
            assert_eq!([cipher[0], mac[0]].map(u16::from), [port; 2]);
            assert_eq!(counter, port, "keys of the one and the counter of the other");
            exchanged.recv().unwrap();
        }
        drop(start);
        thread.join().unwrap();
    }
}
