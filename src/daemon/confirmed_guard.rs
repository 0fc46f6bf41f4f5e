//! What minimal-firewall.sh closed, as it was confirmed: the file that the script writes, read and never written.

use std::net::IpAddr;
use std::path::Path;

use super::config::{ConfigError, read};
use crate::grant::{Protocol, Service, listed};
use crate::privileged::firewall::guard::Guard;
use crate::profile::ini::Ini;

/// The confirmed choice, in the config directory.
const FILE_NAME: &str = "firewall";
/// The tables that the script makes: with `--only`, and without.
pub(super) const GUARD_TABLES: [&str; 2] = ["knockknock_guard", "knockknock_firewall"];

/// What was confirmed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ConfirmedGuard {
    /// Whether nftables holds it, and not iptables.
    pub(super) nftables: bool,
    /// What is closed, if not everything is.
    pub(super) only: Option<Guard>,
    /// Where everything is closed: what is not.
    pub(super) allow: Vec<Service>,
}

impl ConfirmedGuard {
    /// The table that closes it.
    pub(super) fn table(&self) -> &'static str {
        let [only, all] = GUARD_TABLES;
        if self.only.is_some() { only } else { all }
    }

    /// Whether it closes this port.
    pub(super) fn closes(&self, protocol: Protocol, port: u16) -> bool {
        let names = |list: &[Service]| list.iter().any(|service| service.contains(protocol, port));
        self.only.as_ref().map_or_else(|| !names(&self.allow), |guard| names(&guard.closed))
    }

    /// In words.
    pub(super) fn text(&self) -> String {
        match &self.only {
            Some(guard) => listed(&guard.closed, ", "),
            None if self.allow.is_empty() => "every port".into(),
            None => format!("every port but {}", listed(&self.allow, ", ")),
        }
    }
}

/// Reads what was confirmed. None: nothing was.
pub(super) fn recall(config_dir: &Path) -> Result<Option<ConfirmedGuard>, ConfigError> {
    read(&config_dir.join(FILE_NAME), parse)
}

/// Parses what minimal-firewall.sh wrote.
fn parse(bytes: &[u8]) -> Result<ConfirmedGuard, String> {
    let mut ini = Ini::parse(bytes)?;
    let backend = ini.one_of("backend", &[("nftables", true), ("iptables", false)])?;
    let nftables = backend.ok_or("there is no backend; run minimal-firewall.sh again")?;
    let only = ini.services("only")?;
    let allow = ini.services("allow")?.unwrap_or_default();
    let except = ini.list("except")?.unwrap_or_default();
    let except = except.iter().map(|text| network(text)).collect::<Option<Vec<_>>>();
    let except = except.ok_or_else(|| ini.wrong("except", "write networks, like 192.0.2.0/24"))?;
    let except_interface = ini.list("except_interface")?.unwrap_or_default();
    if except_interface.iter().any(|name| name.len() > 15) {
        return Err(ini.wrong("except_interface", "a name has at most 15 characters"));
    }
    ini.finish()?;
    let only = only.map(|closed| Guard { closed, except, except_interface });
    Ok(ConfirmedGuard { nftables, only, allow })
}

fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length = length.map_or(Some(most), |length| length.parse().ok())?;
    (1..=most).contains(&length).then_some((address, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_script_writes_is_read() {
        let text = "# Made by minimal-firewall.sh; change it with that program.\n[main]\nbackend = nftables\n\
                    only = tcp/22, udp/51820-51830\nexcept = 192.0.2.7, 198.51.100.0/24, 2001:db8::/32\n\
                    except_interface = docker0, br-*\n";
        let service = |protocol, first_port, last_port| Service { protocol, first_port, last_port };
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(
            parse(text.as_bytes()),
            Ok(ConfirmedGuard {
                nftables: true,
                only: Some(Guard {
                    closed: vec![
                        service(Protocol::Tcp, 22, 22),
                        service(Protocol::Udp, 51_820, 51_830)
                    ],
                    except: vec![
                        (address("192.0.2.7"), 32),
                        (address("198.51.100.0"), 24),
                        (address("2001:db8::"), 32),
                    ],
                    except_interface: vec!["docker0".into(), "br-*".into()],
                }),
                allow: vec![],
            })
        );
        let all = parse(b"[main]\nbackend = iptables\nallow = tcp/80\n");
        let allow = vec![service(Protocol::Tcp, 80, 80)];
        assert_eq!(all, Ok(ConfirmedGuard { nftables: false, only: None, allow }));
    }

    #[test]
    fn what_it_does_not_write_is_refused() {
        for (text, named) in [
            ("[main]\nonly = tcp/22\n", "backend"),
            ("[main]\nbackend = pf\n", "backend"),
            ("[main]\nbackend = nftables\nonly = icmp/1\n", "only"),
            ("[main]\nbackend = nftables\nexcept = 192.0.2.0/33\n", "except"),
            ("[main]\nbackend = nftables\nexcept = 192.0.2.0/0\n", "except"),
            (
                "[main]\nbackend = nftables\nexcept_interface = a-name-that-is-too-long\n",
                "except_interface",
            ),
            ("[main]\nbackend = nftables\nonyl = tcp/22\n", "onyl"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn what_is_named_is_closed_or_else_everything_but_what_is_allowed() {
        let ssh = Service { protocol: Protocol::Tcp, first_port: 22, last_port: 22 };
        let guard = Guard { closed: vec![ssh], except: vec![], except_interface: vec![] };
        let only = ConfirmedGuard { nftables: true, only: Some(guard), allow: vec![] };
        assert!(only.closes(Protocol::Tcp, 22) && !only.closes(Protocol::Tcp, 80));
        assert_eq!((only.text().as_str(), only.table()), ("tcp/22", GUARD_TABLES[0]));
        let all = ConfirmedGuard { nftables: true, only: None, allow: vec![ssh] };
        assert!(!all.closes(Protocol::Tcp, 22) && all.closes(Protocol::Tcp, 80));
        assert_eq!((all.text().as_str(), all.table()), ("every port but tcp/22", GUARD_TABLES[1]));
    }
}
