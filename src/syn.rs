//! The header fields of a SYN that a knock can use, and a SYN as the kernel logged it.

use std::net::IpAddr;

/// The header fields that carry a knock in the classic layout: 96 bits. Host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SynFields {
    /// IPv4: the identification field. IPv6: the low 16 bits of the flow label.
    pub id: u16,
    /// TCP sequence number.
    pub seq: u32,
    /// TCP acknowledgement number (present in a SYN, but without a meaning).
    pub ack: u32,
    /// TCP window, unscaled.
    pub window: u16,
}

/// One refused SYN, as the firewall logged it: the outer packet's fields only.
///
/// `'line` is the log line, which the TCP options still stand in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoggedSyn<'line> {
    /// Source address, as the server saw it.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Source port.
    pub source_port: u16,
    /// Destination port: the knock port, in the classic layout.
    pub destination_port: u16,
    /// The fields that can carry a knock.
    pub fields: SynFields,
    /// Whether it asks for ECN (the flags ECE and CWR beside SYN, and perhaps AE), as a kernel's own may.
    pub asks_for_ecn: bool,
    /// TCP options as the hexadecimal digits of the line; empty where the line has none.
    pub options_hex: &'line [u8],
}

/// The kinds of TCP options without a length, and the one with the time (RFC 9293, RFC 7323).
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const TIMESTAMPS: u8 = 8;
/// Of the timestamps option, its kind and this length included.
const TIMESTAMPS_LEN: u8 = 10;

impl LoggedSyn<'_> {
    /// The first value of the first timestamps option (`TSval`). `None` where there is none, or what stands before it or in
    /// it is not how options are.
    #[must_use]
    pub fn timestamp(&self) -> Option<u32> {
        let mut options = self.options_hex.as_chunks().0.iter().copied().map(byte);
        loop {
            let kind = options.next()??;
            if kind == END_OF_OPTIONS {
                return None;
            }
            if kind == NO_OPERATION {
                continue;
            }
            let len = options.next()??;
            if kind == TIMESTAMPS {
                let mut value = [0; 8];
                for place in value.iter_mut().filter(|_| len == TIMESTAMPS_LEN) {
                    *place = options.next()??;
                }
                let [a, b, c, d, ..] = value;
                return (len == TIMESTAMPS_LEN).then(|| u32::from_be_bytes([a, b, c, d]));
            }
            for _ in 0..len.checked_sub(2)? {
                options.next()??;
            }
        }
    }
}

/// The byte that two hexadecimal digits are, which the kernel writes in capitals.
fn byte(digits: [u8; 2]) -> Option<u8> {
    let [high, low] = digits.map(|digit| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    });
    Some(high? << 4 | low?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timestamp(options_hex: &str) -> Option<u32> {
        let syn = LoggedSyn {
            source: [192, 0, 2, 7].into(),
            destination: [192, 0, 2, 1].into(),
            source_port: 2000,
            destination_port: 22,
            fields: SynFields { id: 0, seq: 0, ack: 0, window: 0 },
            asks_for_ecn: false,
            options_hex: options_hex.as_bytes(),
        };
        syn.timestamp()
    }

    #[test]
    fn the_time_of_a_kernels_syn_is_found() {
        for (options, time) in [
            ("020405B40402080A89ABCDEF0000000001030307", 0x89ab_cdef),
            ("080A0000000100000000", 1),
            ("0101080AFFFFFFFF00000000", u32::MAX),
            ("080A0000000700000000080A0000000900000000", 7),
            ("FE04080A080A0000000500000000", 5),
        ] {
            assert_eq!(timestamp(options), Some(time), "{options}");
        }
    }

    #[test]
    fn what_is_not_how_options_are_has_no_time() {
        for options in [
            "",
            "0",
            "020405B4",
            "08",
            "080A",
            "080A000000010000",
            "080A000000010000000",
            "08090000000100000000",
            "080B000000010000000000",
            "08000000000100000000",
            "0800080A0000000700000000",
            "00080A0000000100000000",
            "0200080A0000000100000000",
            "0201080A0000000100000000",
            "02FF080A0000000100000000",
            "02",
            "080a0000000100000000",
            "08 A0000000100000000",
            "080AG000000100000000",
        ] {
            assert_eq!(timestamp(options), None, "{options}");
        }
    }
}
