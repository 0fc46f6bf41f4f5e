//! What the iptables back end does to packets, with both programs of that name: the one that speaks to `nf_tables` and the
//! legacy one, which replaces the whole table at each change.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::agent::Agent;
use crate::net::{CLIENT, Net, SERVER, until};

const CHAIN: &str = "iptables:KNOCKKNOCK";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Nft,
    Legacy,
}
const KINDS: [Kind; 2] = [Kind::Nft, Kind::Legacy];

/// A hand-made firewall that drops by default. `$1` is iptables or ip6tables.
const DROP_BY_DEFAULT: &str = "
    $1 -P INPUT DROP
    $1 -A INPUT -i lo -j ACCEPT
    $1 -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
    case $1 in ip6*) $1 -A INPUT -p icmpv6 -j ACCEPT ;; esac";

struct World {
    net: Net,
    daemon: Agent,
    client: Agent,
    kind: Kind,
}

impl World {
    fn new(kind: Kind) -> Self {
        let net = Net::new();
        let daemon = Agent::start_after(
            &net.server.name,
            match kind {
                Kind::Nft => "true",
                Kind::Legacy => {
                    "mount --bind /usr/sbin/xtables-legacy-multi /usr/sbin/xtables-nft-multi"
                }
            },
        );
        let client = net.client.agent();
        let mut world = Self { net, daemon, client, kind };
        for tool in ["iptables", "ip6tables"] {
            world.net.server.run(&["sh", "-ec", DROP_BY_DEFAULT, "sh", &world.tool(tool)]);
        }
        world.daemon.ask("listen 22");
        world
    }

    fn tool(&self, name: &str) -> String {
        format!("{name}-{}", if self.kind == Kind::Nft { "nft" } else { "legacy" })
    }

    /// The rules of the ruleset that name our chain, and how many of them are grants.
    fn rules(&self, v: usize) -> (Vec<String>, usize) {
        let tool = self.tool(["iptables", "ip6tables"][v]);
        let rules = self.net.server.run(&[&tool, "-S"]);
        let ours: Vec<String> =
            rules.lines().filter(|line| line.contains("KNOCKKNOCK")).map(str::to_owned).collect();
        let grants = ours.iter().filter(|rule| rule.contains("hashlimit")).count();
        (ours, grants)
    }
}

#[test]
fn exactly_one_connection_gets_in_and_other_grants_do_not_let_in_another() {
    for kind in KINDS {
        let mut world = World::new(kind);
        world.daemon.split(CHAIN);
        for v in [0, 1] {
            assert_eq!(world.client.connect(SERVER[v], 22), "timed out", "{kind:?} before");
            assert_eq!(world.daemon.open(CLIENT[v], 22, 600), "Ok(Opened)");
            assert_eq!(world.client.connect(SERVER[v], 23), "timed out", "{kind:?} another port");
            assert_eq!(world.client.connect(SERVER[v], 22), "connected", "{kind:?}");
            assert_eq!(world.client.ask("talk 22"), "talked");
            assert_eq!(world.client.connect(SERVER[v], 22), "timed out", "{kind:?} a second one");
            let other = ["192.0.2.7", "2001:db8::7"][v];
            assert_eq!(world.daemon.open(other, 22, 600), "Ok(Opened)");
            assert_eq!(
                world.client.connect(SERVER[v], 22),
                "timed out",
                "{kind:?} after another grant"
            );
            assert_eq!(world.daemon.open(CLIENT[v], 22, 600), "Ok(Opened)");
            assert_eq!(world.rules(v).1, 2, "renewed, not doubled");
            assert_eq!(world.client.connect(SERVER[v], 22), "connected", "{kind:?} renewed");
            assert_eq!(
                world.client.connect(SERVER[v], 22),
                "timed out",
                "{kind:?} renewed, a second one"
            );
        }
    }
}

#[test]
fn a_syn_that_is_sent_again_still_gets_in() {
    for kind in KINDS {
        for v in [0, 1] {
            let mut world = World::new(kind);
            world.net.server.nft(
                "add table inet lossy; add chain inet lossy c { type filter hook output priority -400; }; \
                 add rule inet lossy c tcp sport 22 drop",
            );
            world.daemon.split(CHAIN);
            assert_eq!(world.daemon.open(CLIENT[v], 22, 600), "Ok(Opened)");
            world.client.order(&format!("connect {} 22 20000", SERVER[v]));
            let marked =
                ["conntrack", "-L", "-f", ["ipv4", "ipv6"][v], "--mark", "0x20000000/0x20000000"];
            until(5, "the SYN uses the grant up", || {
                world.net.server.run(&marked).contains("src=")
            });
            world.net.server.nft("delete table inet lossy");
            assert_eq!(world.client.answer(), "connected", "{kind:?}");
        }
    }
}

#[test]
fn the_helper_takes_lapsed_rules_away_and_at_its_end_everything() {
    for kind in KINDS {
        let mut world = World::new(kind);
        world.daemon.split(CHAIN);
        for v in [0, 1] {
            assert_eq!(world.daemon.open(CLIENT[v], 22, 1), "Ok(Opened)");
            assert_eq!(world.daemon.open(CLIENT[v], 80, 600), "Ok(Opened)");
            until(4, "the lapsed rule is taken away", || world.rules(v).1 == 1);
        }
        assert_eq!(world.daemon.ask("end"), "exit status 0");
        assert_eq!((world.rules(0).0, world.rules(1).0), (vec![], vec![]), "{kind:?}");
    }
}

#[test]
fn a_rule_left_by_a_killed_helper_stops_at_its_time_and_the_next_start_takes_it_away() {
    for kind in KINDS {
        let mut world = World::new(kind);
        let helper = Pid::from_raw(world.daemon.split(CHAIN));
        let start = SystemTime::now();
        for address in CLIENT {
            assert_eq!(world.daemon.open(address, 22, 2), "Ok(Opened)");
        }
        kill(helper, Signal::SIGKILL).unwrap();
        assert_eq!(world.daemon.ask("end"), "killed by SIGKILL");
        // The kernel's own clock is the condition: one second after the grant's end at the latest.
        until(6, "the time is over", || start.elapsed().unwrap() > Duration::from_millis(3100));
        for v in [0, 1] {
            assert_eq!(world.rules(v).1, 1, "{kind:?}: the lapsed rule is still there");
            assert_eq!(world.client.connect(SERVER[v], 22), "timed out", "{kind:?}");
        }
        world.daemon.split(CHAIN);
        assert_eq!((world.rules(0).1, world.rules(1).1), (0, 0), "{kind:?}");
        assert_eq!(world.daemon.open(CLIENT[0], 22, 600), "Ok(Opened)");
        assert_eq!(world.client.connect(SERVER[0], 22), "connected");
    }
}

#[test]
fn after_somebody_elses_flush_the_next_grant_works() {
    for kind in KINDS {
        let mut world = World::new(kind);
        world.daemon.split(CHAIN);
        assert_eq!(world.daemon.open(CLIENT[0], 22, 600), "Ok(Opened)");
        let iptables = world.tool("iptables");
        world.net.server.run(&[&iptables, "-F"]);
        assert_eq!(world.client.connect(SERVER[0], 22), "timed out", "{kind:?}: flushed is closed");
        world.net.server.run(&["sh", "-ec", DROP_BY_DEFAULT, "sh", &iptables]);
        assert_eq!(world.daemon.open(CLIENT[0], 22, 600), "Ok(Opened)");
        assert_eq!(world.client.connect(SERVER[0], 22), "connected", "{kind:?}");
    }
}

/// As `minimal-firewall.sh --iptables` does it: its way goes before ours, and it refuses what it does not know.
#[test]
fn after_another_firewall_put_itself_before_ours_the_next_grant_works_and_earlier_ones_do() {
    for kind in KINDS {
        let mut world = World::new(kind);
        world.daemon.split(CHAIN);
        world.daemon.ask("listen 80");
        assert_eq!(world.daemon.open(CLIENT[0], 80, 600), "Ok(Opened)");
        let iptables = world.tool("iptables");
        for rule in
            [&["-N", "LATER"][..], &["-A", "LATER", "-j", "DROP"], &["-I", "INPUT", "-j", "LATER"]]
        {
            world.net.server.run(&[&[iptables.as_str()], rule].concat());
        }
        world.net.server.run(&[&iptables, "-I", "LATER", "-i", "lo", "-j", "ACCEPT"]);
        let established = ["-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT"];
        world.net.server.run(&[&[iptables.as_str(), "-I", "LATER"], &established[..]].concat());
        assert_eq!(world.daemon.open(CLIENT[0], 22, 600), "Ok(Opened)");
        for port in [22, 80] {
            assert_eq!(world.client.connect(SERVER[0], port), "connected", "{kind:?} {port}");
            assert_eq!(world.client.connect(SERVER[0], port), "timed out", "{kind:?} {port}");
        }
        assert_eq!(world.daemon.ask("end"), "exit status 0");
        assert_eq!(world.rules(0).0, Vec::<String>::new(), "{kind:?}: one way, taken away");
    }
}

#[test]
fn a_chain_that_cannot_be_made_for_both_families_is_made_for_none() {
    let net = Net::new();
    let dir = tempfile::tempdir().unwrap();
    // Where the alternatives know of no ip6tables, there is none.
    let only_iptables = format!(
        "ln -s /usr/sbin/iptables-nft {0}/iptables && mount --bind {0} /etc/alternatives",
        dir.path().display()
    );
    let mut daemon = Agent::start_after(&net.server.name, &only_iptables);
    let refusal = daemon.ask(&format!("split {CHAIN}"));
    assert!(refusal.contains("ip6tables"), "{refusal}");
    let rules = net.server.run(&["iptables", "-S"]);
    assert!(!rules.contains("KNOCKKNOCK"), "{rules}");
}

/// Whoever holds the lock of the legacy iptables makes each command of ours fail. That is no sign of a flush.
#[test]
fn an_opening_that_fails_for_the_lock_leaves_other_grants_alone() {
    let net = Net::new();
    // A lock of this test's own, in the mount namespace that `ip netns exec` makes.
    let legacy = "mount --bind /usr/sbin/xtables-legacy-multi /usr/sbin/xtables-nft-multi \
                  && mount -t tmpfs tmpfs /run && touch /run/xtables.lock";
    let mut daemon = Agent::start_after(&net.server.name, legacy);
    daemon.split(CHAIN);
    assert_eq!(daemon.open(CLIENT[0], 22, 600), "Ok(Opened)");
    let lock = fs::File::open(format!("/proc/{}/root/run/xtables.lock", daemon.pid())).unwrap();
    lock.lock().unwrap();
    let answer = daemon.open(CLIENT[0], 80, 600);
    drop(lock);
    assert!(answer.starts_with("Ok(Failed("), "{answer}");
    let rules = net.server.run(&["iptables-legacy", "-S", "KNOCKKNOCK"]);
    assert_eq!(rules.matches("hashlimit-name").count(), 1, "{rules}");
    assert_eq!(daemon.open(CLIENT[0], 80, 600), "Ok(Opened)");
}

#[test]
fn the_helper_has_uid_0_and_the_two_capabilities_that_iptables_needs() {
    let mut world = World::new(Kind::Nft);
    let helper = world.daemon.split(CHAIN);
    let status = fs::read_to_string(format!("/proc/{helper}/status")).unwrap();
    let two = format!("{:016x}", (1_u64 << 12) | (1 << 13));
    for line in [
        "Uid:\t0\t0\t0\t0".to_owned(),
        "Gid:\t0\t0\t0\t0".to_owned(),
        format!("CapInh:\t{:016x}", 0),
        format!("CapPrm:\t{two}"),
        format!("CapEff:\t{two}"),
        format!("CapBnd:\t{two}"),
        format!("CapAmb:\t{:016x}", 0),
        "NoNewPrivs:\t1".to_owned(),
        "Seccomp:\t2".to_owned(),
    ] {
        assert!(status.lines().any(|have| have == line), "{line}\n{status}");
    }
    let mut descriptors: Vec<_> = fs::read_dir(format!("/proc/{helper}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    descriptors.sort();
    assert_eq!(descriptors, ["0", "1", "2"]);
}

#[cfg(feature = "misbehave")]
#[test]
fn a_helper_that_traces_is_killed() {
    let mut world = World::new(Kind::Nft);
    world.daemon.split(CHAIN);
    assert_eq!(world.daemon.open(CLIENT[0], 64004, 15), "Err(Ended)");
    assert_eq!(world.daemon.ask("end"), "killed for a system call that it may not make");
}

/// What `iptables` was exchanged for runs under the helper's filter: this says what it may not do.
#[test]
fn a_program_that_the_helper_starts_makes_no_namespace_and_signals_nobody() {
    const PROBE: &str = "\
#!/usr/bin/python3
import ctypes, os, platform
numbers = {'x86_64': (56, 435, 234, 200), 'aarch64': (220, 435, 131, 130)}[platform.machine()]
clone, clone3, tgkill, tkill = numbers
libc = ctypes.CDLL(None, use_errno=True)
calls = {
    'clone': lambda: libc.syscall(clone, 0x10000011, 0, 0, 0, 0),
    'clone3': lambda: libc.syscall(clone3, 0, 0),
    'tgkill': lambda: libc.syscall(tgkill, 1, 1, 0),
    'tkill': lambda: libc.syscall(tkill, 1, 0),
}
with open('/run/probed', 'w') as said:
    for name, call in calls.items():
        child = os.fork()
        if child == 0:
            call()
            os._exit(ctypes.get_errno())
        print(name, os.waitpid(child, 0)[1], file=said)
";
    let net = Net::new();
    let dir = tempfile::tempdir().unwrap();
    let (probe, iptables) = (dir.path().join("probe"), "/usr/sbin/xtables-nft-multi");
    fs::write(&probe, PROBE).unwrap();
    fs::set_permissions(&probe, fs::Permissions::from_mode(0o755)).unwrap();
    let mut daemon = Agent::start_after(&net.server.name, "mount -t tmpfs tmpfs /run");
    daemon.split(CHAIN);
    let pid = daemon.pid().to_string();
    let exchange =
        ["nsenter", "-m", "-t", &pid, "mount", "--bind", probe.to_str().unwrap(), iptables];
    net.server.run(&exchange);
    daemon.open(CLIENT[0], 22, 600);
    let said = fs::read_to_string(format!("/proc/{pid}/root/run/probed")).unwrap();
    // SIGSYS is 31; the C library must be told that there is no clone3 (ENOSYS, 38), or it could start nothing.
    assert_eq!(said, format!("clone 31\nclone3 {}\ntgkill 31\ntkill 31\n", 38 << 8));
}
