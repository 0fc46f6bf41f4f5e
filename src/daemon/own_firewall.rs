//! Our part of the firewall, made at the start: the back end that the config names, and what our table logs.

use std::path::PathBuf;

use super::config::{FirewallKind, LogRule};
use super::error::DaemonError;
use super::say;
use super::settings::Settings;
use crate::privileged::firewall::log_rules::LogRules;
use crate::privileged::firewall::{BackEnd, Firewall, FirewallError};

/// How many SYNs to the knock ports of profiles without `allow` are logged in a second, and at once.
const MAX_KNOCK_PORT_LINES: u32 = 200;
const MAX_KNOCK_PORT_BURST: u32 = 200;

/// What it means that the kernel has no `nf_tables`.
pub(super) const NO_TABLE: &str = "this kernel has no nf_tables: the daemon sees a knock only if another firewall logs it, \
     and the grant ends with the first SYN, whoever sends it";

/// What our part of the firewall does: what this kernel can do and the config allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct FirewallFeatures {
    /// Our own table logs the knocks.
    pub(super) logs_knocks: bool,
    /// It logs connections through grants.
    pub(super) logs_connections: bool,
}

/// The firewall, ready to be handed to the helper.
pub(super) fn create(settings: &Settings, log: &LogRules) -> Result<Firewall, DaemonError> {
    let create =
        |back_end| Firewall::create(&settings.table, back_end, log, settings.config.max_open);
    let created = match settings.config.firewall {
        FirewallKind::Conntrack => create(BackEnd::Conntrack),
        FirewallKind::Nftables => create(BackEnd::Nftables),
        FirewallKind::Auto => match create(BackEnd::Conntrack) {
            Err(error @ FirewallError::NoConntrackHelper) => {
                say::event(format_args!("uses firewall = \"nftables\": {error}"));
                create(BackEnd::Nftables)
            }
            created => created,
        },
    };
    Ok(created?)
}

/// Makes our part of the firewall and removes it again; a daemon may be running. No instance's name has a dot, so no
/// daemon uses this table.
pub(super) fn try_to_create(settings: &Settings) -> Result<Firewall, DaemonError> {
    let of_nobody = Settings {
        table: format!("{}.try", settings.table),
        config: settings.config.clone(),
        config_dir: PathBuf::new(),
        ..*settings
    };
    create(&of_nobody, &log_rules()?)
}

/// What `firewall` can do. Reports what it cannot.
pub(super) fn features(settings: &Settings, firewall: &Firewall) -> FirewallFeatures {
    let has_table = firewall.has_table();
    if !has_table {
        say::event(NO_TABLE);
    }
    FirewallFeatures {
        logs_knocks: has_table && settings.config.log_rule == LogRule::Own,
        logs_connections: has_table && firewall.conntrack_helpers().is_some(),
    }
}

/// What our table logs. The prefixes differ at each start, so another daemon's lines are never taken for ours.
pub(super) fn log_rules() -> Result<LogRules, DaemonError> {
    let failed = |why| DaemonError::System("cannot read a random number from /proc", why);
    // Its first 8 digits are random.
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid").map_err(failed)?;
    let tag = uuid.get(..8).ok_or_else(|| failed(std::io::ErrorKind::UnexpectedEof.into()))?;
    Ok(LogRules {
        knock_prefix: format!("KNOCK {tag} "),
        came_in_prefix: format!("KNOCK-IN {tag} "),
        per_second: MAX_KNOCK_PORT_LINES,
        burst: MAX_KNOCK_PORT_BURST,
    })
}
