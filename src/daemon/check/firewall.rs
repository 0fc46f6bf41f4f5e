//! The firewall: whether the back end that the config names works on this kernel.

use super::found::Found;
use crate::daemon::own_firewall::{self, NO_TABLE};
use crate::daemon::settings::Settings;

/// Makes our part of the firewall and removes it again. Says what that part can do, and returns whether it tells of
/// connections: where there is none, that is not known.
pub(super) fn check(settings: &Settings, found: &mut Found) -> bool {
    let firewall = match own_firewall::try_to_create(settings) {
        Ok(firewall) => firewall,
        Err(error) => {
            found.problem("firewall", error);
            return true;
        }
    };
    let Some([v4, v6]) = firewall.conntrack_helpers() else {
        found.say(
            "firewall",
            "nftables works; every other firewall must accept our mark (README has a line for each)",
        );
        return false;
    };
    found.say(
        "firewall",
        format_args!(
            "conntrack works (helpers: {} for IPv4, {} for IPv6): any firewall that accepts ESTABLISHED,RELATED lets in what a \
             knock opens",
            v4.unwrap_or("none"),
            v6.unwrap_or("none")
        ),
    );
    for (family, wanted, helper) in
        [("IPv4", settings.config.ipv4, v4), ("IPv6", settings.config.ipv6, v6)]
    {
        if wanted && helper.is_none() {
            found.problem(
                "firewall",
                format_args!(
                    "this kernel has no conntrack helper for {family}, so nothing can be opened for it\n\
                     fix: load one of its modules, or set {} = false",
                    family.to_lowercase()
                ),
            );
        }
    }
    if !firewall.has_table() {
        found.say("firewall", NO_TABLE);
    }
    firewall.has_table()
}
