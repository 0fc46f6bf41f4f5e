//! The guard: reports which services are open to everybody, and puts a copy of the rules that close them into our own
//! table.

use super::config::ConfigError;
use super::confirmed_guard::{ConfirmedGuard, recall};
use super::say;
use super::settings::Settings;
use crate::grant::{self, Service};
use crate::privileged::firewall::Firewall;
use crate::privileged::firewall::guard::Guard;
use crate::privileged::firewall::tables::tables;

/// What there is to say of what closes the services.
enum State {
    /// No error was found.
    Note(String),
    /// A service is open that should be closed.
    Problem(String),
}

/// If minimal-firewall.sh has confirmed a choice, puts a copy of the guard into `firewall`, our own table, and reports
/// the state. A failure is not fatal: the script's own table closes the services.
pub(super) fn hold(settings: &Settings, mut firewall: Firewall) -> Firewall {
    let remembered = recall(&settings.config_dir);
    match look(settings, &remembered) {
        State::Note(note) => {
            say::detail(
                settings.verbose || matches!(remembered, Ok(None)),
                format_args!("guard: {note}"),
            );
        }
        State::Problem(problem) => say::event(format_args!("guard: {problem}")),
    }
    let Ok(Some(remembered)) = remembered else { return firewall };
    let why_not = match &remembered.only {
        _ if !remembered.nftables => Some("it was made with --iptables".to_owned()),
        None => Some("everything is closed, and the copy is for --only".to_owned()),
        Some(guard) if !guard.fits() => {
            Some(format!("it names more than {} services and exceptions", Guard::MAX_RULES))
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

fn look(settings: &Settings, remembered: &Result<Option<ConfirmedGuard>, ConfigError>) -> State {
    let remembered = match remembered {
        Err(why) => {
            return State::Problem(format!("not known, so what it closes may be open: {why}"));
        }
        Ok(None) => {
            return State::Note(format!(
                "no service is closed by minimal-firewall.sh; if no other firewall closes it, {} open to everybody",
                services(settings)
            ));
        }
        Ok(Some(remembered)) => remembered,
    };
    let table = remembered.table();
    let closed =
        remembered.only.as_ref().map_or_else(|| services(settings), |guard| listed(&guard.closed));
    if !remembered.nftables {
        return State::Note(format!(
            "{closed} closed with iptables, as far as what was confirmed says"
        ));
    }
    match tables().map(|tables| tables.iter().any(|name| name == table)) {
        Ok(true) => State::Note(format!("{closed} closed by table inet {table}")),
        Ok(false) => State::Problem(format!(
            "what was confirmed is not loaded (there is no table inet {table}): if nothing else closes it, {closed} \
             open to everybody\nfix: run minimal-firewall.sh --boot"
        )),
        Err(errno) => State::Problem(format!("cannot list tables: {}", errno.desc())),
    }
}

/// What a knock is for, as far as the config says.
fn services(settings: &Settings) -> String {
    let allow = settings.config.allow.as_ref();
    allow.map_or_else(|| "every service is".to_owned(), |allow| listed(allow))
}

/// With the verb.
fn listed(services: &[Service]) -> String {
    let verb = if services.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", grant::listed(services, ", "))
}
