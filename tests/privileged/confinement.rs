//! What the helper has, what it may do, and what ends it.

use std::fs;
use std::io::Write;

use crate::agent::NOBODY;
use crate::net::{Namespace, until};

const TABLE: &str = "knockknock";

#[test]
fn the_helper_has_one_capability_and_no_way_to_another() {
    let server = Namespace::server();
    let mut daemon = server.agent();
    let helper = daemon.start_helper(TABLE);
    let status = fs::read_to_string(format!("/proc/{helper}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap();
        line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    let nobody =
        [NOBODY.to_string(), NOBODY.to_string(), NOBODY.to_string(), NOBODY.to_string()].join(" ");
    let net_admin = format!("{:016x}", 1_u64 << 12);
    let none = "0".repeat(16);
    for (name, value) in [
        ("Name", "knock-helper"),
        ("Uid", nobody.as_str()),
        ("Gid", nobody.as_str()),
        ("Groups", ""),
        ("Threads", "1"),
        ("CapInh", none.as_str()),
        ("CapPrm", net_admin.as_str()),
        ("CapEff", net_admin.as_str()),
        ("CapBnd", none.as_str()),
        ("CapAmb", none.as_str()),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ] {
        assert_eq!(field(name), value, "{name}");
    }
    assert_eq!(fs::read_link(format!("/proc/{helper}/cwd")).unwrap().to_str(), Some("/"));
}

#[test]
fn the_helper_has_two_pipes_two_netlink_sockets_and_stderr() {
    let server = Namespace::server();
    let mut daemon = server.agent();
    let helper = daemon.start_helper(TABLE);
    let mut descriptors: Vec<(String, String)> = fs::read_dir(format!("/proc/{helper}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let kind = fs::read_link(entry.path())
                .unwrap()
                .to_str()
                .unwrap()
                .split(':')
                .next()
                .unwrap()
                .to_owned();
            (entry.file_name().into_string().unwrap(), kind)
        })
        .filter(|(number, _)| number != "2")
        .collect();
    descriptors.sort();
    let expected = [("0", "pipe"), ("1", "pipe"), ("3", "socket"), ("4", "socket")]
        .map(|(n, k)| (n.to_owned(), k.to_owned()));
    assert_eq!(descriptors, expected);
    // The daemon has no way to the firewall left.
    let sockets = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().filter(|entry| {
        fs::read_link(entry.as_ref().unwrap().path())
            .is_ok_and(|to| to.to_string_lossy().starts_with("socket"))
    });
    assert_eq!(sockets.count(), 0);
}

#[test]
fn a_request_outside_the_limits_ends_the_helper_and_closes_what_was_open() {
    for (address, port, seconds) in [
        ("127.0.0.1", 22, 15),
        ("0.0.0.0", 22, 15),
        ("192.0.2.7", 0, 15),
        ("192.0.2.7", 22, 3601),
        ("::1", 22, 15),
    ] {
        let server = Namespace::server();
        let mut daemon = server.agent();
        daemon.start_helper(TABLE);
        assert_eq!(daemon.open("192.0.2.8", 22, 600), "Ok(Opened)");
        assert_eq!(daemon.open(address, port, seconds), "Err(Ended)");
        assert_eq!(daemon.ask("end"), "exit status 1");
        assert!(!server.has_table(TABLE));
        assert_eq!(server.expectations(), []);
    }
}

#[test]
fn bytes_that_are_no_request_end_the_helper() {
    for bytes in [&[0_u8; 512][..], &[2; 512], &[2; 511], &[2; 1]] {
        let server = Namespace::server();
        let mut daemon = server.agent();
        let helper = daemon.start_helper(TABLE);
        fs::OpenOptions::new()
            .write(true)
            .open(format!("/proc/{helper}/fd/0"))
            .unwrap()
            .write_all(bytes)
            .unwrap();
        until(2, "the table goes with the helper", || !server.has_table(TABLE));
        assert_eq!(daemon.ask("end"), "exit status 1");
    }
}

#[cfg(feature = "misbehave")]
#[test]
fn a_helper_that_starts_a_program_opens_a_file_makes_a_socket_or_traces_is_killed() {
    for port in [64001, 64002, 64003, 64004] {
        let server = Namespace::server();
        let mut daemon = server.agent();
        daemon.start_helper(TABLE);
        assert_eq!(daemon.open("192.0.2.7", 22, 600), "Ok(Opened)");
        assert_eq!(daemon.open("192.0.2.7", port, 15), "Err(Ended)", "{port}");
        assert_eq!(daemon.ask("end"), "killed for a forbidden system call", "{port}");
        assert!(!server.has_table(TABLE));
    }
}

#[cfg(feature = "misbehave")]
#[test]
fn a_panic_ends_the_helper_and_closes_what_was_open() {
    let server = Namespace::server();
    let mut daemon = server.agent();
    daemon.start_helper(TABLE);
    assert_eq!(daemon.open("192.0.2.7", 22, 600), "Ok(Opened)");
    assert_eq!(daemon.open("192.0.2.7", 64005, 15), "Err(Ended)");
    assert_eq!(daemon.ask("end"), "exit status 101");
    assert!(!server.has_table(TABLE));
    assert_eq!(server.expectations(), []);
}
