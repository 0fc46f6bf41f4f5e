//! The guard that the daemon holds in its own table: it stays where another program flushes the ruleset, and goes when the
//! script says so. (`guard` attacks its rules.)

use std::net::TcpStream;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::connection::{Reach, is_alive};
use crate::firewall_script::firewall;
use crate::net::{FAMILIES, Family, Host, Net};
use crate::process::{SOON, wait_until};
use crate::site::{KNOCK_PORT, Log, Site};

const PORT: u16 = 22;
const OPEN: u16 = 80;
const HELD: &str = "guard: held here too";
const DROPPED: &str = "guard: dropped, as told";

/// A server with profiles and no firewall at all.
fn site() -> Site {
    let site = Site::prepare(Net::lan(), Log::Kmsg, "allow = tcp/22\n");
    site.net.server.nft("delete table inet closed");
    site
}

/// The same; the port was closed by the script, and a daemon holds that too.
fn guarded() -> Site {
    let mut site = site();
    script(&site, &["--only", "tcp/22"]);
    site.start_daemon();
    site.wait_for(HELD);
    site
}

/// Runs the script with the daemon's own configuration directory.
fn script(site: &Site, arguments: &[&str]) -> String {
    let dir = site.config_dir();
    firewall(&site.net, &[arguments, &["--config-dir", dir.to_str().unwrap()]].concat())
}

/// Has the knocks logged, which a firewall that was flushed does no longer.
fn log_knocks(site: &Site) {
    site.net.server.nft(&format!(
        "table inet logs {{ chain c {{ type filter hook prerouting priority -300;
            tcp dport {KNOCK_PORT} tcp flags syn log prefix \"{}\" level debug flags tcp sequence,options flags ip options
        }}; }}",
        site.net.prefix
    ));
}

fn reach(site: &Site, from: &Host, port: u16) -> [Reach; 2] {
    FAMILIES.map(|family| from.can_connect(site.net.server.address(family), port, SOON))
}

/// What the daemon's table has in the chains of the guard.
fn held(site: &Site) -> String {
    let mut list = site.net.server.command("nft");
    let listed = list.args(["list", "table", "inet", "knockknock"]).output().unwrap().stdout;
    let listed = String::from_utf8(listed).unwrap();
    listed.split_once("\tchain guard {").map_or_else(String::new, |(_, rest)| rest.to_owned())
}

fn tables(site: &Site) -> String {
    site.net.server.run(&["nft", "list", "tables"])
}

/// How often the daemon has dropped its copy.
fn dropped(site: &mut Site) -> usize {
    site.daemon().lines().iter().filter(|line| line.contains(DROPPED)).count()
}

/// The daemon and its helper.
fn processes(site: &mut Site) -> [Pid; 2] {
    let daemon = site.daemon().pid();
    let helper = site.net.server.processes().into_iter().find(|pid| *pid != daemon).unwrap();
    [daemon, helper]
}

const REFUSED: [Reach; 2] = [Reach::Refused; 2];
const CONNECTED: [Reach; 2] = [Reach::Connected; 2];

#[test]
fn nobody_else_s_flush_opens_what_was_confirmed() {
    let mut site = site();
    let _services = [PORT, OPEN].map(|port| site.net.server.echo(port));
    let connect = |family| {
        let address = site.net.server.address(family);
        site.net.client.connect(address, PORT, SOON).unwrap()
    };
    let old: [TcpStream; 2] = FAMILIES.map(connect);
    script(&site, &["--only", "tcp/22"]);
    site.start_daemon();
    site.wait_for(HELD);
    site.net.server.nft("flush ruleset");
    assert!(!tables(&site).contains("knockknock_guard"));
    assert_eq!(reach(&site, &site.net.client, PORT), REFUSED);
    assert_eq!(reach(&site, &site.net.client, OPEN), CONNECTED);
    assert_eq!(reach(&site, &site.net.server, PORT), CONNECTED);

    log_knocks(&site);
    for family in FAMILIES {
        site.knock(family, PORT);
        assert_eq!(
            site.net.other.can_connect(site.net.server.address(family), PORT, SOON),
            Reach::Refused
        );
        assert_eq!(site.reach(family, PORT), Reach::Connected, "{family:?}");
    }
    assert!(old.iter().all(is_alive));
    site.net.server.run(&["conntrack", "-F"]);
    assert!(old.iter().all(is_alive), "though conntrack has forgotten them");
    assert_eq!(reach(&site, &site.net.client, PORT), REFUSED);
}

#[test]
fn the_script_s_own_table_closes_when_both_processes_are_killed() {
    let mut site = guarded();
    let _service = site.net.server.echo(PORT);
    for pid in processes(&mut site) {
        kill(pid, Signal::SIGKILL).unwrap();
    }
    wait_until(SOON, "the table goes", || held(&site).is_empty());
    assert!(tables(&site).contains("knockknock_guard"));
    assert_eq!(reach(&site, &site.net.client, PORT), REFUSED);
}

#[test]
fn undo_opens_the_port_while_a_daemon_runs() {
    let mut site = guarded();
    let _service = site.net.server.echo(PORT);
    assert_eq!(reach(&site, &site.net.client, PORT), REFUSED);
    assert!(script(&site, &["--undo"]).contains("open: nothing of ours is left"));
    assert_eq!(reach(&site, &site.net.client, PORT), CONNECTED);
    site.wait_for(DROPPED);
    for times in 2..4 {
        site.daemon().signal(Signal::SIGUSR1);
        wait_until(SOON, "once more", || dropped(&mut site) == times);
    }
    log_knocks(&site);
    site.knock(Family::V4, PORT);
    site.stop_daemon();
    site.start_daemon();
    site.wait_for("no service is closed by minimal-firewall.sh; if no other firewall closes it, tcp/22 is open");
    assert_eq!(held(&site), "");
    assert_eq!(reach(&site, &site.net.client, PORT), CONNECTED);
}

#[test]
fn a_choice_is_held_only_once_it_is_confirmed() {
    let mut site = site();
    let _service = site.net.server.echo(PORT);
    script(&site, &["--only", "tcp/22", "--confirm", "600"]);
    site.start_daemon();
    assert_eq!(held(&site), "");
    site.net.server.nft("flush ruleset");
    assert_eq!(reach(&site, &site.net.client, PORT), CONNECTED);
    script(&site, &["--confirmed"]);
    script(&site, &["--boot"]);
    assert_eq!(held(&site), "");
    site.stop_daemon();
    site.start_daemon();
    assert_ne!(held(&site), "");
}

#[test]
fn a_new_choice_and_the_way_back_from_it_are_not_kept_from_opening() {
    let mut site = guarded();
    let _services = [PORT, OPEN].map(|port| site.net.server.echo(port));
    script(&site, &["--only", "tcp/80", "--confirm", "8"]);
    assert_eq!(reach(&site, &site.net.client, PORT), CONNECTED);
    assert_eq!(reach(&site, &site.net.client, OPEN), REFUSED);
    // What a daemon holds that starts now is what was confirmed.
    site.stop_daemon();
    site.start_daemon();
    site.wait_for(HELD);
    wait_until(SOON, "the timer has it dropped", || dropped(&mut site) == 1);
    assert_eq!(held(&site), "");
    wait_until(SOON, "the way back", || reach(&site, &site.net.client, OPEN) == CONNECTED);
    assert_eq!(reach(&site, &site.net.client, PORT), REFUSED);

    // Where nothing was confirmed, the way back opens everything.
    script(&site, &["--undo"]);
    script(&site, &["--only", "tcp/22", "--confirm", "2"]);
    wait_until(SOON, "the way back", || reach(&site, &site.net.client, PORT) == CONNECTED);
    assert!(site.daemon().is_running());
}

#[test]
fn a_daemon_that_does_not_drop_it_is_ended() {
    for stop_helper in [false, true] {
        let mut site = guarded();
        let _service = site.net.server.echo(PORT);
        let [daemon, helper] = processes(&mut site);
        kill(if stop_helper { helper } else { daemon }, Signal::SIGSTOP).unwrap();
        script(&site, &["--undo"]);
        assert_eq!(reach(&site, &site.net.client, PORT), CONNECTED, "helper: {stop_helper}");
        site.daemon().wait_for_end();
        assert!(site.net.server.processes().is_empty());
    }
}

#[test]
fn a_helper_that_does_not_drop_it_is_ended() {
    let mut site = guarded();
    let [daemon, helper] = processes(&mut site);
    kill(helper, Signal::SIGSTOP).unwrap();
    kill(daemon, Signal::SIGUSR1).unwrap();
    site.wait_for("the helper did not reply in 5 seconds");
    assert!(!site.daemon().wait_for_end().success());
    assert_eq!(held(&site), "");
}

/// A process that has the number which an ended daemon has left in the lock is left alone.
#[test]
fn nobody_but_the_daemon_is_told_or_ended() {
    let site = site();
    script(&site, &["--only", "tcp/22"]);
    let mut other = crate::process::Running::start(site.net.server.command("sleep").arg("600"));
    let lock = site.config_dir().join("lock");
    std::fs::write(&lock, format!("{} knockknock\n", other.pid())).unwrap();
    let mut flock = site.net.server.command("flock");
    let _held = crate::process::Running::start(flock.arg(&lock).args(["sleep", "600"]));
    wait_until(SOON, "the lock is held", || {
        let mut flock = site.net.server.command("flock");
        !flock.arg("-n").arg(&lock).arg("true").status().unwrap().success()
    });
    script(&site, &["--undo"]);
    assert!(other.is_running());
}

#[test]
fn the_copy_lists_as_it_is_documented() {
    let mut site = site();
    let choice = "--only=tcp/22,udp/8000-8010 --except=192.0.2.7,198.51.100.0/25,2001:db8::/33 \
                  --except-interface=docker0,br-*";
    script(&site, &choice.split_whitespace().collect::<Vec<_>>());
    site.start_daemon();
    let listed = held(&site);
    let lines: Vec<&str> =
        listed.lines().map(str::trim).filter(|line| !["", "}"].contains(line)).collect();
    assert_eq!(
        lines,
        [
            "type filter hook prerouting priority dstnat - 10; policy accept;",
            "iif \"lo\" accept",
            "tcp dport 22 goto closed",
            "udp dport 8000-8010 goto closed",
            "chain closed {",
            "fib daddr type < local accept",
            "fib daddr type > multicast accept",
            "ip saddr 192.0.2.7 accept",
            "ip saddr 198.51.100.0/25 accept",
            "ip6 saddr 2001:db8::/33 accept",
            "iifname \"docker0\" accept",
            "iifname \"br-*\" accept",
            "tcp flags rst,ack accept",
            "ct state related accept",
            "meta l4proto tcp ct state established ct status ! assured accept",
            "meta l4proto != tcp ct state established accept",
            "meta l4proto tcp reject with tcp reset",
            "reject",
        ]
    );
}

#[test]
fn what_is_not_held_is_said() {
    let ports: Vec<String> = (1..=97).map(|nth| format!("tcp/{}", nth * 2)).collect();
    for (choice, config, why) in [
        (vec!["--allow", "tcp/80"], "", "the copy is for --only"),
        (vec!["--only", "tcp/22", "--iptables"], "", "--iptables"),
        (vec!["--only", &*ports.join(",")], "", "more than 96 services and exceptions"),
        (vec!["--only", "tcp/22"], "firewall = nftables\n", "it would refuse who has knocked"),
    ] {
        let mut site = Site::prepare(Net::lan(), Log::Kmsg, config);
        script(&site, &choice);
        site.start_daemon();
        site.wait_for("guard: not held here, so whoever flushes the firewall opens it: ");
        site.wait_for(why);
        assert_eq!(held(&site), "");
    }
    // As many as there may be.
    let mut site = site();
    script(&site, &["--only", &ports[..96].join(",")]);
    site.start_daemon();
    assert_eq!(held(&site).matches("goto closed").count(), 96);
}

#[test]
fn a_port_that_is_open_to_everybody_is_said_at_the_start_and_by_check() {
    let mut site = guarded();
    let check = |site: &Site| {
        let output = site.daemon_command().arg("--check").output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (_, said) = check(&site);
    assert!(said.contains("closes tcp/22") && said.contains("remembered, and loaded"), "{said}");
    site.net.server.nft("delete table inet knockknock_guard");
    let (well, said) = check(&site);
    assert!(
        !well
            && said.contains("guard     PROBLEM: closes tcp/22")
            && said.contains("is not loaded"),
        "{said}"
    );
    site.stop_daemon();
    site.start_daemon();
    site.wait_for("guard: what was confirmed is not loaded");
    site.wait_for("tcp/22 is open to everybody");
    site.wait_for("fix: run minimal-firewall.sh --boot");
    std::fs::write(site.config_dir().join("firewall"), "nonsense\n").unwrap();
    let (well, said) = check(&site);
    assert!(
        !well
            && said.contains("guard     PROBLEM: ")
            && said.contains("run minimal-firewall.sh again"),
        "{said}"
    );
    site.stop_daemon();
    site.start_daemon();
    site.wait_for("guard: not known, so what it closes may be open");
}
