//! A profile's `config`: the original's INI file, with keys of ours in the same syntax.

use std::path::Path;

use super::error::ProfileError;
use super::ini::Ini;

/// What a profile's `config` says, below `[main]`. The same file serves both ends: each reads what is its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileConfig {
    /// The port that knocks are sent to: closed, 1 to 65535, of one profile only.
    pub knock_port: u16,
    /// Which layout its knocks have. Without it: classic.
    pub layout: Layout,
    /// Client: the address to knock at, where the profile's name does not resolve to it.
    pub address: Option<String>,
    /// The port that a knock asks for when nobody names one.
    pub port: Option<u16>,
    /// Server: what this profile may ask for, like `tcp/22, tcp/8000-8010`. Narrows the server's own list.
    pub allow: Option<Vec<String>>,
}

/// The layouts that there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// The protocol of knockknock 0.8.
    #[default]
    Classic,
}

impl ProfileConfig {
    /// Parses the bytes of a `config`; `path` is for the error.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, ProfileError> {
        Self::read(bytes).map_err(|why| ProfileError::BadConfig(path.to_owned(), why))
    }

    fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut ini = Ini::parse(bytes)?;
        let knock_port = ini.number("knock_port", 1..=u16::MAX)?;
        let layout = ini.one_of("layout", &[("classic", Layout::Classic)])?.unwrap_or_default();
        let address = ini.name("address")?;
        let port = ini.number("port", 1..=u16::MAX)?;
        let allow = ini.list("allow")?;
        if allow.as_ref().is_some_and(Vec::is_empty) {
            let why = "it names nothing\nfix: name what may be asked for, like tcp/22, or remove the line";
            return Err(ini.wrong("allow", why));
        }
        // First: a key that is not known may be the one that is missing.
        ini.finish()?;
        let knock_port =
            knock_port.ok_or("knock_port is missing\nfix: write knock_port = PORT below [main]")?;
        Ok(Self { knock_port, layout, address, port, allow })
    }
}
