//! `knock -W`: knock and connect in one, under ssh and alone, over networks that are not kind.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::connection::Reach;
use crate::delay::Delay;
use crate::net::{FAMILIES, Family, Host, Net};
use crate::site::{HOST, KNOCK_PORT, Log, Site, logs};
use crate::user::{OPEN_PORT, Sshd, User, said, wrote};
use crate::wire::{SynFrame, Tap};

const PORT: u16 = 2222;

fn ping(user: &User, host: &Host) -> Result<(), String> {
    let output = user.knock(host, &["-W", &format!("{HOST}:{PORT}")], "ping");
    if output.status.success() && wrote(&output) == "ping" {
        return Ok(());
    }
    Err(said(&output))
}

#[test]
fn a_closed_port_is_got_into_at_the_first_try_with_either_log_and_family() {
    for log in logs() {
        for family in FAMILIES {
            let site = Site::start(Net::lan(), log, "delay = 15\n");
            let _service = site.net.server.echo(PORT);
            let user = User::new(&site, family);
            for count in 1..=5 {
                ping(&user, &site.net.client).unwrap();
                assert_eq!(user.counter(), count, "one knock for one connection");
            }
        }
    }
}

#[test]
fn ssh_by_the_readme_s_proxycommand_works_a_hundred_times_in_a_row() {
    let mut site = Site::start(Net::lan(), Log::Kmsg, "delay = 15\n");
    let user = User::new(&site, Family::V4);
    let sshd = Sshd::start(&site, &user, Family::V4);
    let ssh = |host: &str| {
        let start = Instant::now();
        let mut command = user.command(&site.net.client, "ssh");
        let output = command.arg("-F").arg(&sshd.config).args([host, "true"]).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        start.elapsed()
    };
    // To an open port of the same sshd, in turn with the closed one: the machine is as busy for both.
    site.minimal_firewall(&["--allow", &format!("tcp/{OPEN_PORT}")]);
    let (mut knocked, mut plain) = (Vec::new(), Vec::new());
    for count in 0..100 {
        knocked.push(ssh(HOST));
        if count % 4 == 0 {
            plain.push(ssh("plain"));
        }
    }
    // One knock each; but a second one follows where the machine was busy with other things for a second.
    let knocks = user.counter();
    assert!((100..110).contains(&knocks), "{knocks} knocks for 100 connections");
    assert_eq!(
        site.opened(),
        usize::try_from(knocks).unwrap(),
        "every knock was heard and accepted"
    );
    knocked.sort_unstable();
    plain.sort_unstable();
    eprintln!(
        "ssh true, median: {} ms through knock -W (of 100), {} ms to an open port (of 25)",
        knocked[50].as_millis(),
        plain[12].as_millis()
    );
}

#[test]
fn ssh_by_the_readme_s_match_exec_works_too() {
    let site = Site::start(Net::lan(), Log::Kmsg, "delay = 15\n");
    let user = User::new(&site, Family::V4);
    let sshd = Sshd::start(&site, &user, Family::V4);
    for _ in 0..10 {
        let mut command = user.command(&site.net.client, "ssh");
        let output =
            command.arg("-F").arg(&sshd.config).args(["by-exec", "true"]).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
    assert_eq!(user.counter(), 10);
}

#[test]
fn ssh_gets_in_over_a_link_with_the_smallest_mtu_of_ipv6() {
    let site = Site::start(Net::lan(), Log::Kmsg, "delay = 15\n");
    for host in [&site.net.client, &site.net.server] {
        host.run(&["ip", "link", "set", "eth0", "mtu", "1280"]);
    }
    let user = User::new(&site, Family::V6);
    let sshd = Sshd::start(&site, &user, Family::V6);
    let mut command = user.command(&site.net.client, "ssh");
    let output = command
        .arg("-F")
        .arg(&sshd.config)
        .args([HOST, "head -c 1000000 /dev/zero"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(output.stdout.len(), 1_000_000);
}

#[test]
fn many_at_once_with_one_profile_take_turns_and_all_get_in() {
    let site = Site::start(Net::lan(), Log::Kmsg, "delay = 15\n");
    let _service = site.net.server.echo(PORT);
    let user = User::new(&site, Family::V4);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| ping(&user, &site.net.client).unwrap());
        }
    });
    assert_eq!(user.counter(), 20, "one knock each");
}

#[test]
fn from_behind_an_address_translator_it_gets_in() {
    for family in FAMILIES {
        let site = Site::start(Net::nat(), Log::Kmsg, "delay = 15\n");
        let _service = site.net.server.echo(PORT);
        let user = User::new(&site, family);
        for _ in 0..3 {
            ping(&user, &site.net.client).unwrap();
        }
    }
}

#[test]
fn a_firewall_that_drops_instead_of_refusing_costs_no_second() {
    let site = Site::start(Net::lan(), Log::Kmsg, "delay = 15\n");
    let _service = site.net.server.echo(PORT);
    site.net.server.nft(
        "table inet silent { chain out { type filter hook output priority 10; tcp flags rst drop; }; }",
    );
    let user = User::new(&site, Family::V4);
    let mut times: Vec<Duration> = (0..20)
        .map(|_| {
            let start = Instant::now();
            ping(&user, &site.net.client).unwrap();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    eprintln!("knock -W with a firewall that drops: median of 20 {} ms", times[10].as_millis());
    assert_eq!(user.counter(), 20, "no second knock was needed");
}

#[test]
fn over_a_long_wire_several_attempts_are_admitted_and_one_connection_counts() {
    for family in FAMILIES {
        let net = Net::lan();
        let _wire = Delay::on(&net, Duration::from_millis(80), Duration::from_millis(20));
        let site = Site::start(net, Log::Kmsg, "delay = 15\n");
        let service = site.net.server.echo(PORT);
        // Both ends learn each other's Ethernet address: a long wire is many short ones, and this goes over the first.
        assert_eq!(site.reach(family, PORT), Reach::Refused);
        let user = User::new(&site, family);
        for _ in 0..10 {
            ping(&user, &site.net.client).unwrap();
        }
        // A handshake that another attempt completes may take until then.
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!((service.accepted(), user.counter()), (10, 10));
    }
}

#[test]
fn with_a_fifth_of_all_packets_lost_it_gets_in_or_says_why() {
    let site = Site::start(Net::lan(), Log::Kmsg, "delay = 15\n");
    let _service = site.net.server.echo(PORT);
    let loss = "table inet loss { chain in { type filter hook prerouting priority -400; \
                iifname eth0 meta l4proto tcp numgen random mod 100 < 20 drop; }; }";
    site.net.server.nft(loss);
    site.net.client.nft(loss);
    let user = User::new(&site, Family::V4);
    let mut got_in = 0;
    for _ in 0..20 {
        match ping(&user, &site.net.client) {
            Ok(()) => got_in += 1,
            Err(why) => assert!(why.contains("after 3 SYNs (2 counters)"), "{why}"),
        }
    }
    eprintln!("20% loss both ways: {got_in} of 20 got in");
    // Three SYNs are all lost once in 125 times.
    assert!(got_in >= 16, "{got_in} of 20");
}

#[test]
fn where_nobody_opens_it_says_which_stage_failed() {
    let mut site = Site::start(Net::lan(), Log::Kmsg, "delay = 15\n");
    let user = User::new(&site, Family::V4);
    // Opened, but nobody listens: a refusal like any other.
    let why = ping(&user, &site.net.client).unwrap_err();
    assert!(why.contains("still refused after 3 SYNs (2 counters)"), "{why}");
    assert!(why.contains("or the port opened but nothing listens there"), "{why}");
    // Nobody watches.
    site.stop_daemon();
    let why = ping(&user, &site.net.client).unwrap_err();
    assert!(why.contains("still refused after 3 SYNs (2 counters)"), "{why}");
    // Nobody answers.
    site.net.server.run(&["ip", "link", "set", "eth0", "down"]);
    let why = ping(&user, &site.net.client).unwrap_err();
    assert!(why.contains("after 3 SYNs (2 counters)"), "{why}");
    assert_eq!(user.counter(), 6);
}

#[test]
fn where_a_firewall_drops_an_open_port_that_nobody_listens_on_is_told_of() {
    for family in FAMILIES {
        let mut site = Site::start(Net::lan(), Log::Kmsg, "delay = 15\n");
        // Refusals by a firewall never leave; the host's own, of a SYN that was let in, do.
        site.net.server.nft(
            "table inet silent { \
             chain in { type filter hook input priority -5; tcp dport 2222 ct state new drop; }; \
             chain out { type filter hook output priority 10; tcp flags rst tcp sport 666 drop; }; }",
        );
        let user = User::new(&site, family);
        let why = ping(&user, &site.net.client).unwrap_err();
        assert!(why.contains("tcp/2222 opened, but nothing listens there"), "{why}");
        // With nobody who opens, it is silence alone.
        site.stop_daemon();
        let why = ping(&user, &site.net.client).unwrap_err();
        assert!(why.contains("no answer after 3 SYNs (2 counters)"), "{why}");
    }
}

/// The knocks that pass while somebody whom nobody lets in tries once.
fn knocks_of_one_try(site: &Site, knock: impl FnOnce() -> bool) -> Vec<SynFrame> {
    let mut tap = Tap::on(&site.net.server);
    let tapped = std::thread::spawn(move || tap.syns_to(KNOCK_PORT, Duration::from_secs(4)));
    assert!(!knock(), "nobody watches, so nobody gets in");
    tapped.join().unwrap()
}

#[test]
fn a_retry_is_the_same_packet_and_costs_no_counter() {
    let mut site = Site::start(Net::lan(), Log::Kmsg, "delay = 15\n");
    site.stop_daemon();
    for family in FAMILIES {
        let user = User::new(&site, family);
        let knocks = knocks_of_one_try(&site, || ping(&user, &site.net.client).is_ok());
        assert_eq!(knocks.len(), 3);
        assert_eq!(knocks[0].frame, knocks[1].frame, "byte for byte");
        assert_ne!(knocks[1].sequence, knocks[2].sequence, "a knock of its own");
        assert_eq!(user.counter(), 2);
    }
}

#[test]
fn with_two_families_each_has_a_counter_and_is_tried_again() {
    let mut site = Site::start(Net::lan(), Log::Kmsg, "delay = 15\n");
    site.stop_daemon();
    let user = User::with_address(&site, "both.test");
    let (v6, v4) = (site.net.server.ipv6, site.net.server.ipv4);
    let hosts = user.write("hosts", &format!("{v6} both.test\n{v4} both.test\n"));
    let to = format!("{HOST}:{PORT}");
    let knocks =
        knocks_of_one_try(&site, || user.with_hosts(&site, &hosts, &["-W", &to]).status.success());
    let destinations: Vec<_> = knocks.iter().map(|syn| syn.destination).collect();
    let (v6, v4): (IpAddr, IpAddr) = (v6.into(), v4.into());
    assert_eq!(destinations, [v6, v4, v6, v4]);
    assert_eq!(knocks[0].frame, knocks[2].frame);
    assert_eq!(knocks[1].frame, knocks[3].frame);
    assert_ne!(knocks[0].sequence, knocks[1].sequence);
    assert_eq!(user.counter(), 2);
}

#[test]
fn lost_packets_are_sent_again_and_it_gets_in() {
    for family in FAMILIES {
        // A quota of bytes: of 40 or 60 each, the first passes no more, or the first two.
        for (quota, counters) in [("79 bytes", 1), ("119 bytes", 2)] {
            if family == Family::V6 && counters == 2 {
                continue;
            }
            let site = Site::start(Net::lan(), Log::Kmsg, "delay = 15\n");
            let _service = site.net.server.echo(PORT);
            site.net.server.nft(&format!(
                "table inet loss {{ chain in {{ type filter hook prerouting priority -400; \
                 tcp dport {KNOCK_PORT} quota until {quota} drop; }}; }}"
            ));
            let user = User::new(&site, family);
            ping(&user, &site.net.client).unwrap();
            assert_eq!(user.counter(), counters, "{family:?}, {quota}");
        }
    }
}

#[test]
fn a_second_knock_of_one_try_gets_in_when_the_server_comes_back() {
    let mut site = Site::start(Net::lan(), Log::Kmsg, "delay = 15\n");
    let _service = site.net.server.echo(PORT);
    let user = User::new(&site, Family::V4);
    site.stop_daemon();
    for _ in 0..2 {
        ping(&user, &site.net.client).unwrap_err();
    }
    assert_eq!(user.counter(), 4, "two a try");
    site.start_daemon();
    ping(&user, &site.net.client).unwrap();
    assert_eq!(user.counter(), 5);
}

#[test]
fn a_family_that_leads_nowhere_costs_a_second_and_the_other_gets_in() {
    let site = Site::start(Net::lan(), Log::Kmsg, "delay = 15\n");
    let service = site.net.server.echo(PORT);
    // IPv6 vanishes on the way; names give its address first.
    site.net.server.nft(
        "table inet hole { chain in { type filter hook prerouting priority raw; meta nfproto ipv6 meta l4proto tcp drop; }; }",
    );
    let user = User::with_address(&site, "both.test");
    let (v6, v4) = (site.net.server.ipv6, site.net.server.ipv4);
    let hosts = user.write("hosts", &format!("{v6} both.test\n{v4} both.test\n"));
    let output = user.with_hosts(&site, &hosts, &["-W", &format!("{HOST}:{PORT}")]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(service.accepted(), 1);
    assert_eq!(user.counter(), 2, "one knock for each family");
}

#[test]
fn while_it_relays_it_holds_no_capability() {
    use std::process::Stdio;
    let site = Site::start(Net::lan(), Log::Kmsg, "delay = 15\n");
    let service = site.net.server.echo(PORT);
    let user = User::new(&site, Family::V4);
    let mut command = user.command(&site.net.client, "knock");
    command.args(["-W", &format!("{HOST}:{PORT}")]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut knock = command.spawn().unwrap();
    crate::process::wait_until(crate::process::SOON, "a connection", || service.accepted() == 1);
    let status = std::fs::read_to_string(format!("/proc/{}/status", knock.id())).unwrap();
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert!(status.contains(&format!("{set}:\t0000000000000000")), "{status}");
    }
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    drop(knock.stdin.take());
    assert!(knock.wait().unwrap().success());
}
