//! Settings of the kernel, as the network namespace of this thread has them (`/proc/sys/net`).

use std::fs;
use std::path::Path;

/// What the setting `name` says; `None` where this kernel has no such setting, or shows it to nobody here.
pub(super) fn text(name: &str) -> Option<String> {
    fs::read_to_string(Path::new("/proc/sys/net").join(name)).ok()
}

/// The number that `name` is set to, or the `nth` of several. `default`: what a kernel without the setting does.
pub(super) fn number(name: &str, nth: usize, default: u32) -> u32 {
    let number = |text: String| text.split_whitespace().nth(nth)?.parse().ok();
    text(name).and_then(number).unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_is_not_there_has_its_default() {
        assert_eq!(number("ipv4/no_such_setting", 0, 7), 7);
        assert_eq!(number("ipv4/tcp_rmem", 3, 7), 7, "there are three");
        let [least, most] = [0, 2].map(|nth| number("ipv4/tcp_rmem", nth, 0));
        assert!(0 < least && least <= most, "{least} {most}");
    }
}
