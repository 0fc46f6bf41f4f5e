//! What passes a host's interface, with the kernel's times: tcpdump writes it, this reads it. Owns the running tcpdump.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::net::{Family, Host, Net};
use crate::process::{Running, SOON, wait_until};

/// The last packet of a recording goes to this port ("discard").
const LAST_PORT: u16 = 9;
const LAST: &[u8] = b"that was all of this recording";

/// The file begins with this, in the byte order of who wrote it: times in microseconds.
const MAGIC: u32 = 0xa1b2_c3d4;
const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;

/// A frame and when it passed, since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) at: Duration,
    pub(crate) frame: Vec<u8>,
}

/// Records the TCP of a network's client from now on.
pub(crate) struct Recording<'a> {
    client: &'a Host,
    to: SocketAddr,
    file: PathBuf,
    tcpdump: Running,
}

impl<'a> Recording<'a> {
    /// Starts. The client's checksums are computed as for a real wire from here on: a veth pair leaves them out.
    pub(crate) fn start(net: &'a Net, name: &str) -> Self {
        net.client.run(&["ethtool", "-K", "eth0", "tx", "off"]);
        let file = net.path(name);
        let filter = format!("tcp or udp port {LAST_PORT}");
        let mut command = net.client.command("tcpdump");
        // Root writes the file, and nothing has to be kept back for a slow terminal.
        command.args(["-i", "eth0", "-Z", "root", "-s", "200", "-B", "65536", "-U"]);
        command.arg("--immediate-mode").arg("-w").arg(&file).arg(filter);
        let mut tcpdump = Running::start(&mut command);
        tcpdump.wait_for_line("that it listens", |line| line.contains("listening on eth0"));
        let to = SocketAddr::new(net.server.address(Family::V4), LAST_PORT);
        Self { client: &net.client, to, file, tcpdump }
    }

    /// Stops when everything that passed up to now has been written, and gives the file.
    pub(crate) fn stop(mut self) -> PathBuf {
        self.client.inside(|| {
            UdpSocket::bind("0.0.0.0:0").unwrap().send_to(LAST, self.to).unwrap();
        });
        let is_last = |bytes: Vec<u8>| bytes.windows(LAST.len()).rev().any(|part| part == LAST);
        wait_until(SOON, "the last packet in the recording", || {
            is_last(fs::read(&self.file).unwrap())
        });
        self.tcpdump.signal(Signal::SIGINT);
        self.tcpdump.wait_for_end();
        let lines = self.tcpdump.lines();
        let dropped = lines.iter().find(|line| line.ends_with(" dropped by kernel"));
        assert_eq!(dropped.map(String::as_str), Some("0 packets dropped by kernel"));
        self.file
    }
}

/// The frames of a file in tcpdump's first format (pcap, Ethernet, times in microseconds), written on this machine.
pub(crate) fn read(file: &Path) -> Vec<Recorded> {
    parse(&fs::read(file).unwrap())
}

fn parse(bytes: &[u8]) -> Vec<Recorded> {
    let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!(word(0), MAGIC, "not a recording");
    let mut recorded = Vec::new();
    let mut at = FILE_HEADER;
    while at < bytes.len() {
        let micros = u64::from(word(at)) * 1_000_000 + u64::from(word(at + 4));
        let begin = at + RECORD_HEADER;
        let end = begin + usize::try_from(word(at + 8)).unwrap();
        let frame = bytes[begin..end].to_vec();
        recorded.push(Recorded { at: Duration::from_micros(micros), frame });
        at = end;
    }
    recorded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_is_read_frame_by_frame() {
        let words = |words: &[u32]| -> Vec<u8> {
            words.iter().copied().flat_map(u32::to_ne_bytes).collect()
        };
        let header = words(&[MAGIC, 0x0004_0002, 0, 0, 200, 1]);
        let first = [words(&[10, 999_999, 3, 60]), vec![1, 2, 3]].concat();
        let second = words(&[11, 0, 0, 0]);
        assert_eq!(
            parse(&[header.clone(), first, second].concat()),
            [
                Recorded { at: Duration::from_micros(10_999_999), frame: vec![1, 2, 3] },
                Recorded { at: Duration::from_secs(11), frame: vec![] }
            ]
        );
        assert_eq!(parse(&header), []);
    }
}
