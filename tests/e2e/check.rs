//! `knock-daemon --check --try`: a stranger tries each service, a knock opens it once, and nothing of the trial is left.

use std::path::PathBuf;
use std::process::Output;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::net::Net;
use crate::process::{Running, SOON, wait_until};
use crate::site::{Log, Site, write_private};

/// The service behind the door.
const PORT: u16 = 2222;
/// Another one.
const OTHER_PORT: u16 = 2223;

/// What the plain firewalls of these tests have in common: they log every SYN, need what IPv6 needs, and drop the rest.
/// `accepts` goes first.
fn firewall(site: &Site, accepts: &str) {
    site.net.server.nft("flush ruleset\n");
    site.net.server.nft(&format!(
        "table inet filter {{
            chain input {{
                type filter hook input priority filter; policy drop;
                {accepts}
                iif lo accept
                icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
                tcp flags & (fin | syn | rst | ack) == syn \
                    log prefix \"{}\" level debug flags tcp sequence,options flags ip options
            }}
        }}",
        site.net.prefix
    ));
}

fn site() -> Site {
    Site::prepare(Net::lan(), Log::Kmsg, &format!("allow = tcp/{PORT}\n"))
}

fn command(site: &Site) -> std::process::Command {
    let mut command = site.daemon_command();
    command.args(["--check", "--try"]);
    command
}

/// What it says, and its exit status.
fn tried(site: &Site) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = command(site).output().unwrap();
    (status.code(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

/// Nothing of a trial is in the server's namespace: no interface, no process, no table, no expectation.
#[track_caller]
fn nothing_is_left(site: &Site) {
    let server = &site.net.server;
    wait_until(SOON, "the cable gone", || !server.run(&["ip", "-o", "link"]).contains("kktry"));
    wait_until(SOON, "its processes gone", || server.processes().is_empty());
    let tables = server.run(&["nft", "list", "tables"]);
    assert!(!tables.contains("knockknock"), "{tables}");
    assert!(site.grants().is_empty(), "{:?}", site.grants());
    let routes = server.run(&["sh", "-c", "ip -4 route; ip -6 route"]);
    assert!(!routes.contains("198.18.") && !routes.contains("2001:2:"), "{routes}");
}

/// Where the trial of that process keeps the config of its daemon.
fn dir(pid: Pid) -> PathBuf {
    format!("/run/knockknock-try.{pid}").into()
}

/// A trial that has come so far that its daemon runs.
fn half_way(site: &Site) -> Running {
    let trial = Running::start(&mut command(site));
    let pid = trial.pid();
    wait_until(SOON, "the trial daemon and its helper", || {
        dir(pid).exists() && site.net.server.processes().len() >= 3
    });
    assert!(site.net.server.run(&["ip", "-o", "link"]).contains("kktry"));
    trial
}

#[test]
fn a_firewall_that_accepts_established_and_related_is_well_in_both_families() {
    let site = site();
    firewall(&site, "ct state established,related accept");
    let service = site.net.server.echo(PORT);
    let mut trial = Running::start(&mut command(&site));
    let status = trial.wait_for_end();
    let said = trial.lines().join("\n");
    assert!(status.success(), "{said}");
    for host in [site.net.server.ipv4.to_string(), site.net.server.ipv6.to_string()] {
        let seen = format!(
            "tcp/{PORT} at {host}: a stranger was left without an answer, a knock let one connection in, and the next was kept out"
        );
        assert!(said.contains(&seen), "{said}");
    }
    assert!(said.contains("rules that name interfaces"), "{said}");
    wait_until(SOON, "one connection in each family", || service.accepted() == 2);
    nothing_is_left(&site);
    assert!(!dir(trial.pid()).exists());
}

#[test]
fn a_firewall_that_drops_related_fails_the_knock() {
    let site = site();
    firewall(&site, "ct state established accept");
    let service = site.net.server.echo(PORT);
    let (status, said) = tried(&site);
    assert_eq!(status, Some(1), "{said}");
    assert_eq!(said.matches("the connection did not get in").count(), 2, "{said}");
    assert!(said.contains("must accept what conntrack calls RELATED"), "{said}");
    assert_eq!(service.accepted(), 0);
    nothing_is_left(&site);
}

#[test]
fn a_knock_that_no_log_tells_of_is_a_problem() {
    let rule = |log_rule: &str| {
        let config = format!("allow = tcp/{PORT}\nlog_rule = {log_rule}\n");
        let site = Site::prepare(Net::lan(), Log::Kmsg, &config);
        site.net.server.nft("flush ruleset\n");
        // It logs nothing.
        site.net.server.nft(&format!(
            "table inet filter {{ chain input {{ type filter hook input priority filter;
                ct state established,related accept
                tcp dport {PORT} reject with tcp reset; }}; }}"
        ));
        let _service = site.net.server.echo(PORT);
        let tried = tried(&site);
        nothing_is_left(&site);
        tried
    };
    let (status, said) = rule("firewall");
    assert_eq!(status, Some(1), "{said}");
    assert_eq!(said.matches("opened nothing: it was not logged").count(), 2, "{said}");
    let (status, said) = rule("own");
    assert_eq!(status, Some(0), "our own table logs it: {said}");
    assert_eq!(said.matches("a knock let one connection in").count(), 2, "{said}");
}

#[test]
fn a_service_that_nothing_closes_is_open_to_strangers() {
    let site = site();
    site.net.server.nft("flush ruleset\n");
    let _service = site.net.server.echo(PORT);
    let plain = site.daemon_command().arg("--check").output().unwrap();
    assert!(plain.status.success(), "without a packet nobody can know: {plain:?}");
    let plain = String::from_utf8(plain.stdout).unwrap();
    assert!(plain.contains(&format!("no guard of ours closes tcp/{PORT}")), "{plain}");
    let (status, said) = tried(&site);
    assert_eq!(status, Some(1), "{said}");
    for host in [site.net.server.ipv4.to_string(), format!("[{}]", site.net.server.ipv6)] {
        let open = format!("tcp/{PORT} is open to strangers ({host}:{PORT} let one in)");
        assert!(said.contains(&open), "{said}");
    }
    nothing_is_left(&site);
}

#[test]
fn where_nothing_listens_it_says_what_could_be_seen() {
    let site = site();
    // Silence before and the host's own refusal after: the knock was let through.
    firewall(&site, "ct state established,related accept");
    let (status, said) = tried(&site);
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(said.matches("let through, but nothing listens there").count(), 2, "{said}");
    // Refused before and after: nobody can tell by whom.
    site.net
        .server
        .nft(&format!("add rule inet filter input tcp dport {PORT} reject with tcp reset"));
    let (status, said) = tried(&site);
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(said.matches("nobody can see whether the firewall lets it in").count(), 2, "{said}");
}

#[test]
fn a_guard_that_is_remembered_has_to_be_loaded() {
    let site = site();
    let remembered = format!("[main]\nbackend = nftables\nonly = tcp/{PORT}, udp/51820\n");
    std::fs::write(site.config_dir().join("firewall"), remembered).unwrap();
    let check = || {
        let output = site.daemon_command().arg("--check").output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (status, said) = check();
    assert_eq!(status, Some(1), "{said}");
    assert!(
        said.contains("but is not loaded") && said.contains("minimal-firewall.sh --boot"),
        "{said}"
    );
    site.net.server.nft("table inet knockknock_guard { }");
    let (status, said) = check();
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("closes tcp/2222, udp/51820: remembered, and loaded"), "{said}");
    assert!(!said.contains("--check --try"), "nothing is unsure: {said}");
}

#[test]
fn a_closed_service_that_no_knock_may_open_is_only_tried_as_a_stranger() {
    let site = site();
    firewall(&site, "ct state established,related accept");
    let guard = format!("[main]\nbackend = iptables\nonly = tcp/{OTHER_PORT}\n");
    std::fs::write(site.config_dir().join("firewall"), guard).unwrap();
    let (_listeners, other) = (site.net.server.echo(PORT), site.net.server.echo(OTHER_PORT));
    let (status, said) = tried(&site);
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(said.matches("no knock may open it").count(), 2, "{said}");
    assert_eq!(other.accepted(), 0);
}

#[test]
fn without_the_means_it_says_so_and_nothing_else_changes() {
    let site = site();
    let daemon = site.daemon_command();
    let mut without = site.net.server.command("setpriv");
    without
        .args(["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"])
        .args(daemon.get_args().skip_while(|arg| *arg != env!("CARGO_BIN_EXE_knock-daemon")))
        .args(["--check", "--try"]);
    let output = without.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("nothing could be tried: cannot make a network namespace"), "{said}");
}

#[test]
fn a_trial_that_is_told_to_end_leaves_nothing() {
    let site = site();
    firewall(&site, "ct state established accept");
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut trial = half_way(&site);
        trial.signal(signal);
        assert_eq!(trial.wait_for_end().code(), Some(1));
        trial.wait_for_line("why", |line| {
            line.contains("interrupted; nothing of the trial is left")
        });
        assert!(!dir(trial.pid()).exists());
        nothing_is_left(&site);
    }
}

#[test]
fn a_trial_that_is_killed_leaves_what_the_next_one_removes() {
    let site = site();
    firewall(&site, "ct state established,related accept");
    let killed = {
        let mut trial = half_way(&site);
        assert!(
            dir(trial.pid()).exists(),
            "from here on it is the next one's, which may be another test's"
        );
        kill(trial.pid(), Signal::SIGKILL).unwrap();
        trial.wait_for_end();
        trial.pid()
    };
    nothing_is_left(&site);
    let (status, said) = tried(&site);
    assert_eq!(status, Some(0), "{said}");
    assert!(!dir(killed).exists());
    nothing_is_left(&site);
}

#[test]
fn check_says_what_conntrack_is_set_to() {
    let site = site();
    // Settings of our own, in the mount namespace that `ip netns exec` makes.
    let checks = |settings: &[(&str, u32)]| {
        let set: Vec<String> = settings
            .iter()
            .map(|(name, value)| format!("echo {value} >$dir/nf_conntrack_{name}\n"))
            .collect();
        let script = format!(
            "set -e\ndir=/proc/sys/net/netfilter\nmount -t tmpfs none $dir\n{}exec \"$0\" \"$@\" --check",
            set.concat()
        );
        let daemon = site.daemon_command();
        let mut check = site.net.server.command("sh");
        check
            .args(["-c", &script])
            .args(daemon.get_args().skip_while(|arg| *arg != env!("CARGO_BIN_EXE_knock-daemon")));
        let output = check.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (status, said) = checks(&[("max", 262_144), ("count", 7), ("tcp_loose", 1)]);
    assert!(status == Some(0) && !said.contains("\nconntrack "), "{said}");
    for (settings, says) in [
        (&[("tcp_be_liberal", 1)][..], "WARNING: net.netfilter.nf_conntrack_tcp_be_liberal is 1"),
        (&[("max", 2000)], "WARNING: net.netfilter.nf_conntrack_max is 2000"),
        (&[("expect_max", 1023)], "nf_conntrack_expect_max is 1023, less than `max_open` (1024)"),
        (&[("tcp_loose", 0)], "net.netfilter.nf_conntrack_tcp_loose is 0"),
    ] {
        let (status, said) = checks(settings);
        assert!(status == Some(0) && said.contains(says), "{status:?} {said}");
    }
    let (status, said) = checks(&[("max", 2000), ("count", 2000)]);
    assert!(status == Some(1) && said.contains("PROBLEM: 2000 connections are known"), "{said}");
}

#[test]
fn check_says_what_each_profile_can_open() {
    let site = Site::prepare(Net::lan(), Log::Kmsg, "allow = tcp/2000-2999, udp/53\n");
    let config = site.profile("other").join("config");
    let text = std::fs::read_to_string(&config).unwrap();
    write_private(&config, text + "allow = tcp/2990-3010, tcp/22\n");
    let output = site.daemon_command().arg("--check").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    for line in [
        "\"client\" (classic) knocks on port 666 and can open tcp/2000-2999, udp/53\n",
        "\"other\" (classic) knocks on port 667 and can open tcp/2990-2999\n",
        "WARNING: no `allow`, or one too wide to list, for the profiles \"client\": a flood of SYNs can silence",
    ] {
        assert!(said.contains(line), "{said}");
    }
    assert!(said.contains("\nclock ") && said.contains("conntrack works (helpers: "), "{said}");
}

#[test]
fn with_our_own_guard_everything_is_well() {
    let site = site();
    site.net.server.nft("flush ruleset\n");
    site.script(&["--only", &format!("tcp/{PORT},udp/51820")]);
    let service = site.net.server.echo(PORT);
    let (status, said) = tried(&site);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("closes tcp/2222, udp/51820: remembered, and loaded"), "{said}");
    let seen = "a stranger was refused, a knock let one connection in, and the next was kept out";
    assert_eq!(said.matches(seen).count(), 2, "{said}");
    assert!(said.contains("not tried, because silence tells nothing: udp/51820"), "{said}");
    wait_until(SOON, "one connection in each family", || service.accepted() == 2);
}

#[test]
fn a_trial_beside_the_daemon_that_runs_disturbs_neither() {
    let mut site = site();
    firewall(&site, "ct state established,related accept");
    site.start_daemon();
    let _service = site.net.server.echo(PORT);
    let (status, said) = tried(&site);
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(said.matches("a knock let one connection in").count(), 2, "{said}");
    let family = crate::net::Family::V4;
    site.knock(family, PORT);
    assert_eq!(site.reach(family, PORT), crate::connection::Reach::Connected);
    site.stop_daemon();
    nothing_is_left(&site);
}
