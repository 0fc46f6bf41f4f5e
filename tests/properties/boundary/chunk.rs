//! A piece of a log file: which of its lines are looked at.

use knockknock::daemon::kernel_log_line::{Framing, parse};
use knockknock::daemon::log_source::port_filter::{PortSet, wanted_lines};

use super::line::PREFIX;

const WANTED: [u16; 5] = [0, 22, 666, 1622, 65535];

/// The bytes as whole lines of a file; the last may lack its newline.
pub(crate) fn holds(chunk: &[u8]) -> bool {
    let ports: PortSet = WANTED.into_iter().collect();
    let found: Vec<&[u8]> = wanted_lines(chunk, &ports).collect();
    assert_eq!(found, line_by_line(chunk), "{:?}", chunk.escape_ascii().to_string());

    // No knock is lost: a line that would be read as a SYN to a wanted port is among them.
    for line in lines(chunk) {
        if let Ok(syn) = parse(line.trim_ascii_end(), Framing::Syslog, PREFIX) {
            let found = found.iter().any(|found| std::ptr::eq(*found, line));
            assert_eq!(found, WANTED.contains(&syn.destination_port));
        }
    }
    !found.is_empty()
}

/// Newline and leading NULs excluded.
fn lines(chunk: &[u8]) -> impl Iterator<Item = &[u8]> {
    let whole = chunk.strip_suffix(b"\n").unwrap_or(chunk);
    whole.split(|byte| *byte == b'\n').map(|line| {
        let nuls = line.iter().take_while(|byte| **byte == 0).count();
        &line[nuls..]
    })
}

/// By the book: the number after each line's first ` DPT=`, up to a blank, as the kernel writes one.
fn line_by_line(chunk: &[u8]) -> Vec<&[u8]> {
    let is_wanted = |line: &&[u8]| {
        let Some(at) = line.windows(5).position(|window| window == b" DPT=") else { return false };
        WANTED.iter().any(|port| line[at + 5..].starts_with(format!("{port} ").as_bytes()))
    };
    lines(chunk).filter(is_wanted).collect()
}
