//! The log: whether the kernel's lines arrive in it, and who else can write them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::found::Found;
use crate::daemon::log_source::{self, OpenedLog};

/// Where programs send their log lines to syslog.
const DEV_LOG: &str = "/dev/log";

/// Whether the firewalls of network namespaces may write to the kernel's log. Only the host's own namespace has it.
const NF_LOG_SETTING: &str = "/proc/sys/net/netfilter/nf_log_all_netns";

/// Says whether the daemon would read the line of a knock, and who else could write such lines.
pub(super) fn check(source: &OpenedLog, found: &mut Found) {
    match source {
        OpenedLog::File(file) if !file.is_there() => found.problem(
            "log",
            format_args!(
                "there is no {:?}; the daemon would wait for one, and hear nothing until then",
                file.path()
            ),
        ),
        OpenedLog::File(file) if !log_source::is_in_use(file.path()) => found.problem(
            "log",
            format_args!(
                "nobody has written to {:?} since this host was started\n\
                 fix: have rsyslog write the kernel's lines there, or set log = \"kmsg\"",
                file.path()
            ),
        ),
        source => found.say("log", source),
    }
    match source {
        OpenedLog::File(_) if anybody_may_log() => found.say(
            "log",
            "every user of this host can write lines to that file (through /dev/log) that look like the kernel's; \
             without a profile's keys they open nothing, but they can replay what they see\n\
             fix: set log = \"kmsg\", which has the kernel's lines alone",
        ),
        OpenedLog::Kmsg(_) if namespaces_may_log(Path::new(NF_LOG_SETTING)) => found.say(
            "log",
            "WARNING: net.netfilter.nf_log_all_netns is 1: a user who may make a user namespace can have the kernel log \
             any packet; without a profile's keys such lines open nothing, but what was seen can be replayed\n\
             fix: unless you need it: sysctl -w net.netfilter.nf_log_all_netns=0",
        ),
        _ => {}
    }
}

/// Whether a firewall in a network namespace, which any user may own, writes to the log that this host's own writes to.
fn namespaces_may_log(setting: &Path) -> bool {
    std::fs::read_to_string(setting).is_ok_and(|value| value.trim() == "1")
}

fn anybody_may_log() -> bool {
    std::fs::metadata(DEV_LOG).is_ok_and(|metadata| metadata.permissions().mode() & 0o002 != 0)
}
