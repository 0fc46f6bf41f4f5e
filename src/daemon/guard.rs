//! What minimal-firewall.sh closed, as far as this daemon has to know: it reads the choice that was confirmed, holds a copy
//! of the guard in its own table, and says where a service is open to everybody.

use std::net::IpAddr;
use std::path::Path;

use super::config::{ServiceText, read};
use super::say;
use super::setup::Setup;
use crate::privileged::{self, Firewall, Guard, Service};
use crate::profile::Ini;

/// The confirmed choice, in the config directory.
const FILE: &str = "firewall";
/// The tables that the script makes: with `--only`, and without.
pub(super) const TABLES: [&str; 2] = ["knockknock_guard", "knockknock_firewall"];

/// What was confirmed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Remembered {
    /// Whether nftables holds it, and not iptables.
    pub(super) nftables: bool,
    /// What is closed, if not everything is.
    pub(super) only: Option<Guard>,
    /// Where everything is closed: what is not.
    pub(super) allow: Vec<Service>,
}

impl Remembered {
    /// The table that closes it.
    pub(super) fn table(&self) -> &'static str {
        let [only, all] = TABLES;
        if self.only.is_some() { only } else { all }
    }
}

/// What there is to say of what closes the services.
enum State {
    /// Nothing is wrong that can be seen from here.
    Note(String),
    /// Something is open that should not be.
    Problem(String),
}

/// Puts the guard into `firewall`, our own table, where a choice was confirmed, and says what is so. That our copy cannot
/// be made keeps nobody out and lets nobody in: the script's own table is what closes.
pub(super) fn hold(setup: &Setup, mut firewall: Firewall) -> Firewall {
    let remembered = recall(&setup.config_dir);
    match look(setup, &remembered) {
        State::Note(note) => {
            say::detail(setup.verbose || remembered == Ok(None), format_args!("guard: {note}"));
        }
        State::Problem(problem) => say::event(format_args!("guard: {problem}")),
    }
    let Ok(Some(remembered)) = remembered else { return firewall };
    let why_not = match &remembered.only {
        _ if !remembered.nftables => Some("it was made with --iptables".to_owned()),
        None => Some("everything is closed, and the copy is for --only".to_owned()),
        Some(guard) if !guard.fits() => {
            Some(format!("it names more than {} services and exceptions", Guard::MOST))
        }
        Some(_) if firewall.conntrack_helpers().is_none() => {
            Some("with firewall = \"nftables\" it would refuse who has knocked; so does the guard itself".to_owned())
        }
        Some(_) if !firewall.has_table() => Some("this kernel has no nf_tables".to_owned()),
        Some(guard) => firewall.guard(guard).err().map(|errno| errno.desc().to_owned()),
    };
    match why_not {
        None => say::event(
            "guard: held here too; nobody else's `nft flush ruleset` opens what it closes",
        ),
        Some(why) => say::event(format_args!(
            "guard: not held here, so whoever flushes the firewall opens it: {why}"
        )),
    }
    firewall
}

/// Reads what was confirmed. None: nothing was.
pub(super) fn recall(config_dir: &Path) -> Result<Option<Remembered>, String> {
    read(&config_dir.join(FILE), parse).map_err(|error| error.to_string())
}

fn look(setup: &Setup, remembered: &Result<Option<Remembered>, String>) -> State {
    let remembered = match remembered {
        Err(why) => {
            return State::Problem(format!("not known, so what it closes may be open: {why}"));
        }
        Ok(None) => {
            return State::Note(format!(
                "no service is closed by minimal-firewall.sh; if no other firewall closes it, {} open to everybody",
                services(setup)
            ));
        }
        Ok(Some(remembered)) => remembered,
    };
    let table = remembered.table();
    let closed =
        remembered.only.as_ref().map_or_else(|| services(setup), |guard| listed(&guard.closed));
    if !remembered.nftables {
        return State::Note(format!(
            "{closed} closed with iptables, as far as what was confirmed says"
        ));
    }
    match privileged::tables().map(|tables| tables.iter().any(|name| name == table)) {
        Ok(true) => State::Note(format!("{closed} closed by table inet {table}")),
        Ok(false) => State::Problem(format!(
            "what was confirmed is not loaded (there is no table inet {table}): if nothing else closes it, {closed} \
             open to everybody; run minimal-firewall.sh --boot"
        )),
        Err(errno) => State::Problem(format!("cannot list tables: {}", errno.desc())),
    }
}

/// What a knock is for, as far as the config says.
fn services(setup: &Setup) -> String {
    let allow = setup.config.allow.as_ref();
    let named = allow.map(|allow| allow.iter().map(|text| text.0).collect::<Vec<_>>());
    named.map_or_else(|| "every service is".to_owned(), |named| listed(&named))
}

/// With the verb.
fn listed(services: &[Service]) -> String {
    let names: Vec<_> = services.iter().map(|service| ServiceText(*service).to_string()).collect();
    format!("{} {}", names.join(", "), if names.len() == 1 { "is" } else { "are" })
}

/// Parses what minimal-firewall.sh wrote.
fn parse(bytes: &[u8]) -> Result<Remembered, String> {
    let mut ini = Ini::parse(bytes)?;
    let backend = ini.one_of("backend", &[("nftables", true), ("iptables", false)])?;
    let nftables = backend.ok_or("there is no backend; run minimal-firewall.sh again")?;
    let only = services_in(&mut ini, "only")?;
    let allow = services_in(&mut ini, "allow")?.unwrap_or_default();
    let except = ini.list("except")?.unwrap_or_default();
    let except = except.iter().map(|text| network(text)).collect::<Option<Vec<_>>>();
    let except = except.ok_or_else(|| ini.wrong("except", "write networks, like 192.0.2.0/24"))?;
    let except_interface = ini.list("except_interface")?.unwrap_or_default();
    if except_interface.iter().any(|name| name.len() > 15) {
        return Err(ini.wrong("except_interface", "a name has at most 15 characters"));
    }
    ini.finish()?;
    let only = only.map(|closed| Guard { closed, except, except_interface });
    Ok(Remembered { nftables, only, allow })
}

fn services_in(ini: &mut Ini, key: &'static str) -> Result<Option<Vec<Service>>, String> {
    let Some(texts) = ini.list(key)? else { return Ok(None) };
    let services = texts.into_iter().map(|text| ServiceText::try_from(text).map(|text| text.0));
    services.collect::<Result<_, _>>().map(Some).map_err(|why: String| ini.wrong(key, &why))
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
    use crate::privileged::Protocol;

    #[test]
    fn what_the_script_writes_is_read() {
        let text = "# Made by minimal-firewall.sh; change it with that program.\n[main]\nbackend = nftables\n\
                    only = tcp/22, udp/51820-51830\nexcept = 192.0.2.7, 198.51.100.0/24, 2001:db8::/32\n\
                    except_interface = docker0, br-*\n";
        let service = |protocol, first_port, last_port| Service { protocol, first_port, last_port };
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(
            parse(text.as_bytes()),
            Ok(Remembered {
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
        assert_eq!(all, Ok(Remembered { nftables: false, only: None, allow }));
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
}
