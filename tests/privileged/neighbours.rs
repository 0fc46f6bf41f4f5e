//! Beside another firewall that drops by default: `--check` finds it and prints a line; with that line, and only with it,
//! a grant works; a reload of that firewall loses no grant and opens nothing.

use std::fs;

use crate::agent::Agent;
use crate::net::{CLIENT, Net, SERVER, until};

const NFTABLES: &str = "nftables:knockknock";

/// What `neighbours` says of one of them.
#[derive(Debug, PartialEq)]
struct Found {
    kind: String,
    accepts_mark: bool,
    advice: String,
}

impl Found {
    /// The line to run, or to write.
    fn line(&self) -> &str {
        self.advice.split('\x1f').nth(1).unwrap().trim()
    }
}

fn neighbours(agent: &mut Agent) -> Vec<Found> {
    let answer = agent.ask("neighbours");
    let each = answer.split('\x1e').filter(|one| !one.is_empty());
    each.map(|one| {
        let [kind, accepts, advice] = one.splitn(3, '|').collect::<Vec<_>>().try_into().unwrap();
        Found { kind: kind.to_owned(), accepts_mark: accepts == "true", advice: advice.to_owned() }
    })
    .collect()
}

/// Puts the line that was printed where it belongs.
type Put = Box<dyn Fn(&Net, &Found)>;

/// A firewall in the server's namespace: how it is set up and reloaded (`sh -e`), and how its line is put in.
struct Firewall {
    kind: &'static str,
    start: String,
    reload: String,
    put: Put,
}

fn run_it(net: &Net, found: &Found) {
    net.server.run(&["sh", "-ec", found.line()]);
}

/// Knock, connection, reload, expiry, each without the line and with it.
fn lives_beside(firewall: &Firewall) {
    let net = Net::new();
    let sh = |script: &str| net.server.run(&["sh", "-ec", script]);
    sh(&firewall.start);
    let (mut daemon, mut client) = (net.server.agent(), net.client.agent());
    daemon.split(NFTABLES);
    daemon.ask("listen 22");

    let found = neighbours(&mut daemon);
    assert!(!found.is_empty());
    for (v, address) in CLIENT.into_iter().enumerate() {
        assert_eq!(daemon.open(address, 22, 600), "Ok(Opened)");
        assert_eq!(client.connect(SERVER[v], 22), "timed out", "without the line");
    }
    for one in &found {
        assert_eq!((one.kind.as_str(), one.accepts_mark), (firewall.kind, false), "{one:?}");
        (firewall.put)(&net, one);
    }
    sh(&firewall.reload);
    let found = neighbours(&mut daemon);
    assert!(!found.is_empty() && found.iter().all(|one| one.accepts_mark), "{found:?}");

    for (v, address) in CLIENT.into_iter().enumerate() {
        assert_eq!(client.connect(SERVER[v], 22), "timed out", "before the knock");
        assert_eq!(daemon.open(address, 22, 600), "Ok(Opened)");
        sh(&firewall.reload);
        assert_eq!(client.connect(SERVER[v], 22), "connected", "after a reload");
        sh(&firewall.reload);
        assert_eq!(client.ask("talk 22"), "talked", "the connection survives a reload");
        assert_eq!(client.connect(SERVER[v], 22), "timed out", "a second one");
        assert_eq!(daemon.open(address, 22, 1), "Ok(Opened)");
        until(2, "the grant ends", || {
            net.server.grants("knockknock").iter().all(|grant| grant.0 != address)
        });
        assert_eq!(client.connect(SERVER[v], 22), "timed out", "after its time");
    }
}

#[test]
fn lives_beside_a_foreign_nft_chain_that_drops() {
    let directory = tempfile::tempdir().unwrap();
    let rules = directory.path().join("nftables.conf");
    let ruleset = "flush ruleset
        table inet foreign {
            chain input {
                type filter hook input priority filter; policy accept;
                iifname lo accept
                ct state established,related accept
                icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
                drop
            }
        }";
    fs::write(&rules, ruleset).unwrap();
    let load = format!("nft -f {}", rules.display());
    // The line is put in by hand, and saved as an administrator would.
    lives_beside(&Firewall {
        kind: "Nftables",
        start: load.clone(),
        reload: format!(
            "if nft list table inet foreign | grep -q 0x20000000; then \
             (echo flush ruleset; nft list table inet foreign) > {0}; fi; {load}",
            rules.display()
        ),
        put: Box::new(run_it),
    });
}

#[test]
fn lives_beside_an_iptables_drop_policy() {
    let directory = tempfile::tempdir().unwrap();
    let saved = directory.path().join("rules");
    lives_beside(&Firewall {
        kind: "Iptables",
        start: "for t in iptables ip6tables; do
                    $t -P INPUT DROP
                    $t -A INPUT -i lo -j ACCEPT
                    $t -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
                done
                ip6tables -A INPUT -p icmpv6 -j ACCEPT"
            .to_owned(),
        // netfilter-persistent does no more than this.
        reload: format!(
            "for t in iptables ip6tables; do $t-save > {0}.$t; $t -F; $t-restore < {0}.$t; done",
            saved.display()
        ),
        put: Box::new(run_it),
    });
}

#[test]
fn lives_beside_ufw() {
    let directory = tempfile::tempdir().unwrap();
    let etc = directory.path().join("ufw");
    let copied =
        std::process::Command::new("cp").arg("-a").arg("/etc/ufw").arg(&etc).status().unwrap();
    assert!(copied.success());
    // Each run of ufw sees the copy as its /etc/ufw, in the mount namespace that `ip netns exec` makes for it.
    let ufw = format!("mount --bind {} /etc/ufw && ufw", etc.display());
    lives_beside(&Firewall {
        kind: "Ufw",
        start: format!("{ufw} --force enable"),
        reload: format!("{ufw} reload"),
        put: Box::new(move |_, found| {
            let six = if found.advice.contains("before6.rules") { "6" } else { "" };
            let file = etc.join(format!("before{six}.rules"));
            let rules = fs::read_to_string(&file).unwrap();
            let marker = "# End required lines\n";
            assert!(rules.contains(marker));
            fs::write(&file, rules.replace(marker, &format!("{marker}{}\n", found.line())))
                .unwrap();
        }),
    });
}

#[test]
fn a_host_without_another_firewall_has_no_neighbours() {
    let net = Net::new();
    let mut agent = net.server.agent();
    agent.split(NFTABLES);
    assert_eq!(neighbours(&mut agent), []);
    net.server
        .nft("add table ip nat; add chain ip nat c { type nat hook prerouting priority -100; }");
    net.server
        .nft("add table inet open; add chain inet open c { type filter hook input priority 0; }");
    net.server.nft("add chain inet open elsewhere; add rule inet open elsewhere drop");
    assert_eq!(neighbours(&mut agent), [], "none that drops what comes in");
    net.server.run(&["iptables-legacy", "-S"]);
    let found = neighbours(&mut agent);
    assert_eq!((found.len(), found[0].kind.as_str()), (1, "Legacy"), "its rules cannot be seen");
}

/// A chain that decides before ours cannot see our mark, and a rule may ask for packets without it.
#[test]
fn a_rule_that_cannot_help_is_not_taken_for_the_line() {
    for (priority, rule, says) in [
        ("mangle", "meta mark & 0x20000000 == 0x20000000 accept", "no rule helps"),
        ("-10", "meta mark & 0x20000000 == 0x20000000 accept", "no rule helps"),
        ("filter", "meta mark & 0x20000000 == 0 accept", "nft insert rule"),
        ("filter", "meta mark & 0x20000000 != 0x20000000 accept", "nft insert rule"),
        ("filter", "meta mark & 0x20000000 != 0 accept", "accepts our mark"),
        ("filter", "log counter drop; meta mark & 0x20000000 != 0 accept", "nft insert rule"),
        ("filter", "tcp dport 25 drop; meta mark & 0x20000000 != 0 accept", "accepts our mark"),
    ] {
        let net = Net::new();
        net.server.nft(&format!(
            "table inet f {{ chain c {{ type filter hook input priority {priority}; policy drop; {rule}; }}; }}"
        ));
        let found = neighbours(&mut net.server.agent());
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].advice.contains(says), "{priority} {rule}: {found:?}");
    }
}
