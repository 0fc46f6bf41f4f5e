//! The name and password that the proxy may ask for (RFC 1929), from a file that only its owner reads.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fmt, io};

use ctutils::CtEq;
use zeroize::Zeroizing;

use crate::client::say::reason;

/// What RFC 1929 has room for, each, in bytes.
const MAX_LEN: usize = 255;

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
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// It cannot be read.
    #[error("{0:?}: cannot be read ({why})", why = reason(.1))]
    Unreadable(PathBuf, io::Error),
    /// Other users can read it.
    #[error("{0:?}: others can read it")]
    ReadableByOthers(PathBuf),
    /// It is not one line `user:password`.
    #[error(
        "{0:?}: must be one line, user:password, each of 1 to {MAX_LEN} bytes, without control characters"
    )]
    NotCredentials(PathBuf),
}

impl AuthError {
    /// What to do.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::ReadableByOthers(path) => Some(format!("fix: chmod go-rwx {path:?}")),
            Self::Unreadable(..) | Self::NotCredentials(_) => None,
        }
    }
}

impl Credentials {
    /// Reads the line `user:password` from `path`.
    pub fn read(path: &Path) -> Result<Self, AuthError> {
        let unreadable = |why| AuthError::Unreadable(path.to_owned(), why);
        let file = File::open(path).map_err(unreadable)?;
        if file.metadata().map_err(unreadable)?.mode() & 0o077 != 0 {
            return Err(AuthError::ReadableByOthers(path.to_owned()));
        }
        let mut text = Zeroizing::new(String::with_capacity(4 * MAX_LEN));
        file.take(3 * MAX_LEN as u64).read_to_string(&mut text).map_err(unreadable)?;
        Self::parse(&text).ok_or_else(|| AuthError::NotCredentials(path.to_owned()))
    }

    /// The content of such a file: one line, which may lack its newline. A carriage return at its end comes from an
    /// editor, not from the password, so control characters are refused.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let line = text.strip_suffix('\n').unwrap_or(text);
        let (user, password) = line.split_once(':')?;
        let fits = |part: &str| (1..=MAX_LEN).contains(&part.len());
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
        let error = Credentials::read(&path).unwrap_err();
        assert_eq!(error.hint().unwrap(), format!("fix: chmod go-rwx {path:?}"));
        assert!(!error.to_string().contains("secret"), "{error}");
        mode(0o600);
        assert!(Credentials::read(&path).unwrap().are("me", "secret"));
    }
}
