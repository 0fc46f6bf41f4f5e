//! Beside somebody else's firewall, in which not one line is ours: closed, a knock, in once, closed; the same while it is
//! reloaded and after. And several daemons on one host. (`tests/privileged` does the same to the helper alone, in more
//! detail; `recipes` has the rest of Docker.)

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::connection::{Echo, Reach, is_alive};
use crate::net::{FAMILIES, Family, Host, Net};
use crate::process::{Running, SOON, wait_until};
use crate::recipes::{PUBLISHED, docker};
use crate::site::{Log, Site};

/// The service behind the door.
const PORT: u16 = 2222;
/// Long enough for a packet that comes at all, short for one that was dropped.
const A_MOMENT: Duration = Duration::from_millis(300);
/// Both kinds of iptables.
const KINDS: [&str; 2] = ["nft", "legacy"];
/// Lists the rules of everybody but the daemon, without counters.
const NFT_RULES: &str =
    "nft --stateless list ruleset 2>/dev/null | sed '/^table inet knockknock {/,/^}/d'";
const LEGACY_RULES: &str =
    "for t in iptables ip6tables; do $t-legacy-save | sed '/^#/d; s/ \\[.*//'; done";

/// What is beside us.
struct Neighbour<'a> {
    /// Has it read its configuration again.
    reload: &'a str,
    /// Lists its rules.
    rules: &'a str,
    /// What the client asks for.
    port: u16,
}

impl Site {
    fn sh(&self, script: &str) -> String {
        self.net.server.run(&["sh", "-ec", script])
    }

    /// Each line of a listing, in an order of our own: theirs is another after a reload.
    fn lines_of(&self, list: &str) -> Vec<String> {
        let mut lines: Vec<_> = self.sh(list).lines().map(str::to_owned).collect();
        lines.sort();
        lines.dedup();
        lines
    }

    #[track_caller]
    fn is_closed(&self, to: &Host, family: Family, port: u16) {
        let reach = to.can_connect(self.net.server.address(family), port, A_MOMENT);
        assert_ne!(reach, Reach::Connected, "{family:?}");
    }

    /// Closed; a knock of each family; once in; closed. First by itself, then with reloads while the grants are open and
    /// while the connections stand. And the neighbour's rules are as they were.
    fn lives_with(&mut self, service: &Echo, neighbour: &Neighbour<'_>) {
        let Neighbour { reload, rules, port } = *neighbour;
        let before = self.lines_of(rules);
        assert!(!before.is_empty(), "no firewall: {rules}");
        self.start_daemon();
        for meanwhile in ["true", reload] {
            for family in FAMILIES {
                self.is_closed(&self.net.client, family, port);
                self.knock(family, port);
                self.is_closed(&self.net.other, family, port);
            }
            self.sh(meanwhile);
            let sessions = FAMILIES.map(|family| {
                let shut = self.came_in();
                let server = self.net.server.address(family);
                let session = self.net.client.connect(server, port, SOON).expect("it knocked");
                wait_until(SOON, "the door is shut behind it", || self.came_in() > shut);
                self.is_closed(&self.net.client, family, port);
                session
            });
            self.sh(reload);
            assert!(sessions.iter().all(is_alive), "the connections go on");
            for family in FAMILIES {
                self.is_closed(&self.net.client, family, port);
            }
        }
        assert_eq!((self.opened(), self.came_in(), service.accepted()), (4, 4, 4));
        let meanwhile = self.lines_of(rules);
        self.stop_daemon();
        for now in [meanwhile, self.lines_of(rules)] {
            let (more, fewer) = (without(&now, &before), without(&before, &now));
            assert!(now == before, "their rules: {more:#?} for {fewer:#?}");
        }
    }
}

/// The lines of `these` that are not among `those`.
fn without<'a>(these: &'a [String], those: &[String]) -> Vec<&'a String> {
    these.iter().filter(|line| !those.contains(line)).collect()
}

/// A site without any firewall.
fn site(net: Net, port: u16) -> Site {
    let site = Site::prepare(net, Log::Kmsg, &format!("delay = 600\nallow = tcp/{port}\n"));
    site.sh("nft flush ruleset");
    site
}

/// The whole story with a firewall on the host itself.
fn beside(mut site: Site, rules: &str, reload: &str) {
    let service = site.net.server.echo(PORT);
    site.lives_with(&service, &Neighbour { reload, rules, port: PORT });
}

fn rules_of(kind: &str) -> &'static str {
    if kind == "legacy" { LEGACY_RULES } else { NFT_RULES }
}

#[test]
fn a_plain_nftables_conf() {
    let site = site(Net::lan(), PORT);
    let file = site.net.path("nftables.conf");
    // Debian's, with what makes it a firewall.
    let ruleset = "#!/usr/sbin/nft -f
        flush ruleset
        table inet filter {
            chain input {
                type filter hook input priority filter; policy drop;
                ct state established,related accept
                iif lo accept
                icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
            }
            chain forward { type filter hook forward priority filter; }
            chain output { type filter hook output priority filter; }
        }";
    fs::write(&file, ruleset).unwrap();
    let reload = format!("nft -f {}", file.display());
    site.sh(&reload);
    beside(site, NFT_RULES, &reload);
}

#[test]
fn iptables_rules_of_both_kinds() {
    for kind in KINDS {
        let site = site(Net::lan(), PORT);
        let saved = site.net.path("rules").display().to_string();
        site.sh(&format!(
            "for t in iptables-{kind} ip6tables-{kind}; do
                $t -P INPUT DROP
                $t -A INPUT -i lo -j ACCEPT
                $t -A INPUT -m conntrack --ctstate INVALID -j DROP
                $t -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
            done
            ip6tables-{kind} -A INPUT -p icmpv6 -j ACCEPT
            for t in iptables-{kind} ip6tables-{kind}; do $t-save > {saved}.$t; done"
        ));
        let reload = format!(
            "for t in iptables-{kind} ip6tables-{kind}; do $t -F; $t-restore < {saved}.$t; done"
        );
        site.sh(&reload);
        beside(site, rules_of(kind), &reload);
    }
}

/// Not knockknock 0.8's own script, but rules of its kind, for IPv6 too: they log each SYN that they refuse, for a daemon to
/// read, and accept what is `RELATED`. Ours hears each knock twice.
#[test]
fn rules_of_the_original_s_kind() {
    for kind in KINDS {
        let site = site(Net::lan(), PORT);
        let script = format!(
            "for t in iptables-{kind} ip6tables-{kind}; do
                $t -F
                $t -X
                $t -N refused
                $t -A refused -p tcp --syn -m limit --limit 3/second --limit-burst 8 -j LOG --log-level debug \
                    --log-prefix '{}' --log-tcp-sequence --log-tcp-options --log-ip-options
                $t -A refused -p tcp -j REJECT --reject-with tcp-reset
                $t -A refused -j REJECT
                $t -A INPUT -i lo -j ACCEPT
                $t -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
                case $t in ip6*) $t -A INPUT -p icmpv6 -j ACCEPT ;; esac
                $t -A INPUT -j refused
            done",
            site.net.prefix
        );
        site.sh(&script);
        beside(site, rules_of(kind), &script);
    }
}

#[test]
fn docker_and_the_guard() {
    for kind in KINDS {
        let net = Net::lan();
        let container = net.container();
        let mut site = site(net, PUBLISHED);
        docker(&site.net, &container, kind);
        let service = container.echo(80);
        site.script(&["--only", &format!("tcp/{PUBLISHED}")]);
        let reload = format!(
            "for t in iptables ip6tables; do $t-{kind}-restore {}-{kind}; done",
            site.net.path("$t").display()
        );
        let rules = rules_of(kind);
        site.lives_with(&service, &Neighbour { reload: &reload, rules, port: PUBLISHED });
    }
}

#[test]
fn no_firewall_but_the_guard() {
    let site = site(Net::lan(), PORT);
    site.script(&["--only", &format!("tcp/{PORT}")]);
    let reload = format!(
        "{}/scripts/minimal-firewall.sh --boot --config-dir {} --run-dir {}",
        env!("CARGO_MANIFEST_DIR"),
        site.config_dir().display(),
        site.net.path("firewall").display()
    );
    beside(site, NFT_RULES, &reload);
}

#[test]
fn ufw() {
    let site = site(Net::lan(), PORT);
    let etc = site.net.path("ufw");
    assert!(Command::new("cp").arg("-a").arg("/etc/ufw").arg(&etc).status().unwrap().success());
    // ufw sees the copy as its /etc/ufw, and a lock of its own, in the mount namespace that `ip netns exec` makes for
    // each run.
    let ufw = format!("mount -t tmpfs none /run && mount --bind {} /etc/ufw && ufw", etc.display());
    site.sh(&format!("{ufw} --force enable"));
    beside(site, NFT_RULES, &format!("{ufw} reload"));
}

/// A message bus of its own, which anybody in the test may use.
const BUS: &str = "<busconfig>
    <type>system</type>
    <listen>unix:path=ADDRESS</listen>
    <auth>EXTERNAL</auth>
    <policy context=\"default\">
        <allow user=\"*\"/><allow own=\"*\"/><allow send_destination=\"*\"/><allow receive_sender=\"*\"/>
    </policy>
</busconfig>";

/// A real firewalld as its package sets it up, but for the back end: what runs, and what calls it.
fn firewalld(site: &Site, back_end: &str) -> ([Running; 2], String) {
    let [etc, bus, config] = ["firewalld", "bus", "bus.conf"].map(|name| site.net.path(name));
    assert!(
        Command::new("cp").arg("-a").arg("/etc/firewalld").arg(&etc).status().unwrap().success()
    );
    let file = etc.join("firewalld.conf");
    let text = fs::read_to_string(&file).unwrap();
    let others = text.lines().filter(|line| !line.starts_with("FirewallBackend="));
    let lines: Vec<_> = others.map(str::to_owned).collect();
    fs::write(&file, format!("{}\nFirewallBackend={back_end}\n", lines.join("\n"))).unwrap();

    fs::write(&config, BUS.replace("ADDRESS", bus.to_str().unwrap())).unwrap();
    let mut command = site.net.server.command("dbus-daemon");
    command.args(["--nofork", "--nopidfile", "--config-file"]).arg(config);
    let dbus = Running::start(&mut command);
    wait_until(SOON, "the message bus", || bus.exists());

    let address = format!("unix:path={}", bus.display());
    let script = format!(
        "mount -t tmpfs none /run
        mount -t tmpfs none /var/log
        mount --bind {} /etc/firewalld
        exec firewalld --nofork --nopid",
        etc.display()
    );
    let mut command = site.net.server.command("sh");
    command.args(["-ec", &script]).env("DBUS_SYSTEM_BUS_ADDRESS", &address);
    let mut firewalld = Running::start(&mut command);
    let call = format!("DBUS_SYSTEM_BUS_ADDRESS={address} firewall-cmd");
    wait_until(SOON, "firewalld", || {
        assert!(firewalld.is_running(), "{:#?}", firewalld.lines());
        let asked = site.net.server.command("sh").args(["-c", &format!("{call} --state")]).output();
        asked.unwrap().status.success()
    });
    ([firewalld, dbus], call)
}

fn lives_with_firewalld(back_end: &str) {
    let site = site(Net::lan(), PORT);
    let (_running, call) = firewalld(&site, back_end);
    let listed = site.sh("nft list tables");
    assert_eq!(listed.contains("table inet firewalld"), back_end == "nftables", "{listed}");
    assert_eq!(site.sh(&format!("{call} --get-default-zone")), "public\n");
    beside(site, NFT_RULES, &format!("{call} --reload"));
}

#[test]
fn firewalld_by_nftables() {
    lives_with_firewalld("nftables");
}

#[test]
fn firewalld_by_iptables() {
    lives_with_firewalld("iptables");
}

/// Where there are no expectations: a firewall that logs and accepts the mark is the one thing that takes lines of ours.
#[test]
fn the_nftables_back_end_with_a_firewall_that_accepts_its_mark() {
    let mut site = Site::start(Net::lan(), Log::Kmsg, "delay = 600\nfirewall = nftables\n");
    let _service = site.net.server.echo(PORT);
    for family in FAMILIES {
        assert_eq!(site.reach(family, PORT), Reach::Refused);
        site.knock(family, PORT);
        let server = site.net.server.address(family);
        assert_eq!(site.net.other.can_connect(server, PORT, SOON), Reach::Refused);
        let session = site.net.client.connect(server, PORT, SOON).expect("it knocked");
        assert_eq!(site.reach(family, PORT), Reach::Refused, "once");
        assert!(is_alive(&session));
    }
}

#[test]
fn two_daemons_with_a_name_of_their_own_live_side_by_side() {
    let mut site = Site::prepare(Net::lan(), Log::Kmsg, "delay = 600\n");
    // The second has the other host's profile, in a directory of its own.
    let second_dir = site.net.path("second.d");
    fs::create_dir_all(second_dir.join("profiles")).unwrap();
    fs::copy(site.config_dir().join("config"), second_dir.join("config")).unwrap();
    fs::rename(site.profile("other"), second_dir.join("profiles/other")).unwrap();
    site.start_daemon();
    let second = |instance: &str| {
        let mut command = site.net.server.command(env!("CARGO_BIN_EXE_knock-daemon"));
        command
            .args(["--instance", instance, "--user", "nobody", "--log", "kmsg", "--config-dir"])
            .arg(&second_dir);
        command
    };
    let mut daemon = Running::start(&mut second("mail"));
    daemon.wait_for_line("ready", |line| line == "ready");
    let mut third = Running::start(&mut second("other"));
    assert_eq!(third.wait_for_end().code(), Some(1));
    third.wait_for_line("the lock", |line| line.contains("another knock-daemon runs with"));
    let mut wrong = Running::start(&mut second("a/b"));
    assert_eq!(wrong.wait_for_end().code(), Some(2));
    wrong.wait_for_line("the name", |line| line.contains("--instance \"a/b\""));

    let _service = site.net.server.echo(PORT);
    let server = site.net.server.address(Family::V4);
    let knock = site.knock_command(&site.net.other, "other", Family::V4, PORT).output().unwrap();
    assert!(knock.status.success(), "{knock:?}");
    daemon.wait_for_line("a grant", |line| line.contains(": opened tcp/2222"));
    assert_eq!((site.opened(), site.grants().len()), (0, 1), "the first has nothing to do with it");
    assert_eq!(site.net.other.can_connect(server, PORT, SOON), Reach::Connected);
    site.knock(Family::V4, PORT);
    drop(daemon);
    assert_eq!(site.reach(Family::V4, PORT), Reach::Connected, "the first goes on");
}
