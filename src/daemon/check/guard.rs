//! The guard: what `minimal-firewall.sh` remembers, and whether it is loaded. Who else closes a port is not asked here: only
//! packets tell.

use std::path::Path;

use super::Found;
use crate::daemon::config::ServiceText;
use crate::daemon::guard::{Remembered, TABLES, recall};
use crate::privileged::{self, Protocol, Service};

impl Remembered {
    /// Whether it closes this port.
    pub(super) fn closes(&self, protocol: Protocol, port: u16) -> bool {
        let names = |list: &[Service]| list.iter().any(|service| service.contains(protocol, port));
        self.only.as_ref().map_or_else(|| !names(&self.allow), |guard| names(&guard.closed))
    }

    fn text(&self) -> String {
        let list = |services: &[Service]| {
            services
                .iter()
                .map(|service| ServiceText(*service).to_string())
                .collect::<Vec<_>>()
                .join(", ")
        };
        match &self.only {
            Some(guard) => list(&guard.closed),
            None if self.allow.is_empty() => "every port".into(),
            None => format!("every port but {}", list(&self.allow)),
        }
    }
}

/// Says what is closed by our guard. What is remembered is given back where it is in force, as far as can be seen.
pub(super) fn check(config_dir: &Path, found: &mut Found) -> Option<Remembered> {
    let remembered = match recall(config_dir) {
        Ok(remembered) => remembered,
        Err(why) => {
            found.problem("guard", format_args!("{why}; run minimal-firewall.sh again"));
            return None;
        }
    };
    let tables = privileged::tables().unwrap_or_default();
    let is_loaded = |name: &str| tables.iter().any(|table| table == name);
    match remembered {
        Some(guard) if !guard.nftables => {
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
                    "closes {} by what was confirmed, but is not loaded: what it closes can be open to everybody; run: \
                     minimal-firewall.sh --boot",
                    guard.text()
                ),
            );
            None
        }
        None => {
            if TABLES.into_iter().any(is_loaded) {
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
    use crate::privileged::Guard;

    #[test]
    fn what_is_named_is_closed_or_else_everything_but_what_is_allowed() {
        let ssh = Service { protocol: Protocol::Tcp, first_port: 22, last_port: 22 };
        let guard = Guard { closed: vec![ssh], except: vec![], except_interface: vec![] };
        let only = Remembered { nftables: true, only: Some(guard), allow: vec![] };
        assert!(only.closes(Protocol::Tcp, 22) && !only.closes(Protocol::Tcp, 80));
        assert_eq!((only.text().as_str(), only.table()), ("tcp/22", TABLES[0]));
        let all = Remembered { nftables: true, only: None, allow: vec![ssh] };
        assert!(!all.closes(Protocol::Tcp, 22) && all.closes(Protocol::Tcp, 80));
        assert_eq!((all.text().as_str(), all.table()), ("every port but tcp/22", TABLES[1]));
    }
}
