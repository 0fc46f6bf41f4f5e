//! The guard: what `minimal-firewall.sh` remembers, and whether it is loaded. Who else closes a port is not asked here: only
//! packets tell.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::{fs, io};

use super::Found;
use crate::daemon::config::ServiceText;
use crate::privileged::{self, Protocol, Service};
use crate::profile::{self, Ini};

/// The script's tables: the one that closes a host, and the one that closes some services.
const HOST_TABLE: &str = "knockknock_firewall";
const SERVICES_TABLE: &str = "knockknock_guard";

/// What is closed by choice.
#[derive(Debug)]
pub(super) enum Choice {
    /// These services.
    Only(Vec<Service>),
    /// Everything but these.
    AllBut(Vec<Service>),
}

/// The choice that was confirmed, and where it is loaded.
#[derive(Debug)]
pub(super) struct Remembered {
    pub(super) choice: Choice,
    is_iptables: bool,
}

/// Reads what is remembered in the config directory. None: nothing was confirmed.
fn remembered(path: &Path) -> Result<Option<Remembered>, String> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(why) => return Err(why.to_string()),
    };
    profile::roots_alone(path).map_err(|why| why.to_string())?;
    parse(&bytes).map(Some)
}

fn parse(bytes: &[u8]) -> Result<Remembered, String> {
    let mut ini = Ini::parse(bytes)?;
    let backends = [("nftables", false), ("iptables", true)];
    let is_iptables = ini.one_of("backend", &backends)?.unwrap_or(false);
    let only = services(&mut ini, "only")?;
    let allow = services(&mut ini, "allow")?;
    for key in ["except", "except_interface"] {
        ini.list(key)?;
    }
    ini.finish()?;
    let choice = if only.is_empty() { Choice::AllBut(allow) } else { Choice::Only(only) };
    Ok(Remembered { choice, is_iptables })
}

fn services(ini: &mut Ini, key: &'static str) -> Result<Vec<Service>, String> {
    let texts = ini.list(key)?.unwrap_or_default();
    texts.into_iter().map(|text| ServiceText::try_from(text).map(|service| service.0)).collect()
}

impl Remembered {
    /// Whether it closes this port.
    pub(super) fn closes(&self, protocol: Protocol, port: u16) -> bool {
        let names = |list: &[Service]| list.iter().any(|service| service.contains(protocol, port));
        match &self.choice {
            Choice::Only(only) => names(only),
            Choice::AllBut(allow) => !names(allow),
        }
    }

    fn table(&self) -> &'static str {
        if matches!(self.choice, Choice::Only(_)) { SERVICES_TABLE } else { HOST_TABLE }
    }

    fn text(&self) -> String {
        let list = |services: &[Service]| {
            services
                .iter()
                .map(|service| ServiceText(*service).to_string())
                .collect::<Vec<_>>()
                .join(", ")
        };
        match &self.choice {
            Choice::Only(only) => list(only),
            Choice::AllBut(allow) if allow.is_empty() => "every port".into(),
            Choice::AllBut(allow) => format!("every port but {}", list(allow)),
        }
    }
}

/// Says what is closed by our guard. What is remembered is given back where it is in force, as far as can be seen.
pub(super) fn check(config_dir: &Path, found: &mut Found) -> Option<Remembered> {
    let path: PathBuf = config_dir.join("firewall");
    let remembered = match remembered(&path) {
        Ok(remembered) => remembered,
        Err(why) => {
            found.problem("guard", format_args!("{path:?}: {why}; run minimal-firewall.sh again"));
            return None;
        }
    };
    let tables = privileged::tables().unwrap_or_default();
    let is_loaded = |name: &str| tables.iter().any(|table| table == name);
    match remembered {
        Some(guard) if guard.is_iptables => {
            found.say(
                "guard",
                format_args!("closes {} by iptables, whose rules are not looked at", guard.text()),
            );
            Some(guard)
        }
        Some(guard) if is_loaded(guard.table()) => {
            found.say("guard", format_args!("closes {}: remembered, and loaded", guard.text()));
            Some(guard)
        }
        Some(guard) => {
            found.problem(
                "guard",
                format_args!(
                    "closes {} according to {path:?}, but is not loaded: what it closes can be open to everybody; run: \
                     minimal-firewall.sh --boot",
                    guard.text()
                ),
            );
            None
        }
        None => {
            if is_loaded(HOST_TABLE) || is_loaded(SERVICES_TABLE) {
                found.say(
                    "guard",
                    "WARNING: loaded, but not remembered: the next boot is without it; if nobody is about to confirm it, run \
                     minimal-firewall.sh again",
                );
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_script_remembers_is_read() {
        let text = "# Made by x\n[main]\nbackend = nftables\nonly = tcp/22, udp/51820\nexcept = 192.0.2.0/24\n";
        let guard = parse(text.as_bytes()).unwrap();
        assert_eq!((guard.table(), guard.text().as_str()), (SERVICES_TABLE, "tcp/22, udp/51820"));
        assert!(guard.closes(Protocol::Tcp, 22) && !guard.closes(Protocol::Tcp, 80));
        let text = "[main]\nbackend = iptables\nallow = tcp/80\nexcept_interface = br-*\n";
        let guard = parse(text.as_bytes()).unwrap();
        assert_eq!((guard.table(), guard.is_iptables), (HOST_TABLE, true));
        assert!(guard.closes(Protocol::Tcp, 22) && !guard.closes(Protocol::Tcp, 80));
        assert!(parse(b"[main]\nbackend = nftables\nonyl = tcp/22\n").is_err());
    }
}
