//! The ports that this host's own connections come from, so that a knock's is one of them.

use std::ops::RangeInclusive;

use super::sysctl;

/// The range of this network namespace; `32768..=60999`, the kernel's own default, where it cannot be read.
pub(super) fn ephemeral_ports() -> RangeInclusive<u16> {
    let range = sysctl::text("ipv4/ip_local_port_range");
    range.and_then(|text| parse_range(&text)).unwrap_or(32_768..=60_999)
}

/// Those that administrators keep for something (`ip_local_reserved_ports`).
pub(super) fn reserved_ports() -> Vec<RangeInclusive<u16>> {
    parse_reserved(&sysctl::text("ipv4/ip_local_reserved_ports").unwrap_or_default())
}

fn parse_range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.trim().split_once(char::is_whitespace)?;
    let range = first.parse().ok()?..=last.trim().parse().ok()?;
    (!range.is_empty() && *range.start() > 0).then_some(range)
}

/// Ports, and ranges of two with a dash between them, after commas.
fn parse_reserved(text: &str) -> Vec<RangeInclusive<u16>> {
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    text.trim().split(',').filter_map(range).collect()
}

/// `random` mapped into `range`, which has no 0.
pub(super) fn within(range: &RangeInclusive<u16>, random: u16) -> u16 {
    range.start() + random % (range.end() - range.start() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_ports_stay_within_the_host_s_range() {
        let range = parse_range("32768\t60999\n").unwrap();
        for range in [range, 1..=u16::MAX] {
            for random in [0, 1, 28_231, 28_232, 40_000, u16::MAX] {
                assert!(range.contains(&within(&range, random)));
            }
        }
        assert_eq!(within(&(5..=5), 77), 5);
        assert_eq!(parse_range("60999 32768"), None);
        assert_eq!(parse_range("junk"), None);
    }

    #[test]
    fn reserved_ports_are_ports_and_ranges() {
        assert_eq!(parse_reserved("8080,9000-9100\n"), [8080..=8080, 9000..=9100]);
        assert_eq!(parse_reserved("\n"), []);
    }
}
