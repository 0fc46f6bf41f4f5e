//! What the conntrack back end does to packets, beside firewalls that have no word for us.

use std::fs;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::agent::Agent;
use crate::net::{CLIENT, Namespace, Net, SERVER, STATEFUL, until};

const TABLE: &str = "knockknock";

/// Somebody's rules, with `$t` for the program.
const BY_IPTABLES: &str = "$t -P INPUT DROP; $t -A INPUT -i lo -j ACCEPT; \
    $t -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT; $t -A INPUT -p ipv6-icmp -j ACCEPT";

/// A network, a helper, a service on port 22, and a client.
struct Scene {
    net: Net,
    daemon: Agent,
    client: Agent,
}

impl Scene {
    fn new() -> Self {
        let net = Net::new();
        net.server.nft(STATEFUL);
        Self::beside(net, TABLE)
    }

    fn beside(net: Net, name: &str) -> Self {
        let (mut daemon, client) = (net.server.agent(), net.client.agent());
        daemon.start_helper(name);
        daemon.ask("listen 22");
        Self { net, daemon, client }
    }

    fn open(&mut self, v: usize, seconds: u16, more: &str) {
        let order = format!("open {} 22 {seconds}{more}", CLIENT[v]);
        assert_eq!(self.daemon.ask(&order), "Ok(Opened)");
    }

    fn is_in(&mut self, v: usize, what: &str) {
        assert_eq!(self.client.connect(SERVER[v], 22), "connected", "{what}");
    }

    fn is_refused(&mut self, v: usize, what: &str) {
        assert_eq!(self.client.connect(SERVER[v], 22), "timed out", "{what}");
    }

    fn expectations(&self) -> usize {
        self.net.server.expectations().len()
    }
}

/// How many entries of the table are masters of ours.
fn masters(server: &Namespace) -> usize {
    let listed = ["ipv4", "ipv6"].map(|family| server.run(&["conntrack", "-L", "-f", family]));
    let lines = listed.iter().flat_map(|text| text.lines());
    lines.filter(|line| line.contains("helper=") && line.contains("dport=0 ")).count()
}

#[test]
fn one_connection_gets_in_beside_any_stateful_firewall_and_nothing_is_left() {
    for firewall in ["nft", "iptables-nft", "iptables-legacy"] {
        let net = Net::new();
        if firewall == "nft" {
            net.server.nft(STATEFUL);
        } else {
            for tool in [firewall.to_owned(), firewall.replace("ip", "ip6")] {
                net.server.run(&["sh", "-c", &format!("t={tool}; {BY_IPTABLES}")]);
            }
        }
        let mut scene = Scene::beside(net, TABLE);
        for v in [0, 1] {
            scene.is_refused(v, "before");
            scene.open(v, 600, "");
            assert_eq!(scene.client.connect(SERVER[v], 23), "timed out", "another port");
            scene.is_in(v, firewall);
            assert_eq!(scene.client.ask("talk 22"), "talked");
            scene.is_refused(v, "a second one");
            assert_eq!(scene.expectations(), 0, "it is spent");
        }
        assert_eq!(scene.daemon.ask("end"), "exit status 0");
        assert_eq!((masters(&scene.net.server), scene.net.server.has_table(TABLE)), (0, false));
        assert_eq!(scene.client.ask("talk 22"), "talked", "who is in stays in");
    }
}

#[test]
fn any_number_gets_in_until_it_is_closed() {
    let mut scene = Scene::new();
    for v in [0, 1] {
        scene.open(v, 600, " any");
        for _ in 0..5 {
            scene.is_in(v, "any");
        }
        assert_eq!(scene.daemon.close(CLIENT[v], 22), "Ok(Done)");
        scene.is_refused(v, "closed");
        assert_eq!(scene.daemon.close(CLIENT[v], 22), "Ok(Done)", "closed already is fine");
        assert_eq!((scene.expectations(), masters(&scene.net.server)), (0, 0));
    }
}

#[test]
fn udp_gets_in_too_and_only_for_its_own_port_and_protocol() {
    let mut scene = Scene::new();
    scene.daemon.ask("listen-udp 5182");
    for v in [0, 1] {
        let ask = format!("datagram {} 5182", SERVER[v]);
        assert!(scene.client.ask(&ask).starts_with("Err"), "before");
        let open = format!("open {} 5182 600 udp", CLIENT[v]);
        assert_eq!(scene.daemon.ask(&open), "Ok(Opened)");
        assert_eq!(scene.client.connect(SERVER[v], 5182), "timed out", "TCP");
        assert_eq!(scene.client.ask(&ask), "answered");
        assert!(scene.client.ask(&ask).starts_with("Err"), "a second flow");
    }
}

#[test]
fn a_grant_is_for_one_address_of_each_side() {
    let mut scene = Scene::new();
    scene.net.server.run(&["ip", "addr", "add", "10.77.0.9/24", "dev", "s0"]);
    for (who, to) in [("10.77.0.3", SERVER[0]), (CLIENT[0], "10.77.0.9"), ("fd77::3", SERVER[1])] {
        assert_eq!(scene.daemon.ask(&format!("open {who} 22 600 {to}")), "Ok(Opened)");
    }
    for v in [0, 1] {
        scene.is_refused(v, "somebody else's");
    }
    assert_eq!(scene.expectations(), 3);
    assert_eq!(scene.client.connect("10.77.0.9", 22), "connected", "the address that was named");
}

/// Addresses that come after the start count, and those that go do not.
#[test]
fn only_an_address_of_this_host_now_is_a_destination_and_none_is_a_client() {
    let mut scene = Scene::new();
    for (client, address) in [(CLIENT[0], "10.77.0.77"), (CLIENT[1], "fd77::77")] {
        let order = format!("open {client} 22 600 {address}");
        assert_eq!(scene.daemon.ask(&order), "Ok(NotOurs)", "on the link, but another host's");
        let change = |what| {
            let nodad: &[&str] =
                if client == CLIENT[1] && what == "add" { &["nodad"] } else { &[] };
            let host = format!("{address}/{}", if client == CLIENT[0] { 24 } else { 64 });
            scene.net.server.run(&[&["ip", "addr", what, &host, "dev", "s0"], nodad].concat());
        };
        change("add");
        assert_eq!(scene.daemon.ask(&order), "Ok(Opened)");
        change("del");
        assert_eq!(scene.daemon.ask(&order), "Ok(NotOurs)");
    }
    for (elsewhere, own) in [("198.51.100.1", "10.77.0.1"), ("2001:db8::1", "fd77::1")] {
        let order = format!("open {own} 22 600 {elsewhere}");
        assert_eq!(scene.daemon.ask(&order), "Ok(NotOurs)", "no route");
    }
    scene.net.server.run(&["ip", "addr", "add", "10.77.0.9/24", "dev", "s0"]);
    assert_eq!(scene.daemon.ask("open 10.77.0.9 22 600 10.77.0.1"), "Ok(Ours)");
    assert_eq!(scene.expectations(), 2, "those that were opened before");
}

/// Both SYNs are on their way before either has spent the expectation.
#[test]
fn of_two_connections_at_the_same_instant_one_gets_in() {
    let mut scene = Scene::new();
    let pairs = std::env::var("KNOCK_PAIRS").map_or(300, |pairs| pairs.parse().unwrap());
    for pair in 0..pairs {
        scene.open(0, 600, "");
        let got_in = scene.client.ask(&format!("connect-twice {} 22", SERVER[0]));
        assert_eq!(got_in, "1", "pair {pair}");
    }
}

#[test]
fn opening_again_renews_the_time_and_never_doubles() {
    let mut scene = Scene::new();
    for v in [0, 1] {
        for (seconds, more) in [(60, ""), (600, ""), (60, " any"), (600, " any")] {
            scene.open(v, seconds, more);
            let listed = scene.net.server.expectations();
            let ours: Vec<_> = listed.iter().filter(|one| one.0 == CLIENT[v]).collect();
            assert_eq!(ours.len(), 1, "{listed:?}");
            assert_eq!((ours[0].1.as_str(), ours[0].2), (SERVER[v], 22));
            let (left, seconds) = (ours[0].3, u64::from(seconds));
            assert!(left <= seconds && left + 30 > seconds, "{left} of {seconds} s left");
        }
        scene.is_in(v, "renewed");
    }
    assert_eq!(masters(&scene.net.server), 2);
}

/// The time is more than any helper's policy has, and the master lives as long.
#[test]
fn a_grant_lasts_longer_than_the_policy_of_the_conntrack_helper() {
    let mut scene = Scene::new();
    let helpers = scene.daemon.ask("helpers");
    assert!(helpers.contains("netbios-ns"), "{helpers}: 3 seconds");
    scene.open(0, 600, "");
    let start = Instant::now();
    until(10, "the policy's time is over", || start.elapsed().as_secs() >= 4);
    scene.is_in(0, "after the policy's time");
}

/// The kernel's clock alone ends it: nobody of ours is left.
#[test]
fn the_kernel_ends_a_grant_when_everything_of_ours_was_killed() {
    let mut scene = Scene::new();
    let mut doomed = scene.net.server.agent();
    let helper = Pid::from_raw(doomed.start_helper("knockknock-doomed"));
    for address in CLIENT {
        assert_eq!(doomed.ask(&format!("open {address} 22 2 any")), "Ok(Opened)");
    }
    let opened = Instant::now();
    for pid in [Pid::from_raw(doomed.pid().cast_signed()), helper] {
        kill(pid, Signal::SIGKILL).unwrap();
    }
    until(2, "the table is gone", || !scene.net.server.has_table("knockknock-doomed"));
    scene.is_in(0, "before the time is over");
    let (mut last_in, mut v6) = (opened.elapsed(), 0);
    while scene.client.ask(&format!("connect {} 22 40", SERVER[0])) == "connected" {
        last_in = opened.elapsed();
        v6 += usize::from(scene.client.ask(&format!("connect {} 22 40", SERVER[1])) == "connected");
    }
    println!("open at {last_in:?}, shut at {:?} of 2 s", opened.elapsed());
    assert!(v6 > 0);
    until(3, "the expectations are gone", || scene.expectations() == 0);
    scene.is_refused(0, "after the time");
    scene.is_refused(1, "after the time");
    until(5, "the masters are gone", || masters(&scene.net.server) == 0);
}

#[test]
fn what_is_open_is_closed_at_the_helpers_end_however_the_daemon_went() {
    for kills in [false, true] {
        let server = Namespace::server();
        let mut daemon = server.agent();
        let helper = daemon.start_helper(TABLE);
        for (address, more) in [("192.0.2.7", ""), ("192.0.2.8", " any"), ("2001:db8::7", " any")] {
            assert_eq!(daemon.ask(&format!("open {address} 22 600{more}")), "Ok(Opened)");
        }
        assert_eq!((server.expectations().len(), masters(&server)), (3, 3));
        if kills {
            kill(Pid::from_raw(daemon.pid().cast_signed()), Signal::SIGKILL).unwrap();
            until(5, "the helper ends", || !fs::exists(format!("/proc/{helper}/fd/0")).unwrap());
        } else {
            assert_eq!(daemon.ask("end"), "exit status 0");
        }
        assert_eq!((server.expectations(), masters(&server)), (vec![], 0));
        assert!(!server.has_table(TABLE));
    }
}

/// A daemon that was killed with its helper left its grants: the next one's is made all the same.
#[test]
fn a_grant_that_was_never_met_is_replaced_by_the_next_daemon() {
    let mut scene = Scene::new();
    let mut doomed = scene.net.server.agent();
    let helper = Pid::from_raw(doomed.start_helper("knockknock-doomed"));
    assert_eq!(doomed.ask(&format!("open {} 22 600 any", CLIENT[0])), "Ok(Opened)");
    for pid in [Pid::from_raw(doomed.pid().cast_signed()), helper] {
        kill(pid, Signal::SIGKILL).unwrap();
    }
    until(2, "the table is gone", || !scene.net.server.has_table("knockknock-doomed"));
    assert_eq!(scene.expectations(), 1);
    scene.open(0, 600, "");
    assert_eq!(scene.expectations(), 1);
    scene.is_in(0, "the new one");
    scene.is_refused(0, "the old one let any number in");
}

#[test]
fn somebody_elses_flush_takes_a_grant_and_the_next_one_works() {
    let mut scene = Scene::new();
    for more in ["", " any"] {
        for v in [0, 1] {
            scene.open(v, 600, more);
        }
        scene.net.server.run(&["conntrack", "-F"]);
        scene.is_refused(0, "flushed");
        for v in [0, 1] {
            scene.open(v, 600, more);
            scene.is_in(v, "opened again");
            assert_eq!(scene.daemon.close(CLIENT[v], 22), "Ok(Done)");
        }
    }
    scene.open(0, 600, "");
    scene.net.server.nft("flush ruleset");
    scene.net.server.nft(STATEFUL);
    scene.is_in(0, "a flush of the rules takes nothing");
}

#[test]
fn a_thousand_grants_are_open_at_once_and_closing_makes_room() {
    let scene = &mut Scene::beside(Net::new(), "many:knockknock");
    let said = scene.daemon.ask("open-many 1024 600");
    println!("open: {said}");
    assert!(said.starts_with("1024 Ok(Opened)"), "{said}");
    // A list that is read while other entries come and go may miss one, so it may take another look.
    until(5, "1,024 of each", || {
        (scene.expectations(), masters(&scene.net.server)) == (1024, 1024)
    });
    assert_eq!(scene.daemon.ask("end"), "exit status 0");
    assert_eq!((scene.expectations(), masters(&scene.net.server)), (0, 0));

    let server = Namespace::server();
    let mut daemon = server.agent();
    daemon.start_helper(TABLE);
    for port in [1, 2, 3] {
        assert_eq!(daemon.open("192.0.2.7", port, 600), "Ok(Opened)");
    }
    assert_eq!(daemon.open("192.0.2.7", 4, 600), "Ok(FullForSource)");
    assert_eq!(daemon.open("192.0.2.7", 3, 600), "Ok(Opened)", "one that is open is renewed");
    assert_eq!(daemon.close("192.0.2.7", 3), "Ok(Done)");
    assert_eq!(daemon.open("192.0.2.7", 4, 600), "Ok(Opened)");
}

/// The kernel's own limit of expectations, 4,096 where nobody changed it.
#[test]
fn too_many_expectations_are_refused_and_said() {
    let most = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_expect_max").unwrap();
    let most: usize = most.trim().parse().unwrap();
    let scene = &mut Scene::beside(Net::new(), "many:knockknock");
    let said = scene.daemon.ask(&format!("open-many {} 600", most + 10));
    assert!(said.starts_with(&format!("{} Ok(Failed({}))", most + 1, nix::libc::EMFILE)), "{said}");
    until(5, "as many of each", || {
        (scene.expectations(), masters(&scene.net.server)) == (most, most)
    });
    assert_eq!(scene.daemon.close("10.78.0.1", 22), "Ok(Done)");
    assert_eq!(scene.daemon.ask("open 192.0.2.7 22 600"), "Ok(Opened)");
}

/// The table of this namespace has as many entries as the kernel's limit allows, each of which stays.
#[test]
fn a_full_table_is_refused_and_said() {
    let most = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max").unwrap();
    let most: u32 = most.trim().parse().unwrap();
    let mut scene = Scene::new();
    scene.open(1, 600, "");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("entries");
    let entry = |nth: u32| {
        let [_, a, b, c] = nth.to_be_bytes();
        format!(
            "-I -s 10.{a}.{b}.{c} -d 198.51.100.1 -p udp --sport 1 --dport 1 -t 600 -u SEEN_REPLY,ASSURED\n"
        )
    };
    fs::write(&file, (0..most).map(entry).collect::<String>()).unwrap();
    // It ends at the first that does not fit.
    scene.net.server.try_run(&["conntrack", "-R", file.to_str().unwrap()]);
    let order = format!("open {} 22 600", CLIENT[0]);
    assert_eq!(scene.daemon.ask(&order), format!("Ok(Failed({}))", nix::libc::ENOMEM));
    assert_eq!(scene.expectations(), 1, "the one that was open");
    scene.net.server.run(&["conntrack", "-F"]);
    scene.open(0, 600, "");
    scene.is_in(0, "there is room again");
}
