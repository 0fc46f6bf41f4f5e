//! The TCP options of a SYN, in the order and with the padding in which Linux writes them. Pure.

/// Maximum segment size, 4 bytes.
const MSS: [u8; 2] = [2, 4];
/// Window scale, 3 bytes.
const WINDOW_SCALE: [u8; 2] = [3, 3];
/// SACK permitted, 2 bytes.
const SACK_PERMITTED: [u8; 2] = [4, 2];
/// Timestamps, 10 bytes.
const TIMESTAMPS: [u8; 2] = [8, 10];
const NOP: u8 = 1;

/// What a SYN offers besides its window. A knock has the timestamps in it, so they are always there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SynOptions {
    /// The largest segment that we take, in bytes.
    pub mss: u16,
    /// Selective acknowledgements.
    pub sack: bool,
    /// The timestamps' first value (`TSval`). The second, the echo, is 0: there is nothing to echo yet.
    pub timestamp: u32,
    /// By how many bits later windows are shifted; `None`: they are not, and the option is missing.
    pub window_scale: Option<u8>,
}

impl SynOptions {
    /// As `tcp_options_write` writes what `tcp_syn_options` chose: each option on a multiple of four bytes, SACK in the
    /// place of the padding before the timestamps.
    #[must_use]
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = MSS.to_vec();
        bytes.extend(self.mss.to_be_bytes());
        bytes.extend(if self.sack { SACK_PERMITTED } else { [NOP, NOP] });
        bytes.extend(TIMESTAMPS);
        bytes.extend(self.timestamp.to_be_bytes());
        bytes.extend([0; 4]);
        if let Some(shift) = self.window_scale {
            bytes.push(NOP);
            bytes.extend(WINDOW_SCALE);
            bytes.push(shift);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: SynOptions =
        SynOptions { mss: 1460, sack: true, timestamp: 0x0102_0304, window_scale: Some(10) };

    #[test]
    fn options_stand_where_linux_puts_them() {
        #[rustfmt::skip]
        let all = [
            2, 4, 0x05, 0xb4,  4, 2, 8, 10,  1, 2, 3, 4,  0, 0, 0, 0,  1, 3, 3, 10,
        ];
        assert_eq!(ALL.to_bytes(), all);
        let no_sack = SynOptions { sack: false, ..ALL }.to_bytes();
        assert_eq!(no_sack[4..8], [1, 1, 8, 10]);
        assert_eq!((no_sack.len(), &no_sack[8..]), (20, &all[8..]));
        assert_eq!(SynOptions { window_scale: None, ..ALL }.to_bytes(), all[..16]);
    }
}
