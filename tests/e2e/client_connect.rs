//! `knock -W`: knock and connect in one, under ssh and alone, over networks that are not kind.

use std::time::{Duration, Instant};

use crate::net::{FAMILIES, Family, Host, Net};
use crate::person::{OPEN_PORT, Person, Sshd, said, wrote};
use crate::site::{HOST, Log, Site, logs};

const PORT: u16 = 2222;

fn ping(person: &Person, host: &Host) -> Result<(), String> {
    let output = person.knock(host, &["-W", &format!("{HOST}:{PORT}")], "ping");
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
            let person = Person::new(&site, family);
            for count in 1..=5 {
                ping(&person, &site.net.client).unwrap();
                assert_eq!(person.counter(), count, "one knock for one connection");
            }
        }
    }
}

#[test]
fn ssh_by_the_readme_s_proxycommand_works_a_hundred_times_in_a_row() {
    let mut site = Site::start(Net::lan(), Log::Kmsg, "delay = 15\n");
    let person = Person::new(&site, Family::V4);
    let sshd = Sshd::start(&site, &person, Family::V4);
    let ssh = |host: &str| {
        let start = Instant::now();
        let mut command = person.command(&site.net.client, "ssh");
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
    let knocks = person.counter();
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
    let person = Person::new(&site, Family::V4);
    let sshd = Sshd::start(&site, &person, Family::V4);
    for _ in 0..10 {
        let mut command = person.command(&site.net.client, "ssh");
        let output =
            command.arg("-F").arg(&sshd.config).args(["by-exec", "true"]).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
    assert_eq!(person.counter(), 10);
}

#[test]
fn ssh_gets_in_over_a_link_with_the_smallest_mtu_of_ipv6() {
    let site = Site::start(Net::lan(), Log::Kmsg, "delay = 15\n");
    for host in [&site.net.client, &site.net.server] {
        host.run(&["ip", "link", "set", "eth0", "mtu", "1280"]);
    }
    let person = Person::new(&site, Family::V6);
    let sshd = Sshd::start(&site, &person, Family::V6);
    let mut command = person.command(&site.net.client, "ssh");
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
    let person = Person::new(&site, Family::V4);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| ping(&person, &site.net.client).unwrap());
        }
    });
    assert_eq!(person.counter(), 20, "one knock each");
}

#[test]
fn from_behind_an_address_translator_it_gets_in() {
    for family in FAMILIES {
        let site = Site::start(Net::nat(), Log::Kmsg, "delay = 15\n");
        let _service = site.net.server.echo(PORT);
        let person = Person::new(&site, family);
        for _ in 0..3 {
            ping(&person, &site.net.client).unwrap();
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
    let person = Person::new(&site, Family::V4);
    let mut times: Vec<Duration> = (0..20)
        .map(|_| {
            let start = Instant::now();
            ping(&person, &site.net.client).unwrap();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    eprintln!("knock -W with a firewall that drops: median of 20 {} ms", times[10].as_millis());
    assert_eq!(person.counter(), 20, "no second knock was needed");
}

#[test]
fn with_a_fifth_of_all_packets_lost_it_gets_in_or_says_why() {
    let site = Site::start(Net::lan(), Log::Kmsg, "delay = 15\n");
    let _service = site.net.server.echo(PORT);
    let loss = "table inet loss { chain in { type filter hook prerouting priority raw; \
                iifname eth0 meta l4proto tcp numgen random mod 100 < 20 drop; }; }";
    site.net.server.nft(loss);
    site.net.client.nft(loss);
    let person = Person::new(&site, Family::V4);
    let mut got_in = 0;
    for _ in 0..20 {
        match ping(&person, &site.net.client) {
            Ok(()) => got_in += 1,
            Err(why) => assert!(why.contains("after 3 knocks"), "{why}"),
        }
    }
    eprintln!("20% loss both ways: {got_in} of 20 got in");
    // Three knocks are all lost once in 125 times.
    assert!(got_in >= 16, "{got_in} of 20");
}

#[test]
fn where_nobody_opens_it_says_which_stage_failed() {
    let mut site = Site::start(Net::lan(), Log::Kmsg, "delay = 15\n");
    let person = Person::new(&site, Family::V4);
    // Opened, but nobody listens.
    let why = ping(&person, &site.net.client).unwrap_err();
    assert!(why.contains("still refused after 3 knocks"), "{why}");
    // Nobody watches.
    site.stop_daemon();
    let why = ping(&person, &site.net.client).unwrap_err();
    assert!(why.contains("still refused after 3 knocks"), "{why}");
    // Nobody answers.
    site.net.server.run(&["ip", "link", "set", "eth0", "down"]);
    let why = ping(&person, &site.net.client).unwrap_err();
    assert!(why.contains("after 3 knocks"), "{why}");
    assert_eq!(person.counter(), 9);
}

#[test]
fn a_family_that_leads_nowhere_costs_a_second_and_the_other_gets_in() {
    let site = Site::start(Net::lan(), Log::Kmsg, "delay = 15\n");
    let service = site.net.server.echo(PORT);
    // IPv6 vanishes on the way; names give its address first.
    site.net.server.nft(
        "table inet hole { chain in { type filter hook prerouting priority raw; meta nfproto ipv6 meta l4proto tcp drop; }; }",
    );
    let person = Person::with_address(&site, "both.test");
    let (v6, v4) = (site.net.server.ipv6, site.net.server.ipv4);
    let hosts = person.write("hosts", &format!("{v6} both.test\n{v4} both.test\n"));
    let output = person.with_hosts(&site, &hosts, &["-W", &format!("{HOST}:{PORT}")]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(service.accepted(), 1);
    assert_eq!(person.counter(), 2, "one knock for each family");
}

#[test]
fn while_it_relays_it_holds_no_capability() {
    use std::process::Stdio;
    let site = Site::start(Net::lan(), Log::Kmsg, "delay = 15\n");
    let service = site.net.server.echo(PORT);
    let person = Person::new(&site, Family::V4);
    let mut command = person.command(&site.net.client, "knock");
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
