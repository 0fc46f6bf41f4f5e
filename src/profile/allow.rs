//! The line `allow` in the server's `config`, which `knock-genprofile` writes where there is none, and what the firewall
//! script remembers beside it. Changes no other byte of `config`, and that file as a whole or not at all.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::process;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::error::CreateError;
use super::ini::Ini;
use crate::grant::{Service, listed};

/// What `config` says of a new profile's services, which it limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InConfig {
    /// It named nothing, and names the profile's services now.
    Written,
    /// It is as it was.
    Kept {
        /// What it names. None: any TCP port may be asked for.
        allow: Option<Vec<Service>>,
        /// What the profile may ask for, but nobody can have.
        missing: Vec<Service>,
    },
}

/// What is to become of `config`. Dropped, nothing.
pub(super) enum ConfigUpdate {
    Keep(InConfig),
    Replace(Replacement),
}

impl ConfigUpdate {
    /// Reads `config` in `config_dir`, and prepares what has to be written for `allow`; nothing: whatever there is.
    pub(super) fn prepare(config_dir: &Path, allow: &[Service]) -> Result<Self, CreateError> {
        let path = config_dir.join("config");
        let failed = |why| CreateError::Io(path.clone(), why);
        let wrong = |why| CreateError::BadConfig(path.clone(), why);
        let old = match fs::read(&path) {
            Ok(bytes) => Some(bytes),
            Err(why) if why.kind() == io::ErrorKind::NotFound => None,
            Err(why) => return Err(failed(why)),
        };
        let bytes = old.as_deref().unwrap_or_default();
        let named = named(bytes, "allow").map_err(wrong)?;
        if named.is_some() || allow.is_empty() {
            let is_missing = |one: &Service| named.as_ref().is_some_and(|all| !one.is_in(all));
            let missing = allow.iter().copied().filter(is_missing).collect();
            return Ok(Self::Keep(InConfig::Kept { allow: named, missing }));
        }
        let new = with_allow(bytes, &listed(allow, ", ")).map_err(wrong)?;
        Replacement::prepare(&path, old.is_some(), &new).map(Self::Replace).map_err(failed)
    }

    /// Does it.
    pub(super) fn carry_out(self) -> Result<InConfig, CreateError> {
        match self {
            Self::Keep(kept) => Ok(kept),
            Self::Replace(new) => {
                new.put().map_err(|why| CreateError::Io(new.path.clone(), why))?;
                Ok(InConfig::Written)
            }
        }
    }
}

/// A new `config`, on the disk under another name. Removed when it is dropped before it is put in its place.
pub(super) struct Replacement {
    path: PathBuf,
    hidden: PathBuf,
    replaces: bool,
}

impl Replacement {
    fn prepare(path: &Path, replaces: bool, content: &[u8]) -> io::Result<Self> {
        // A symbolic link stays one.
        let path = if replaces { path.canonicalize()? } else { path.to_owned() };
        let hidden = path.with_file_name(format!(".config.new-{}", process::id()));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&hidden)?;
        let new = Self { path, hidden, replaces };
        if replaces {
            let old = new.path.metadata()?;
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
            file.set_permissions(Permissions::from_mode(old.mode() & 0o7777))?;
        } else {
            // What the umask took away from the owner.
            file.set_permissions(Permissions::from_mode(0o600))?;
        }
        file.write_all(content)?;
        file.sync_all()?;
        Ok(new)
    }

    fn put(&self) -> io::Result<()> {
        let how = if self.replaces { RenameFlags::empty() } else { RenameFlags::RENAME_NOREPLACE };
        renameat2(AT_FDCWD, &self.hidden, AT_FDCWD, &self.path, how)?;
        File::open(self.path.parent().unwrap_or(Path::new("/")))?.sync_all()
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        // After the rename there is nothing under this name.
        let _ = fs::remove_file(&self.hidden);
    }
}

/// The services that `key` names, where it is there.
fn named(bytes: &[u8], key: &'static str) -> Result<Option<Vec<Service>>, String> {
    Ini::parse(bytes)?.services(key)
}

/// The file with one line more: below the line `[main]`, else where that section ends. Whoever reads it must find what
/// was there before, and `allow`.
fn with_allow(bytes: &[u8], value: &str) -> Result<Vec<u8>, String> {
    let before = Ini::parse(bytes)?;
    for (at, line) in places(bytes, value) {
        let (above, below) = bytes.split_at(at);
        let new = [above, line.as_bytes(), below].concat();
        if Ini::parse(&new).is_ok_and(|after| after.is_same_and(&before, "allow", value)) {
            return Ok(new);
        }
    }
    Err(format!("found no place for it\nfix: write below [main]: allow = {value}"))
}

/// Where the line could go, and what it is there.
fn places(bytes: &[u8], value: &str) -> Vec<(usize, String)> {
    let end_of_line = if bytes.windows(2).any(|two| two == b"\r\n") { "\r\n" } else { "\n" };
    let line = |above: &str, at: usize| {
        let is_begun =
            bytes.get(..at).is_some_and(|before| !before.is_empty() && !before.ends_with(b"\n"));
        let begin = if is_begun { end_of_line } else { "" };
        (at, format!("{begin}{above}allow = {value}{end_of_line}"))
    };
    let (mut at, mut main, mut end) = (0, None, None);
    for text in bytes.split_inclusive(|byte| *byte == b'\n') {
        let text_at = at;
        at += text.len();
        let Some(section) = section(text) else { continue };
        if main.is_none() && section.eq_ignore_ascii_case("main") {
            main = Some(at);
        } else if main.is_some() && end.is_none() {
            end = Some(text_at);
        }
    }
    match main {
        Some(main) => vec![line("", main), line("", end.unwrap_or(bytes.len()))],
        None => vec![line(&format!("[main]{end_of_line}"), bytes.len())],
    }
}

/// The section that a line begins.
fn section(line: &[u8]) -> Option<&str> {
    let line =
        line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line).trim_ascii().strip_prefix(b"[")?;
    let end = line.iter().position(|byte| *byte == b']')?;
    std::str::from_utf8(line.get(..end)?).ok().map(str::trim)
}

/// The choice of a firewall that `minimal-firewall.sh` remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FirewallChoice {
    /// Where it stands.
    pub(crate) path: PathBuf,
    only: Option<Vec<Service>>,
    allow: Vec<Service>,
}

impl FirewallChoice {
    /// What is remembered in `config_dir`. None: nothing is.
    #[must_use]
    pub(crate) fn remembered(config_dir: &Path) -> Option<Self> {
        let path = config_dir.join("firewall");
        let bytes = fs::read(&path).ok()?;
        let list = |key| named(&bytes, key).ok().flatten();
        Some(Self { path, only: list("only"), allow: list("allow").unwrap_or_default() })
    }

    /// Which of these it leaves open to everybody.
    #[must_use]
    pub(crate) fn leaves_open(&self, services: &[Service]) -> Vec<Service> {
        let is_open = |service: &&Service| match &self.only {
            Some(closed) => !service.is_in(closed),
            None => self.allow.iter().any(|open| open.overlaps(**service)),
        };
        services.iter().filter(is_open).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUE: &str = "tcp/22, udp/51820";

    #[test]
    fn one_line_is_added_and_no_other_byte_changes() {
        for (before, after) in [
            ("", "[main]\n+"),
            ("# nothing yet\n", "# nothing yet\n[main]\n+"),
            ("[main]", "[main]\n+"),
            ("[main]\ndelay = 30\n", "[main]\n+delay = 30\n"),
            (
                "# a\n\n[MAIN] ; b\n# allow = tcp/1\ndelay: 30",
                "# a\n\n[MAIN] ; b\n+# allow = tcp/1\ndelay: 30",
            ),
            ("\u{feff}[main]\nipv6 = no\n", "\u{feff}[main]\n+ipv6 = no\n"),
            ("[main]\r\ndelay = 30\r\n", "[main]\r\nallow = tcp/22, udp/51820\r\ndelay = 30\r\n"),
            (
                "[DEFAULT]\ndelay = 1\n[main]\n\nuser = x\n",
                "[DEFAULT]\ndelay = 1\n[main]\n+\nuser = x\n",
            ),
            // The first line would be taken for more of `allow`.
            (
                "[main]\n  delay = 30\n[DEFAULT]\nuser = x\n",
                "[main]\n  delay = 30\n+[DEFAULT]\nuser = x\n",
            ),
            ("[main]\n  delay = 30", "[main]\n  delay = 30\n+"),
        ] {
            let expected = after.replace('+', "allow = tcp/22, udp/51820\n");
            let made = with_allow(before.as_bytes(), VALUE).unwrap();
            assert_eq!(String::from_utf8(made).unwrap(), expected, "{before:?}");
        }
        let latin = b"[main]\n# f\xfcnf\ndelay = 5\n";
        let made = with_allow(latin, "tcp/1").unwrap();
        assert_eq!(made, b"[main]\nallow = tcp/1\n# f\xfcnf\ndelay = 5\n");
        assert!(with_allow(b"delay = 3\n", VALUE).is_err());
    }

    #[test]
    fn a_remembered_choice_says_what_stays_open() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(FirewallChoice::remembered(dir.path()), None);
        let services = ["tcp/22", "udp/51820"].map(|text| text.parse::<Service>().unwrap());
        for (line, open) in [
            ("only = tcp/22", "udp/51820"),
            ("only = tcp/20-30, udp/51820", ""),
            ("allow = tcp/80, tcp/20-23", "tcp/22"),
            ("except = 192.0.2.0/24", ""),
        ] {
            let text = format!("# Made by it\n[main]\nbackend = nftables\n{line}\n");
            fs::write(dir.path().join("firewall"), text).unwrap();
            let choice = FirewallChoice::remembered(dir.path()).unwrap();
            assert_eq!(listed(&choice.leaves_open(&services), " "), open, "{line}");
        }
    }
}
