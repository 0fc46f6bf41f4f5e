//! Settings of the kernel that affect knocks.

use std::path::Path;

use super::clock::is_synchronised;
use super::found::Found;

/// Conntrack's settings.
const NETFILTER: &str = "/proc/sys/net/netfilter";
/// With a lower maximum, a small flood fills the connection table, and then no grant can be made.
const MIN_CONNECTIONS: u64 = 16_384;

/// Reports settings of conntrack that can prevent a grant. `max_open` is how many there may be.
pub(super) fn conntrack(max_open: usize, found: &mut Found) {
    let setting = |name: &str| number(&Path::new(NETFILTER).join(name));
    if setting("nf_conntrack_tcp_be_liberal") == Some(1) {
        found.say(
            "conntrack",
            "WARNING: net.netfilter.nf_conntrack_tcp_be_liberal is 1: any packet with the client's address and ports passes for \
             one of its connection, so a blind sender can use up what a knock opened\n\
             fix: unless you need it: sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=0",
        );
    }
    if let Some(max) = setting("nf_conntrack_max") {
        let count = setting("nf_conntrack_count").unwrap_or(0);
        if count >= max && max > 0 {
            found.problem(
                "conntrack",
                format_args!(
                    "{count} connections are known and net.netfilter.nf_conntrack_max is {max}: nothing can be opened\n\
                     fix: raise it"
                ),
            );
        } else if max < MIN_CONNECTIONS {
            found.say(
                "conntrack",
                format_args!(
                    "WARNING: net.netfilter.nf_conntrack_max is {max}: a small flood fills that, and then nothing can be opened\n\
                     fix: raise it to {MIN_CONNECTIONS} at least"
                ),
            );
        }
    }
    if let Some(max) = setting("nf_conntrack_expect_max")
        && u64::try_from(max_open).is_ok_and(|open| open > max)
    {
        found.say(
            "conntrack",
            format_args!(
                "WARNING: net.netfilter.nf_conntrack_expect_max is {max}, less than `max_open` ({max_open}): the kernel refuses \
                 what is above it"
            ),
        );
    }
    if setting("nf_conntrack_tcp_loose") == Some(0) {
        found.say(
            "conntrack",
            "net.netfilter.nf_conntrack_tcp_loose is 0: a connection that conntrack forgets (conntrack -F) hangs unless its \
             packets are accepted; our guard accepts them",
        );
    }
}

fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Reports whether the clock is synchronised. The times in the log depend on it, and what a stealth knock can fall back on.
pub(super) fn clock(has_stealth: bool, found: &mut Found) {
    match is_synchronised() {
        Some(true) => found.say("clock", "synchronised"),
        Some(false) if has_stealth => found.say(
            "clock",
            "WARNING: not synchronised, as far as the kernel knows: once it is more than half an hour off, a stealth knock is \
             heard by its counter alone, and who loses that, or more than 255 knocks in a row, is locked out until the clock is \
             right again\n\
             fix: timedatectl set-ntp true",
        ),
        Some(false) => found.say(
            "clock",
            "not synchronised, as far as the kernel knows: knocks do not need it, the times in the log do",
        ),
        None => {}
    }
}
