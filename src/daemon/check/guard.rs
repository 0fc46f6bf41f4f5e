//! The guard: what `minimal-firewall.sh` remembers, and whether it is loaded. Whether another firewall closes a port is
//! not checked here: only packets can show it.

use std::path::Path;

use super::found::Found;
use crate::daemon::confirmed_guard::{ConfirmedGuard, GUARD_TABLES, recall};
use crate::privileged::firewall::tables::tables;

/// Reports what our guard closes. Returns the confirmed choice if it seems to be in force.
pub(super) fn check(config_dir: &Path, found: &mut Found) -> Option<ConfirmedGuard> {
    let remembered = match recall(config_dir) {
        Ok(remembered) => remembered,
        Err(why) => {
            found.problem("guard", format_args!("{why}\nfix: run minimal-firewall.sh again"));
            return None;
        }
    };
    let tables = tables();
    let is_loaded = |name: &str| tables.iter().flatten().any(|table| table == name);
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
                    "closes {} by what was confirmed, but is not loaded: what it closes can be open to everybody\n\
                     fix: minimal-firewall.sh --boot",
                    guard.text()
                ),
            );
            None
        }
        None => {
            if GUARD_TABLES.into_iter().any(is_loaded) {
                found.say(
                    "guard",
                    "WARNING: loaded, but not remembered: the next boot is without it\n\
                     fix: if nobody is about to confirm it, run minimal-firewall.sh again",
                );
            }
            None
        }
    }
}
