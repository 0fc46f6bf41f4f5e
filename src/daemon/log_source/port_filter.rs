//! The knock ports, and the search of a whole chunk of log for lines about them.
//!
//! Owns the decision that a line is not for us, which has to be cheap: a flood of junk lines costs this search and
//! nothing else. It reads one field of a line and trusts nothing in it; [`crate::daemon::kernel_log_line`] decides what
//! a line is.

use memchr::memmem::Finder;

/// Where the destination port stands in the kernel's line of a packet.
const FIELD: &[u8] = b" DPT=";

/// A set of ports, asked in constant time: the cost of a line does not grow with the number of profiles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSet(Box<[u64; 1024]>);

impl PortSet {
    /// Whether the port is in the set.
    #[must_use]
    pub(crate) fn contains(&self, port: u16) -> bool {
        self.0.get(usize::from(port >> 6)).is_some_and(|bits| bits >> (port & 63) & 1 == 1)
    }

    /// Puts a port into the set.
    pub(crate) fn insert(&mut self, port: u16) {
        if let Some(bits) = self.0.get_mut(usize::from(port >> 6)) {
            *bits |= 1 << (port & 63);
        }
    }

    /// Whether `text` begins with a port of the set, written as the kernel writes it, and a blank.
    fn has(&self, text: &[u8]) -> bool {
        let mut port = 0_u32;
        for (at, &byte) in text.iter().take(6).enumerate() {
            match byte {
                b'0'..=b'9' if at < 5 && (at == 0 || port > 0) => {
                    port = port * 10 + u32::from(byte - b'0');
                }
                b' ' if at > 0 => return u16::try_from(port).is_ok_and(|port| self.contains(port)),
                _ => return false,
            }
        }
        false
    }
}

impl Default for PortSet {
    fn default() -> Self {
        Self(Box::new([0; 1024]))
    }
}

impl FromIterator<u16> for PortSet {
    fn from_iter<I: IntoIterator<Item = u16>>(ports: I) -> Self {
        let mut set = Self::default();
        ports.into_iter().for_each(|port| set.insert(port));
        set
    }
}

/// The lines of `chunk` (newline or the chunk's end excluded) whose first ` DPT=` is a port of the set.
///
/// `chunk` holds whole lines. NUL bytes before a line are not part of it: a log that was truncated under a writer that
/// keeps its old offset has a hole there.
pub fn wanted_lines<'a>(chunk: &'a [u8], wanted: &'a PortSet) -> impl Iterator<Item = &'a [u8]> {
    WantedLines { chunk, wanted, field: Finder::new(FIELD), searched: 0, field_end: 0 }
}

/// What [`wanted_lines`] finds, line by line.
#[derive(Debug)]
struct WantedLines<'a> {
    chunk: &'a [u8],
    wanted: &'a PortSet,
    field: Finder<'static>,
    /// Everything before this has been searched.
    searched: usize,
    /// The end of the last field found: a later one in the same line is not that line's first.
    field_end: usize,
}

impl<'a> Iterator for WantedLines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let found = self.field.find(self.chunk.get(self.searched..)?)?;
            let value = self.searched + found + FIELD.len();
            let last_field_end = std::mem::replace(&mut self.field_end, value);
            self.searched = value;
            let (before, after) = self.chunk.split_at_checked(value)?;
            if !self.wanted.has(after) {
                continue;
            }
            let start = memchr::memrchr(b'\n', before).map_or(0, |newline| newline + 1);
            if last_field_end > start {
                continue;
            }
            let end = value + memchr::memchr(b'\n', after).unwrap_or(after.len());
            self.searched = end;
            return self.chunk.get(start..end).map(without_leading_nuls);
        }
    }
}

/// The line from its first byte that is not NUL.
fn without_leading_nuls(line: &[u8]) -> &[u8] {
    line.get(line.iter().take_while(|&&byte| byte == 0).count()..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same the simple way: line by line, the first field of each.
    fn line_by_line<'a>(chunk: &'a str, wanted: &[&str]) -> Vec<&'a [u8]> {
        let first_port_is_wanted = |line: &&str| {
            let Some((_, value)) = line.split_once(" DPT=") else { return false };
            value.split_once(' ').is_some_and(|(number, _)| wanted.contains(&number))
        };
        let lines = chunk.split_terminator('\n').filter(first_port_is_wanted);
        lines.map(|line| line.trim_start_matches('\0').as_bytes()).collect()
    }

    fn by_search<'a>(chunk: &'a [u8], wanted: &'a PortSet) -> Vec<&'a [u8]> {
        wanted_lines(chunk, wanted).collect()
    }

    fn set(ports: &[u16]) -> PortSet {
        ports.iter().copied().collect()
    }

    #[test]
    fn a_set_holds_the_ports_put_in_and_no_others() {
        let set: PortSet = [0, 63, 64, 666, 65535].into_iter().collect();
        let held: Vec<u16> = (0..=u16::MAX).filter(|port| set.contains(*port)).collect();
        assert_eq!(held, [0, 63, 64, 666, 65535]);
    }

    #[test]
    fn only_a_lines_first_port_counts() {
        let chunk = b"a DPT=1 DPT=666 \nb DPT=666 DPT=1 x\nc DPT=666\nd DPT=6660 \ne DPT=0666 \nDPT=666 \n\0\0f DPT=666 \n";
        assert_eq!(
            by_search(chunk, &set(&[666])),
            [b"b DPT=666 DPT=1 x".as_slice(), b"f DPT=666 "]
        );
        let chunk = b"x DPT=70000 \ny DPT=65535 \n";
        assert_eq!(by_search(chunk, &set(&[4464, 65535])), [b"y DPT=65535 "]);
    }

    #[test]
    fn the_search_of_a_chunk_finds_what_a_search_line_by_line_finds() {
        // Random texts of the pieces that could confuse the search; a fixed seed, so that a failure can be looked at.
        let pieces: [&str; 16] = [
            " DPT=",
            " DPT=",
            "DPT=",
            "666 ",
            "666",
            "6",
            "0",
            " ",
            "\n",
            "\n",
            "\0",
            "x",
            "SRC=",
            "22 ",
            " DPT=666 ",
            " DPT=22 ",
        ];
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let wanted = [(set(&[666]), &["666"][..]), (set(&[6, 22]), &["6", "22"])];
        let mut chunk = String::new();
        // A fifth of them, or all where this is set, as scripts/test.sh sets it.
        let all = std::env::var_os("KNOCKKNOCK_ALL_CASES").is_some();
        for _ in 0..if all { 100_000 } else { 20_000 } {
            chunk.clear();
            for _ in 0..24 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                chunk.push_str(pieces[usize::try_from(state % 16).unwrap()]);
            }
            for (set, numbers) in &wanted {
                let found = by_search(chunk.as_bytes(), set);
                assert_eq!(found, line_by_line(&chunk, numbers), "{chunk:?}");
            }
        }
    }
}
