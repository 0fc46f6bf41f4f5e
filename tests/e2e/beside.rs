//! Beside somebody else's firewall, which drops by default and has no line for us but the one that logs: a knock opens; a
//! reload of that firewall loses no grant and leaves nothing open. And several daemons on one host. (`tests/privileged` does
//! the same to the helper alone, in more detail.)

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::net::{FAMILIES, Family, Net};
use crate::process::{Running, SOON, wait_until};
use crate::site::{KNOCK_PORT, Log, OTHER_KNOCK_PORT, Site};
use crate::talk::{Reach, is_alive};

/// The service behind the door.
const PORT: u16 = 2222;
/// Long enough for a packet that comes at all, short for one that was dropped.
const A_MOMENT: Duration = Duration::from_millis(300);

impl Site {
    fn sh(&self, script: &str) -> String {
        self.net.server.run(&["sh", "-ec", script])
    }

    fn is_dropped(&self, family: Family) -> bool {
        self.net.client.can_connect(self.net.server.address(family), PORT, A_MOMENT)
            == Reach::TimedOut
    }

    /// With this in place `--check` has nothing to say against it.
    fn is_well_by_check(&self) {
        let checked = self.daemon_command().arg("--check").output().unwrap();
        assert!(checked.status.success(), "{checked:?}");
        let said = String::from_utf8(checked.stdout).unwrap();
        let result = said.lines().last().unwrap();
        assert!(
            result.ends_with("nothing was found that would keep a knock from working"),
            "{said}"
        );
    }

    /// Knock, connection, reload, expiry.
    fn lives_with(&mut self, reload: &str, delay: u64) {
        self.is_well_by_check();
        let _service = self.net.server.echo(PORT);
        for family in FAMILIES {
            assert!(self.is_dropped(family), "closed before");
            self.knock(family, PORT);
            self.sh(reload);
            let server = self.net.server.address(family);
            let inside =
                self.net.client.connect(server, PORT, SOON).expect("the grant survives a reload");
            self.sh(reload);
            assert!(is_alive(&inside), "and so does the connection");
            assert!(self.is_dropped(family), "a second connection");
            self.knock(family, PORT);
            self.sh(reload);
            self.wait_until_shut(Duration::from_secs(delay + 1));
            assert!(self.is_dropped(family), "its time is over");
        }
        self.stop_daemon();
        let rules = self.sh("nft list ruleset");
        assert!(!rules.contains("table inet knockknock {"), "{rules}");
    }
}

/// A site without our own firewall script.
fn site(delay: u64) -> Site {
    let site = Site::prepare(Net::lan(), Log::Kmsg, &format!("delay = {delay}\n"));
    site.sh("nft flush ruleset");
    site
}

#[test]
fn a_foreign_nft_chain_that_drops() {
    let mut site = site(3);
    let file = site.net.path("nftables.conf");
    let ruleset = format!(
        "flush ruleset
        table inet filter {{
            chain input {{
                type filter hook input priority filter; policy drop;
                ct state established,related accept
                icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
                tcp dport {{ {KNOCK_PORT}, {OTHER_KNOCK_PORT} }} tcp flags syn \
                    log prefix \"{}\" level debug flags tcp sequence,options
            }}
        }}",
        site.net.prefix
    );
    fs::write(&file, &ruleset).unwrap();
    let reload = format!("nft -f {}", file.display());
    site.sh(&reload);
    site.start_daemon();
    site.lives_with(&reload, 3);
}

#[test]
fn an_iptables_policy_that_drops() {
    let mut site = site(3);
    site.sh(&format!(
        "for t in iptables ip6tables; do
            $t -P INPUT DROP
            $t -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
            $t -A INPUT -p tcp --syn -m multiport --dports {KNOCK_PORT},{OTHER_KNOCK_PORT} -j LOG \
                --log-level debug --log-prefix '{}' --log-tcp-sequence --log-tcp-options
        done
        ip6tables -A INPUT -p icmpv6 -j ACCEPT",
        site.net.prefix
    ));
    site.start_daemon();
    let saved = site.net.path("rules").display().to_string();
    let reload = format!(
        "for t in iptables ip6tables; do $t-save > {saved}.$t; $t -F; $t-restore < {saved}.$t; done"
    );
    site.lives_with(&reload, 3);
}

#[test]
fn ufw() {
    // It takes seconds to reload on a busy machine, and the grant must outlast that.
    let mut site = site(15);
    let etc = site.net.path("ufw");
    assert!(Command::new("cp").arg("-a").arg("/etc/ufw").arg(&etc).status().unwrap().success());
    // ufw sees the copy as its /etc/ufw, in the mount namespace that `ip netns exec` makes for each run.
    let ufw = format!("mount --bind {} /etc/ufw && ufw", etc.display());
    site.sh(&format!("{ufw} --force enable"));
    for (file, chain) in
        [("before.rules", "ufw-before-input"), ("before6.rules", "ufw6-before-input")]
    {
        let path = etc.join(file);
        let rules = fs::read_to_string(&path).unwrap();
        let marker = "# End required lines\n";
        let log = format!(
            "-A {chain} -p tcp --syn -m multiport --dports {KNOCK_PORT},{OTHER_KNOCK_PORT} -j LOG --log-level debug \
             --log-prefix \"{}\" --log-tcp-sequence --log-tcp-options",
            site.net.prefix
        );
        fs::write(&path, rules.replace(marker, &format!("{marker}{log}\n"))).unwrap();
    }
    let reload = format!("{ufw} reload");
    site.sh(&reload);
    site.start_daemon();
    site.lives_with(&reload, 15);
}

#[test]
fn the_scripts_iptables_rules_let_one_connection_in() {
    let mut site = Site::prepare(Net::lan(), Log::Kmsg, "delay = 3\n");
    site.sh("nft flush ruleset");
    site.minimal_firewall(&["--iptables"]);
    let before = site.sh("iptables -S; ip6tables -S");
    site.start_daemon();
    let _service = site.net.server.echo(PORT);
    for family in FAMILIES {
        assert_eq!(site.reach(family, PORT), Reach::Refused);
        site.knock(family, PORT);
        let server = site.net.server.address(family);
        let before = site.came_in();
        let inside = site.net.client.connect(server, PORT, SOON).expect("open after one knock");
        wait_until(SOON, "the door is shut behind it", || site.came_in() > before);
        assert_eq!(site.reach(family, PORT), Reach::Refused, "a second connection");
        assert!(is_alive(&inside));
        site.knock(family, PORT);
        site.wait_until_shut(Duration::from_secs(4));
        assert_eq!(site.reach(family, PORT), Reach::Refused, "its time is over");
    }
    site.stop_daemon();
    assert_eq!(site.sh("iptables -S; ip6tables -S"), before, "their rules are theirs");
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
