//! The name and password that the proxy may ask for (RFC 1929), from a file that only its owner reads.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fmt, io};

use ctutils::CtEq;
use zeroize::Zeroizing;

use crate::client::knock::error::reason;

/// What RFC 1929 has room for, each, in bytes.
const MOST: usize = 255;

/// A user's name and password.
#[derive(Clone)]
pub struct Credentials {
    user: Zeroizing<String>,
    password: Zeroizing<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

/// What is wrong with the file.
#[derive(Debug)]
pub enum AuthError {
    /// It cannot be read.
    Unreadable(PathBuf, io::Error),
    /// Other users can read it.
    ReadableByOthers(PathBuf),
    /// It is not one line `user:password`.
    NotCredentials(PathBuf),
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(path, why) => {
                write!(f, "{path:?}: cannot be read: {}", reason(why))
            }
            Self::ReadableByOthers(path) => {
                write!(f, "{path:?}: others can read it; put it right: chmod go-rwx {path:?}")
            }
            Self::NotCredentials(path) => {
                write!(
                    f,
                    "{path:?}: must be one line, user:password, each of 1 to {MOST} bytes, without control characters"
                )
            }
        }
    }
}

impl std::error::Error for AuthError {}

impl Credentials {
    /// Reads the line `user:password` from `path`.
    pub fn read(path: &Path) -> Result<Self, AuthError> {
        let unreadable = |why| AuthError::Unreadable(path.to_owned(), why);
        let file = File::open(path).map_err(unreadable)?;
        if file.metadata().map_err(unreadable)?.mode() & 0o077 != 0 {
            return Err(AuthError::ReadableByOthers(path.to_owned()));
        }
        let mut text = Zeroizing::new(String::with_capacity(4 * MOST));
        file.take(3 * MOST as u64).read_to_string(&mut text).map_err(unreadable)?;
        Self::parse(&text).ok_or_else(|| AuthError::NotCredentials(path.to_owned()))
    }

    /// The content of such a file: one line, which may lack its newline. A carriage return or the like at its end is
    /// somebody's editor and nobody's password, so a control character is refused.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let line = text.strip_suffix('\n').unwrap_or(text);
        let (user, password) = line.split_once(':')?;
        let fits = |part: &str| (1..=MOST).contains(&part.len());
        if !fits(user) || !fits(password) || line.contains(char::is_control) {
            return None;
        }
        Some(Self {
            user: Zeroizing::new(user.to_owned()),
            password: Zeroizing::new(password.to_owned()),
        })
    }

    /// Whether they are these. Takes as long for a wrong one, whichever byte is wrong.
    #[must_use]
    pub fn are(&self, user: &str, password: &str) -> bool {
        let user = self.user.as_bytes().ct_eq(user.as_bytes());
        let password = self.password.as_bytes().ct_eq(password.as_bytes());
        (user & password).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_line_of_user_and_password_is_compared_whole() {
        let credentials = Credentials::parse("me:a:b\n").unwrap();
        assert!(credentials.are("me", "a:b"));
        for (user, password) in
            [("me", "a:c"), ("you", "a:b"), ("me", ""), ("", ""), ("me", "a:bb")]
        {
            assert!(!credentials.are(user, password), "{user}, {password}");
        }
        assert_eq!(format!("{credentials:?}"), "Credentials(..)");
    }

    #[test]
    fn what_is_no_such_line_is_refused() {
        let long = format!("me:{}", "x".repeat(256));
        for text in ["", "me", ":x", "me:", "me:x\nyou:y\n", "me:x\r\n", &long] {
            assert!(Credentials::parse(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth");
        std::fs::write(&path, "me:secret\n").unwrap();
        let mode = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        mode(0o640);
        let error = Credentials::read(&path).unwrap_err().to_string();
        assert!(error.contains("chmod go-rwx") && !error.contains("secret"), "{error}");
        mode(0o600);
        assert!(Credentials::read(&path).unwrap().are("me", "secret"));
    }
}
