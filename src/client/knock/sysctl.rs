//! Settings of the kernel, as the network namespace of this thread has them (`/proc/sys/net`).

use std::fs;
use std::path::Path;

/// What the setting `name` says; `None` where this kernel has no such setting, or shows it to nobody here.
pub(super) fn text(name: &str) -> Option<String> {
    fs::read_to_string(Path::new("/proc/sys/net").join(name)).ok()
}
