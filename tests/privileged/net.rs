//! Two namespaces, a cable between them, and what there is to see in the server's ruleset.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::agent::Agent;

pub(crate) const SERVER: [&str; 2] = ["10.77.0.1", "fd77::1"];
pub(crate) const CLIENT: [&str; 2] = ["10.77.0.2", "fd77::2"];

/// Somebody else's firewall: drops by default, with the one static line that lets our mark in.
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

    /// The elements of both sets of table `name`: address, port, seconds left.
    pub(crate) fn grants(&self, name: &str) -> Vec<(String, u64, u64)> {
        let listed: Value =
            serde_json::from_str(&self.run(&["nft", "-j", "list", "table", "inet", name])).unwrap();
        let sets =
            listed["nftables"].as_array().unwrap().iter().filter_map(|object| object.get("set"));
        let elements = sets
            .filter_map(|set| set.get("elem"))
            .flat_map(|list| list.as_array().unwrap().clone());
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
