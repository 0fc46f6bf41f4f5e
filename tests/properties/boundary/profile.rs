//! A profile's files, through the loader that the programs use: real files in a real directory.

use std::cell::OnceCell;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use knockknock::counter::Counter;
use knockknock::layout::Request;
use knockknock::layout::keys::{Layout, LayoutKeys};
use knockknock::layout::stealth::StealthKeys;
use knockknock::profile::Profile;
use knockknock::profile::config::ProfileConfig;
use tempfile::TempDir;

use super::{can_be_shown, ini};

/// Stands between the files of an input. It is no part of any text.
pub(crate) const END_OF_FILE: u8 = 0xff;

const FILES: [&str; 5] = ["config", "counter", "cipher.key", "mac.key", "secret.key"];

thread_local! {
    static PLACE: OnceCell<Place> = const { OnceCell::new() };
}

/// A profile's directory, with its files open: they are written again for each input.
struct Place {
    dir: TempDir,
    files: [File; FILES.len()],
}

/// The bytes as the files `config`, `counter`, `cipher.key`, `mac.key` and `secret.key`: as a profile, and then each by itself, since
/// most inputs break one of them.
pub(crate) fn holds(bytes: &[u8]) -> bool {
    PLACE.with(|place| {
        let Place { dir, files } = place.get_or_init(Place::new);
        let mut contents = bytes.splitn(files.len(), |byte| *byte == END_OF_FILE);
        let contents = files.each_ref().map(|file| {
            let content = contents.next().unwrap_or_default();
            file.set_len(content.len().try_into().unwrap()).unwrap();
            file.write_all_at(content, 0).unwrap();
            content
        });
        let is_profile = a_profile(dir.path(), contents);
        config(contents[0]);
        the_counter(dir.path(), contents[1]) && is_profile
    })
}

impl Place {
    fn new() -> Self {
        let dir = in_memory();
        let files = FILES.map(|name| {
            let file = File::create_new(dir.path().join(name)).unwrap();
            file.set_permissions(Permissions::from_mode(0o600)).unwrap();
            file
        });
        Self { dir, files }
    }
}

/// A directory for millions of files that are written again and again: not to a disk, if that can be helped.
pub(crate) fn in_memory() -> TempDir {
    let here = || std::env::var_os("TMPDIR").is_none().then(|| tempfile::tempdir_in("/dev/shm"));
    here().and_then(Result::ok).unwrap_or_else(|| tempfile::tempdir().unwrap())
}

fn a_profile(dir: &Path, [config_text, _, cipher, mac, secret]: [&[u8]; FILES.len()]) -> bool {
    match Profile::load(dir) {
        Ok((profile, _)) => {
            match &profile.keys {
                LayoutKeys::Classic(keys) => {
                    let (cipher_key, mac_key) = keys.bytes();
                    for (key, file) in [(cipher_key, cipher), (mac_key, mac)] {
                        let digits = base64(key);
                        assert_eq!(digits.as_bytes(), file.trim_ascii(), "its only form");
                        let is_published = key == b"example, do not " || key == b"use these keys!!";
                        assert!(!is_published);
                    }
                }
                LayoutKeys::Stealth(keys) => {
                    let bytes = BASE64_STANDARD.decode(secret.trim_ascii()).unwrap();
                    assert_ne!(bytes, b"example, do not use this secret!");
                    let same = StealthKeys::new(&bytes.try_into().unwrap());
                    assert_eq!(keys.seal(7, Request(22), None), same.seal(7, Request(22), None));
                }
            }
            let alone = ProfileConfig::parse(config_text, Path::new("config"));
            assert_eq!(alone.unwrap(), profile.config);
            true
        }
        Err(error) => {
            can_be_shown(&error.to_string());
            false
        }
    }
}

fn config(text: &[u8]) {
    let config = match ProfileConfig::parse(text, Path::new("config")) {
        Ok(config) => config,
        Err(error) => return can_be_shown(&error.to_string()),
    };
    assert_ne!(config.knock_port, Some(0));
    assert_ne!(config.port, Some(0));
    assert!(config.layout == Layout::Stealth || config.knock_port.is_some() && !config.bind_source);
    let bind_source = config.bind_source.then(|| "true".to_owned());
    let allow = config.allow.as_ref().map(|texts| ini::list(texts.iter().cloned()));
    let again = ini::file(&[
        ("knock_port", config.knock_port.map(|port| port.to_string())),
        ("layout", Some(config.layout.name().to_owned())),
        ("bind_source", bind_source),
        ("address", config.address.as_deref().map(ini::string)),
        ("port", config.port.map(|port| port.to_string())),
        ("allow", allow),
    ]);
    let read_again = ProfileConfig::parse(again.as_bytes(), Path::new("config"));
    assert_eq!(read_again.unwrap(), config, "{:?}", text.escape_ascii().to_string());
    let unknown = ini::with_unknown_key(&again);
    let refused = ProfileConfig::parse(unknown.as_bytes(), Path::new("config")).unwrap_err();
    assert!(refused.to_string().contains("did you mean `allow`?"), "{refused}");
}

/// The whole file is one number, or it is no counter; and what is written is read again.
fn the_counter(dir: &Path, text: &[u8]) -> bool {
    let counter = Counter::open(dir).unwrap();
    let content = || fs::read(dir.join("counter")).unwrap();
    let digits = text.trim_ascii_end();
    let number = str::from_utf8(digits)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse::<u64>().ok());
    let sender = counter.sender();
    match counter.read::<u64>() {
        Ok(read) => assert_eq!(Some(read), number),
        Err(error) => {
            can_be_shown(&error.to_string());
            // Twenty digits are the longest number; a file far longer than that is refused whatever it says.
            assert!(number.is_none() || text.len() >= 63, "{:?}", text.escape_ascii().to_string());
            assert!(counter.write(7_u32).is_err());
            assert_eq!(content(), text, "what cannot be read is left alone");
            return sender.is_ok_and(|_| the_sender(&counter));
        }
    }
    let number = number.unwrap();
    assert_eq!(sender.unwrap().counter, number);
    let Ok(number) = u32::try_from(number) else {
        assert!(counter.read::<u32>().is_err() && counter.spend(drop).is_err());
        assert_eq!(content(), text, "no counter of the classic layout");
        return the_sender(&counter);
    };
    match counter.spend(|counter| counter) {
        Ok(spent) => {
            assert_eq!(spent, number);
            assert_eq!(counter.read::<u32>().unwrap(), number + 1);
        }
        Err(error) => {
            assert!(error.is_spent() && number == u32::MAX);
            assert_eq!(content(), text);
        }
    }
    true
}

/// A sender's numbers are used once, whatever the clock says.
fn the_sender(counter: &Counter) -> bool {
    let mut sent = Vec::new();
    for step in [179_000_000, 0, 179_000_000, 179_000_001] {
        match counter.spend_in(step, |number| number) {
            Ok(number) => sent.push(number),
            Err(error) => assert!(error.is_spent()),
        }
    }
    sent.sort_unstable();
    assert!(sent.windows(2).all(|pair| pair[0] < pair[1]), "{sent:?}");
    true
}

/// RFC 4648, for 16 bytes.
fn base64(key: &[u8; 16]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    // 128 bits and four zeros are 22 digits of six bits each.
    let bits = u128::from_be_bytes(*key);
    let digit = |at: u32| {
        let six = if at < 21 { bits >> (122 - 6 * at) } else { bits << 4 } & 63;
        char::from(DIGITS[usize::try_from(six).unwrap()])
    };
    (0..22).map(digit).chain("==".chars()).collect()
}
