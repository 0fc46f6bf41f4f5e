//! A profile's `config`: an INI file of the original that is also TOML, so one TOML reader serves.

use std::path::Path;

use serde::Deserialize;

use super::ProfileError;

/// What a profile's `config` says, below `[main]`. The same file serves both ends: each reads what is its own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileConfig {
    /// The port that knocks are sent to: closed, 1 to 65535, of one profile only.
    pub knock_port: u16,
    /// Which layout its knocks have. Without it: classic.
    #[serde(default)]
    pub layout: Layout,
    /// Client: the address to knock at, where the profile's name does not resolve to it.
    pub address: Option<String>,
    /// The port that a knock asks for when nobody names one.
    pub port: Option<u16>,
    /// Server: what this profile may ask for, like `["tcp/22", "tcp/8000-8010"]`. Narrows the server's own list.
    pub allow: Option<Vec<String>>,
}

/// The layouts that there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// The protocol of knockknock 0.8.
    #[default]
    Classic,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    main: ProfileConfig,
}

impl ProfileConfig {
    /// Parses the bytes of a `config`; `path` is for the error.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, ProfileError> {
        let bad = |why| ProfileError::BadConfig(path.to_owned(), why);
        let config = from_toml::<File>(bytes).map_err(bad)?.main;
        if config.knock_port == 0 {
            return Err(bad("knock_port is 0; a port is 1 to 65535".into()));
        }
        if config.port == Some(0) {
            return Err(bad("port is 0; a port is 1 to 65535".into()));
        }
        Ok(config)
    }
}

/// Parses TOML and, where it cannot, says so in one line with the line's number.
pub(crate) fn from_toml<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let text = str::from_utf8(bytes).map_err(|_| "not text (UTF-8)".to_owned())?;
    toml::from_str(text).map_err(|error| {
        let line = error
            .span()
            .and_then(|span| text.get(..span.start))
            .map_or(1, |before| before.split('\n').count());
        format!("line {line}: {}", error.message().escape_debug())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ProfileConfig, String> {
        ProfileConfig::parse(text.as_bytes(), Path::new("/p/config"))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_original_s_config_is_read() {
        let config = parse("[main]\nknock_port = 1622\n\n").unwrap();
        assert_eq!((config.knock_port, config.layout, config.port), (1622, Layout::Classic, None));
    }

    #[test]
    fn an_unknown_key_is_refused_by_name_and_line() {
        let error = parse("[main]\nknock_port = 1622\nknok = 1\n").unwrap_err();
        assert!(
            error.contains("/p/config") && error.contains("line 3") && error.contains("knok"),
            "{error}"
        );
    }

    #[test]
    fn ports_out_of_range_and_unknown_layouts_are_refused() {
        for text in [
            "[main]\nknock_port = 0\n",
            "[main]\nknock_port = 65536\n",
            "[main]\nknock_port = -1\n",
            "[main]\nknock_port = 5\nport = 0\n",
            "[main]\nknock_port = 5\nlayout = \"other\"\n",
            "[main]\n",
            "knock_port = 5\n",
            "",
            "\u{0}",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
