//! `knock` waits for the answer to its SYN, and says what came back. `tests/knock_then_connect.rs` tries what it is for.

use std::time::Duration;

use crate::connection::Reach;
use crate::delay::Delay;
use crate::net::{FAMILIES, Family, Net};
use crate::site::{HOST, KNOCK_PORT, Log, Site};
use crate::user::{User, said};
use crate::wire::Tap;

const PORT: u16 = 2222;
/// How long a frame takes, each way, on a long wire, and how much more or less.
const LONG: Duration = Duration::from_millis(80);
const JITTER: Duration = Duration::from_millis(20);
const QUIET: Duration = Duration::from_millis(100);

/// Lets both ends learn each other's Ethernet address: a long wire is many short ones, and this goes over the first.
fn meet(site: &Site, family: Family) {
    assert_eq!(site.reach(family, PORT), Reach::Refused);
}

#[test]
fn when_knock_ends_the_server_has_its_packet() {
    for family in FAMILIES {
        for command in [&["-p", "2222", HOST][..], &["-p", "2222", HOST, "--", "true"]] {
            let net = Net::lan();
            let wire = Delay::on(&net, LONG, JITTER);
            let site = Site::start(net, Log::Kmsg, "delay = 15\n");
            meet(&site, family);
            let user = User::new(&site, family);
            let mut tap = Tap::on(&site.net.server);
            let output = user.knock(&site.net.client, command, "");
            // The wire is cut: what is still on its way never arrives.
            drop(wire);
            assert!(output.status.success(), "{}", said(&output));
            assert_eq!(tap.syns_to(KNOCK_PORT, QUIET).len(), 1, "{}", said(&output));
        }
    }
}

#[test]
fn what_came_back_is_said() {
    for family in FAMILIES {
        let site = Site::start(Net::lan(), Log::Kmsg, "delay = 15\n");
        let server = &site.net.server;
        let user = User::new(&site, family);
        let knock = |arguments: &[&str]| {
            let arguments = [arguments, &["-p", "2222", HOST]].concat();
            let output = user.knock(&site.net.client, &arguments, "");
            assert!(output.status.success(), "{}", said(&output));
            said(&output)
        };
        let text = knock(&[]);
        assert!(text.contains(": answered after ") && text.contains(" ms (refused)"), "{text}");
        for wait in ["0", "20"] {
            let text = knock(&["--wait", wait]);
            assert!(text.contains("sent one SYN") && !text.contains("answer"), "{text}");
        }
        // Each of these comes before the firewall of the site, and goes again.
        let with = |rule: &str, expected: &str| {
            server.nft(&format!(
                "table inet first {{ chain in {{ type filter hook input priority -300; tcp dport {KNOCK_PORT} {rule}; }}; }}"
            ));
            let text = knock(&[]);
            assert!(text.contains(expected), "{rule}: {text}");
            server.nft("delete table inet first");
        };
        with("drop", ": no answer: dropped, or lost on the way");
        with("reject with icmpx type port-unreachable", " ms (ICMP: Connection refused)");
        with("reject with icmpx type admin-prohibited", " ms (ICMP: ");
    }
}

#[test]
fn an_open_knock_port_is_told_of() {
    let mut site = Site::start(Net::lan(), Log::Kmsg, "delay = 15\n");
    let _service = site.net.server.echo(KNOCK_PORT);
    site.stop_daemon();
    site.net.server.run(&["nft", "flush", "ruleset"]);
    for family in FAMILIES {
        let user = User::new(&site, family);
        let output = user.knock(&site.net.client, &["-p", "2222", HOST], "");
        let text = said(&output);
        assert!(text.contains(" ms (accepted: something listens on port 666)"), "{text}");
    }
}

#[test]
fn several_hosts_are_knocked_at_before_any_answer_is_waited_for() {
    let site = Site::start(Net::lan(), Log::Kmsg, "delay = 15\n");
    let user = User::new(&site, Family::V4);
    let output = user.knock(&site.net.client, &["-p", "2222", HOST, HOST, HOST], "");
    assert!(output.status.success(), "{}", said(&output));
    let text = said(&output);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 6, "{text}");
    assert!(lines[..3].iter().all(|line| line.contains("sent one SYN")), "{text}");
    assert!(lines[3..].iter().all(|line| line.contains("(refused)")), "{text}");
}

#[test]
fn strangers_packets_hide_no_answer() {
    use crate::wire::{Flood, Route, make_syn};
    use std::net::SocketAddr;
    let site = Site::start(Net::lan(), Log::Kmsg, "delay = 15\n");
    let (client, server, other) = (&site.net.client, &site.net.server, &site.net.other);
    let to = SocketAddr::new(client.ipv4.into(), 9);
    // From another host, and from the server's address: raw sockets of the client get them all.
    let frames = [other, server].map(|from| {
        make_syn(Route::between(other, client), SocketAddr::new(from.ipv4.into(), 40_000), to, 7)
    });
    let user = User::new(&site, Family::V4);
    let flood = Flood::start(other, frames.to_vec());
    let mut answered = 0;
    for _ in 0..5 {
        let output = user.knock(client, &["-p", "2222", HOST], "");
        assert!(output.status.success(), "{}", said(&output));
        answered += u32::from(said(&output).contains("(refused)"));
    }
    assert!(flood.stop() > 1000);
    assert!(answered > 0, "a flood may drown an answer, not all");
}
