//! Two namespaces, a cable between them, and what there is to see in the server's ruleset.

use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::agent::Agent;

pub(crate) const SERVER: [&str; 2] = ["10.77.0.1", "fd77::1"];
pub(crate) const CLIENT: [&str; 2] = ["10.77.0.2", "fd77::2"];

/// Somebody else's firewall without a word for us: accepts what is established or related, drops the rest.
pub(crate) const STATEFUL: &str = "
    table inet foreign {
        chain input {
            type filter hook input priority filter; policy drop;
            iifname lo accept
            ct state established,related accept
            icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
        }
    }";

/// The same, with the one static line that lets our mark in.
pub(crate) const FOREIGN: &str = "
    table inet foreign {
        chain input {
            type filter hook input priority filter; policy drop;
            iifname lo accept
            ct state established,related accept
            icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
            meta mark & 0x20000000 != 0 accept
        }
    }";

/// A server and a client with a cable between them. Taken away when dropped.
pub(crate) struct Net {
    pub(crate) server: Namespace,
    pub(crate) client: Namespace,
}

pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Net {
    pub(crate) fn new() -> Self {
        let (server, client) = (Namespace::new("s"), Namespace::new("c"));
        ip(&[
            "link",
            "add",
            "s0",
            "netns",
            &server.name,
            "type",
            "veth",
            "peer",
            "c0",
            "netns",
            &client.name,
        ]);
        for (namespace, device, [v4, v6]) in [(&server, "s0", SERVER), (&client, "c0", CLIENT)] {
            let n = namespace.name.as_str();
            ip(&["-n", n, "addr", "add", &format!("{v4}/24"), "dev", device]);
            ip(&["-n", n, "addr", "add", &format!("{v6}/64"), "dev", device, "nodad"]);
            ip(&["-n", n, "link", "set", "lo", "up"]);
            ip(&["-n", n, "link", "set", device, "up"]);
        }
        Self { server, client }
    }
}

impl Namespace {
    /// A server with its addresses and no network.
    pub(crate) fn server() -> Self {
        let server = Self::new("s");
        for address in SERVER {
            ip(&["-n", &server.name, "addr", "add", address, "dev", "lo"]);
        }
        ip(&["-n", &server.name, "link", "set", "lo", "up"]);
        server
    }

    pub(crate) fn new(role: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("kkp{}{role}{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &name]);
        Self { name }
    }

    pub(crate) fn agent(&self) -> Agent {
        Agent::start(&self.name)
    }

    /// Runs a program here that has to succeed; what it printed.
    pub(crate) fn run(&self, command: &[&str]) -> String {
        let (code, output) = self.try_run(command);
        assert_eq!(code, Some(0), "{command:?}: {output}");
        output
    }

    pub(crate) fn try_run(&self, command: &[&str]) -> (Option<i32>, String) {
        let done = Command::new("ip")
            .args(["netns", "exec", &self.name])
            .args(command)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let output = [done.stdout, done.stderr].concat();
        (done.status.code(), String::from_utf8_lossy(&output).into_owned())
    }

    /// Loads a ruleset on top of what is there.
    pub(crate) fn nft(&self, ruleset: &str) {
        self.run(&["nft", ruleset]);
    }

    pub(crate) fn has_table(&self, name: &str) -> bool {
        self.try_run(&["nft", "list", "table", "inet", name]).0 == Some(0)
    }

    /// The expectations: client address, server's address, port, seconds left.
    pub(crate) fn expectations(&self) -> Vec<(String, String, u16, u64)> {
        let listed = self.run(&["cat", "/proc/net/nf_conntrack_expect"]);
        let field = |line: &str, name: &str| {
            let words = line.split_whitespace().filter_map(|word| word.strip_prefix(name));
            words.map(str::to_owned).next().unwrap()
        };
        let read = |line: &str| {
            let left = line.split_whitespace().next().unwrap().parse().unwrap();
            let address = |name| field(line, name).parse::<IpAddr>().unwrap().to_string();
            (address("src="), address("dst="), field(line, "dport=").parse().unwrap(), left)
        };
        listed.lines().map(read).collect()
    }

    /// The elements of both sets of table `name`: address, port, seconds left.
    pub(crate) fn grants(&self, name: &str) -> Vec<(String, u64, u64)> {
        // Not the table: nft 1.0.6 uses freed memory when it prints a table's flags as JSON.
        let set = |set| self.run(&["nft", "-j", "list", "set", "inet", name, set]);
        let elements = ["open4", "open6"].into_iter().flat_map(|name| {
            let listed: Value = serde_json::from_str(&set(name)).unwrap();
            let objects = listed["nftables"].as_array().unwrap().clone();
            objects.into_iter().filter_map(|object| object["set"].get("elem").cloned())
        });
        let elements = elements.flat_map(|list| list.as_array().unwrap().clone());
        elements
            .map(|element| {
                let element = &element["elem"];
                let key = element["val"]["concat"].as_array().unwrap();
                assert_eq!(key[1], "tcp");
                (
                    key[0].as_str().unwrap().to_owned(),
                    key[2].as_u64().unwrap(),
                    element["expires"].as_u64().unwrap(),
                )
            })
            .collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// What the kernel logs from now on.
pub(crate) struct Kmsg {
    file: std::fs::File,
    lines: Vec<String>,
}

impl Kmsg {
    pub(crate) fn from_now() -> Self {
        let nonblocking = nix::libc::O_NONBLOCK;
        let file = std::fs::File::options()
            .read(true)
            .custom_flags(nonblocking)
            .open("/dev/kmsg")
            .unwrap();
        nix::unistd::lseek(&file, 0, nix::unistd::Whence::SeekEnd).unwrap();
        Self { file, lines: Vec::new() }
    }

    /// The lines so far that begin with `prefix`.
    pub(crate) fn lines(&mut self, prefix: &str) -> Vec<String> {
        let mut record = [0; 8192];
        loop {
            match self.file.read(&mut record) {
                Ok(length) => {
                    let record = String::from_utf8_lossy(&record[..length]).into_owned();
                    self.lines
                        .extend(record.split_once(';').map(|(_, text)| text.trim_end().to_owned()));
                }
                Err(error) if error.raw_os_error() == Some(nix::libc::EPIPE) => {}
                Err(_) => break,
            }
        }
        self.lines.iter().filter(|line| line.starts_with(prefix)).cloned().collect()
    }
}

/// Waits until `condition` holds, which it has to do within `seconds`.
pub(crate) fn until(seconds: u64, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !condition() {
        assert!(Instant::now() < deadline, "not within {seconds} s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn ip(arguments: &[&str]) {
    let done = Command::new("ip").args(arguments).output().unwrap();
    assert!(done.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}
