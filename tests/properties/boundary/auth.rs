//! The file with the proxy's name and password, through the loader that the proxy uses.

use std::cell::OnceCell;
use std::fs::{File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;

use knockknock::client::proxy::auth::Credentials;
use tempfile::TempDir;

use super::can_be_shown;
use super::profile::in_memory;

/// What RFC 1929 has room for.
const MOST: usize = 255;

thread_local! {
    static PLACE: OnceCell<Place> = const { OnceCell::new() };
}

/// The file, open: it is written again for each input.
struct Place {
    path: PathBuf,
    file: File,
    _dir: TempDir,
}

/// The bytes as the file.
pub(crate) fn holds(bytes: &[u8]) -> bool {
    PLACE.with(|place| {
        let Place { path, file, .. } = place.get_or_init(Place::new);
        file.set_len(bytes.len().try_into().unwrap()).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        let read = Credentials::read(path);
        let Some((user, password)) = by_the_book(bytes) else {
            can_be_shown(&read.expect_err("what is no such line is refused").to_string());
            return false;
        };
        let credentials = read.expect("one line, user:password");
        accepts_exactly(&credentials, user, password);
        assert_eq!(format!("{credentials:?}"), "Credentials(..)", "never shown");
        true
    })
}

impl Place {
    fn new() -> Self {
        let dir = in_memory();
        let path = dir.path().join("auth");
        let file = File::create_new(&path).unwrap();
        file.set_permissions(Permissions::from_mode(0o600)).unwrap();
        Self { path, file, _dir: dir }
    }
}

/// The whole file: text, one line, its first colon between two parts that the protocol has room for.
fn by_the_book(bytes: &[u8]) -> Option<(&str, &str)> {
    let text = str::from_utf8(bytes).ok()?;
    let line = match bytes {
        [.., b'\n'] => &text[..text.len() - 1],
        _ => text,
    };
    let colon = line.find(':')?;
    let (user, password) = (&line[..colon], &line[colon + 1..]);
    let good = |part: &str| {
        !part.is_empty() && part.len() <= MOST && part.chars().all(|c| !c.is_control())
    };
    (good(user) && good(password)).then_some((user, password))
}

fn accepts_exactly(credentials: &Credentials, user: &str, password: &str) {
    assert!(credentials.are(user, password));
    let more = |text: &str| format!("{text}x");
    let less = |text: &str| text.chars().skip(1).collect::<String>();
    for changed in [more, less] {
        assert!(!credentials.are(&changed(user), password));
        assert!(!credentials.are(user, &changed(password)));
    }
    assert!(
        !credentials.are("", "") && !credentials.are(user, "") && !credentials.are("", password)
    );
    assert_eq!(credentials.are(password, user), user == password);
    // The colon is between them, not in either.
    if let Some((first, rest)) = password.split_once(':') {
        assert!(!credentials.are(&format!("{user}:{first}"), rest));
    }
}
