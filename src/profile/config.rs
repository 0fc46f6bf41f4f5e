//! A profile's `config`: the original's INI file, with keys of ours in the same syntax.

use std::path::Path;

use super::error::ProfileError;
use super::ini::Ini;
use crate::layout::Request;
use crate::layout::keys::Layout;

/// What a profile's `config` says, below `[main]`. The same file serves both ends: each reads what is its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileConfig {
    /// The port that knocks are sent to: closed, 1 to 65535. Only in the stealth layout it can be missing: a knock then
    /// goes to the port that it asks for.
    pub knock_port: Option<u16>,
    /// Which layout its knocks have. Without it: classic.
    pub layout: Layout,
    /// Stealth: a knock is good from the address alone that it is sent from.
    pub bind_source: bool,
    /// Client: the address to knock at, where the profile's name does not resolve to it.
    pub address: Option<String>,
    /// The port that a knock asks for when nobody names one.
    pub port: Option<u16>,
    /// Server: what this profile may ask for, like `tcp/22, tcp/8000-8010`. Narrows the server's own list.
    pub allow: Option<Vec<String>>,
}

impl ProfileConfig {
    /// The port that a knock for `request` goes to. `None`: the request names no port, and neither does the config.
    #[must_use]
    pub fn knock_port_for(&self, request: Request) -> Option<u16> {
        self.knock_port.or(Some(request.0).filter(|port| *port != 0))
    }

    /// Parses the bytes of a `config`; `path` is for the error.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, ProfileError> {
        Self::read(bytes).map_err(|why| ProfileError::BadConfig(path.to_owned(), why))
    }

    fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut ini = Ini::parse(bytes)?;
        let knock_port = ini.number("knock_port", 1..=u16::MAX)?;
        let layout = ini.one_of("layout", &Layout::NAMES)?.unwrap_or_default();
        let bind_source = ini.flag("bind_source")?;
        if bind_source.is_some() && layout != Layout::Stealth {
            return Err(ini.wrong("bind_source", "only a knock with layout = stealth can be bound"));
        }
        let address = ini.name("address")?;
        let port = ini.number("port", 1..=u16::MAX)?;
        let allow = ini.list("allow")?;
        if allow.as_ref().is_some_and(Vec::is_empty) {
            let why = "it names nothing\nfix: name what may be asked for, like tcp/22, or remove the line";
            return Err(ini.wrong("allow", why));
        }
        // First: a key that is not known may be the one that is missing.
        ini.finish()?;
        if knock_port.is_none() && layout == Layout::Classic {
            return Err("knock_port is missing\nfix: write knock_port = PORT below [main]".into());
        }
        let bind_source = bind_source.unwrap_or_default();
        Ok(Self { knock_port, layout, bind_source, address, port, allow })
    }
}
