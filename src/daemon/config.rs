//! `config` in the config directory: root's limits on what may be granted. The original's keys are `delay` and
//! `error_window`; ours are in the same syntax.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use thiserror::Error;

use crate::grant::Service;
use crate::profile::checked_file::{FileError, read_checked};
use crate::profile::ini::Ini;
use crate::profile::roots::{NotRoots, roots_alone};

/// The largest `delay`, in seconds: half a day. Who needs longer should use a firewall rule.
const MAX_DELAY: u16 = 12 * 60 * 60;

/// The largest config, in bytes; real ones are much smaller.
const MAX_LEN: u64 = 64 * 1024;

/// The values of `config` below `[main]`. Without a file, all have their defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long a port stays open for the connection that follows, in seconds.
    pub delay: u16,
    /// How many knocks in a row may be lost, in counters.
    pub error_window: u32,
    /// What the firewall's log lines begin with.
    pub log_prefix: String,
    /// Where to read: a path, `kmsg` or `auto`.
    pub log: String,
    /// What opens ports.
    pub firewall: FirewallKind,
    /// Who logs the knocks.
    pub log_rule: LogRule,
    /// What a grant for TCP ends with, beside its time.
    pub spend: SpendOn,
    /// Whom to run as. None: `knockknock` if there is such a user, else `nobody`.
    pub user: Option<String>,
    /// What may be asked for, like `tcp/22` or `tcp/8000-8010`. None: any TCP port.
    pub allow: Option<Vec<Service>>,
    /// Whether IPv4 addresses are let in.
    pub ipv4: bool,
    /// Whether IPv6 addresses are let in.
    pub ipv6: bool,
    /// How many grants may be open at once.
    pub max_open: usize,
    /// How many grants one address, or one /64 of IPv6, may have open at once.
    pub max_open_per_source: usize,
    /// How many grants one profile may have open at once.
    pub max_open_per_profile: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            delay: 15,
            error_window: 20,
            log_prefix: "REJECT ".into(),
            log: "auto".into(),
            firewall: FirewallKind::default(),
            log_rule: LogRule::default(),
            spend: SpendOn::default(),
            user: None,
            allow: None,
            ipv4: true,
            ipv6: true,
            max_open: 1024,
            max_open_per_source: 16,
            max_open_per_profile: 64,
        }
    }
}

/// What opens ports; each through netlink, without running a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FirewallKind {
    /// Conntrack expectations, else a set and a mark.
    #[default]
    Auto,
    /// Conntrack expectations, which every firewall that accepts `ESTABLISHED,RELATED` lets in.
    Conntrack,
    /// A set of our own, and a mark that other firewalls have to accept.
    Nftables,
}

impl FirewallKind {
    /// As it is written.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Conntrack => "conntrack",
            Self::Nftables => "nftables",
        }
    }
}

/// Who logs the knocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogRule {
    /// Our own table, before every firewall.
    #[default]
    Own,
    /// A LOG rule in somebody else's firewall.
    Firewall,
}

impl LogRule {
    /// What each is called in `config`.
    const NAMES: [(&str, Self); 2] = [("own", Self::Own), ("firewall", Self::Firewall)];
}

/// What a grant for TCP ends with, beside its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpendOn {
    /// The first established connection: a packet with a forged source cannot use the grant up.
    #[default]
    Handshake,
    /// The first SYN: exactly one, whoever sent it.
    Syn,
}

impl SpendOn {
    /// What each is called in `config`.
    const NAMES: [(&str, Self); 2] = [("handshake", Self::Handshake), ("syn", Self::Syn)];
}

impl FromStr for FirewallKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "conntrack" => Ok(Self::Conntrack),
            "nftables" => Ok(Self::Nftables),
            "iptables" => Err(
                "the back end iptables is gone\nfix: remove the line: conntrack, the default, opens \
                 ports in any firewall that accepts ESTABLISHED,RELATED, made by iptables or not"
                    .into(),
            ),
            _ => Err(format!(
                "there is no back end {text:?}\nfix: use auto, conntrack or nftables"
            )),
        }
    }
}

impl Config {
    /// Reads `config` in `config_dir`. Root acts on what it says, so it must be root's alone to write.
    pub(crate) fn load(config_dir: &Path) -> Result<Self, ConfigError> {
        Ok(read(&config_dir.join("config"), Self::parse)?.unwrap_or_default())
    }

    /// Parses the bytes of a `config`.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut ini = Ini::parse(bytes)?;
        let default = Self::default();
        let max_open = ini.number("max_open", 1..=65_536)?.unwrap_or(default.max_open);
        let config = Self {
            delay: ini.number("delay", 1..=MAX_DELAY)?.unwrap_or(default.delay),
            // Each counter of the window costs every junk knock a decryption and a MAC.
            error_window: ini.number("error_window", 1..=1_000)?.unwrap_or(default.error_window),
            log_prefix: ini.text("log_prefix")?.unwrap_or(default.log_prefix),
            log: ini.name("log")?.unwrap_or(default.log),
            firewall: firewall(&mut ini)?.unwrap_or(default.firewall),
            log_rule: ini.one_of("log_rule", &LogRule::NAMES)?.unwrap_or(default.log_rule),
            spend: ini.one_of("spend", &SpendOn::NAMES)?.unwrap_or(default.spend),
            user: ini.name("user")?,
            allow: services(&mut ini)?,
            ipv4: ini.flag("ipv4")?.unwrap_or(default.ipv4),
            ipv6: ini.flag("ipv6")?.unwrap_or(default.ipv6),
            max_open,
            max_open_per_source: ini
                .number("max_open_per_source", 1..=max_open)?
                .unwrap_or(default.max_open_per_source.min(max_open)),
            max_open_per_profile: ini
                .number("max_open_per_profile", 1..=max_open)?
                .unwrap_or(default.max_open_per_profile.min(max_open)),
        };
        // The kernel cuts a prefix at 127 bytes (NF_LOG_PREFIXLEN); a longer one would never be found.
        if config.log_prefix.len() > 127 {
            return Err(ini.wrong("log_prefix", "it may have 127 bytes at the most"));
        }
        ini.finish()?;
        Ok(config)
    }
}

/// A file in the config directory, read whole and parsed. None: there is none.
pub(super) fn read<T>(
    path: &Path,
    parse: impl FnOnce(&[u8]) -> Result<T, String>,
) -> Result<Option<T>, ConfigError> {
    // The end of a config may restrict what its beginning allows, so a file that is too large is an error.
    let file = match read_checked(path, MAX_LEN) {
        Err(FileError::Unreadable(_, why)) if why.kind() == ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    roots_alone(path)?;
    parse(&file.bytes).map(Some).map_err(|why| ConfigError::Wrong(path.to_owned(), why))
}

fn firewall(ini: &mut Ini) -> Result<Option<FirewallKind>, String> {
    let name = ini.name("firewall")?;
    name.map(|name| name.parse().map_err(|why: String| ini.wrong("firewall", &why))).transpose()
}

/// What `allow` names, which is at least one service.
fn services(ini: &mut Ini) -> Result<Option<Vec<Service>>, String> {
    let Some(services) = ini.services("allow")? else { return Ok(None) };
    if services.is_empty() {
        let why = "it names nothing, so no knock could open a port\nfix: name a service, like tcp/22, or remove the line";
        return Err(ini.wrong("allow", why));
    }
    Ok(Some(services))
}

/// Why there is no config to go by.
#[derive(Debug, Error)]
pub(crate) enum ConfigError {
    /// It cannot be read, or is not what it must be.
    #[error(transparent)]
    File(#[from] FileError),
    /// Somebody else than root could change it.
    #[error(transparent)]
    NotRoots(#[from] NotRoots),
    /// It does not say what a config may say.
    #[error("{0:?}: {1}")]
    Wrong(PathBuf, String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grant::Protocol;

    #[test]
    fn a_config_is_read_whole_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("[main]\n#{}\nipv6 = false\n", " ".repeat(65_536));
        std::fs::write(dir.path().join("config"), text).unwrap();
        let error = Config::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("larger than 65536 bytes"), "{error}");
    }

    #[test]
    fn services_are_read() {
        let config = Config::parse(b"[main]\nallow = [\"tcp/22\", \"udp/60000-61000\"]\n").unwrap();
        assert_eq!(
            config.allow.unwrap(),
            [
                Service { protocol: Protocol::Tcp, first_port: 22, last_port: 22 },
                Service { protocol: Protocol::Udp, first_port: 60_000, last_port: 61_000 },
            ]
        );
    }
}
