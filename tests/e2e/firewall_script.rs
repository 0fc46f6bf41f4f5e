//! `scripts/minimal-firewall.sh` by what it does to packets: what gets in, what is refused, and what is left when it is
//! taken back. (`guard` attacks the rules of `--only`.)

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use crate::connection::{Reach, is_alive};
use crate::grant::Admits;
use crate::net::{FAMILIES, Family, Host, Net};
use crate::process::{SOON, wait_until};

const SECOND: Duration = Duration::from_secs(1);
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/minimal-firewall.sh");

/// What the script makes its rules with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tools {
    Nft,
    IptablesNft,
    IptablesLegacy,
}

pub(crate) const TOOLS: [Tools; 3] = [Tools::Nft, Tools::IptablesNft, Tools::IptablesLegacy];

impl Tools {
    /// The program that `name` (`iptables`, `ip6tables`) stands for.
    pub(crate) fn program(self, name: &str) -> String {
        format!("{name}-{}", if self == Self::IptablesLegacy { "legacy" } else { "nft" })
    }

    /// A directory where `iptables` and the like are these tools.
    fn path(self, net: &Net) -> String {
        let dir = net.path(&format!("{self:?}"));
        let kind = if self == Self::IptablesLegacy { "legacy" } else { "nft" };
        if !dir.exists() {
            fs::create_dir(&dir).unwrap();
            for name in ["iptables", "iptables-restore", "ip6tables", "ip6tables-restore"] {
                symlink(format!("/usr/sbin/xtables-{kind}-multi"), dir.join(name)).unwrap();
            }
        }
        format!("{}:{}", dir.display(), std::env::var("PATH").unwrap())
    }
}

/// A call of the script on the server, without `--confirm`, by somebody who sits in front of it.
fn script(net: &Net, tools: Tools, arguments: &[&str]) -> Command {
    let mut command = net.server.command(SCRIPT);
    command.args(["--run-dir".as_ref(), net.path("run").as_os_str()]);
    command.args(["--config-dir".as_ref(), net.path("etc").as_os_str()]);
    if tools != Tools::Nft {
        command.arg("--iptables");
    }
    // Whoever runs the tests may do so over ssh.
    if !arguments.contains(&"--confirm") {
        command.args(["--confirm", "0"]);
    }
    command
        .args(arguments)
        .env("PATH", tools.path(net))
        .env_remove("SSH_CONNECTION")
        .env_remove("SSH_CLIENT")
        .env_remove("SSH_TTY");
    command
}

/// Runs the script, which has to work, and gives what it printed.
pub(crate) fn firewall_with(net: &Net, tools: Tools, arguments: &[&str]) -> String {
    let output = script(net, tools, arguments).output().unwrap();
    assert!(output.status.success(), "{tools:?} {arguments:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// The same with nftables.
pub(crate) fn firewall(net: &Net, arguments: &[&str]) -> String {
    firewall_with(net, Tools::Nft, arguments)
}

fn said(output: &Output) -> String {
    format!(
        "{} {}",
        output.status,
        String::from_utf8_lossy(&[&*output.stdout, &output.stderr].concat())
    )
}

/// All rules in the server's namespace, without counts and times.
fn ruleset(net: &Net) -> String {
    net.server
        .run(&["sh", "-ec", "nft -s list ruleset; iptables-legacy-save; ip6tables-legacy-save"])
        .lines()
        .filter(|line| !line.starts_with('#'))
        // An empty chain of iptables counts what passes it.
        .map(|line| line.split(" [").next().unwrap().to_owned() + "\n")
        .collect()
}

/// What is remembered, if anything is.
fn remembered(net: &Net) -> Option<String> {
    fs::read_to_string(net.path("etc/firewall")).ok()
}

fn reach(net: &Net, from: &Host, family: Family, port: u16) -> Reach {
    from.can_connect(net.server.address(family), port, SECOND)
}

fn is_open(net: &Net, port: u16) -> bool {
    FAMILIES.map(|family| reach(net, &net.client, family, port)) == [Reach::Connected; 2]
}

fn ping(net: &Net, from: &Host, family: Family) -> bool {
    let to = net.server.address(family).to_string();
    from.command("ping").args(["-c", "1", "-W", "2", &to]).output().unwrap().status.success()
}

#[test]
fn everything_is_refused_but_what_is_allowed_and_pings() {
    for tools in TOOLS {
        let net = Net::lan();
        let _listeners: Vec<_> = [22, 79, 80, 82, 83].map(|port| net.server.echo(port)).into();
        firewall_with(&net, tools, &["--allow", "tcp/80-82", "--allow=tcp/8080,tcp/81"]);
        for family in FAMILIES {
            for (port, expected) in [
                (22, Reach::Refused),
                (79, Reach::Refused),
                (80, Reach::Connected),
                (82, Reach::Connected),
                (83, Reach::Refused),
                (8080, Reach::Refused), // by the host itself: nothing listens
            ] {
                assert_eq!(
                    reach(&net, &net.client, family, port),
                    expected,
                    "{tools:?} {family:?} {port}"
                );
            }
            assert_eq!(
                net.server.can_connect(net.server.address(family), 22, SECOND),
                Reach::Connected
            );
            let _listener = net.client.echo(5000);
            assert_eq!(
                net.server.can_connect(net.client.address(family), 5000, SECOND),
                Reach::Connected
            );
            assert!(ping(&net, &net.client, family), "{tools:?} {family:?}");
        }
        net.client.run(&["ip", "neighbour", "flush", "dev", "eth0"]);
        net.server.run(&["ip", "neighbour", "flush", "dev", "eth0"]);
        for family in FAMILIES {
            assert!(
                ping(&net, &net.client, family),
                "neighbours still find each other: {tools:?} {family:?}"
            );
        }
    }
}

#[test]
fn a_grant_lets_one_connection_in() {
    for tools in TOOLS {
        let net = Net::lan();
        let _service = net.server.echo(22);
        firewall_with(&net, tools, &[]);
        for (slot, family) in (1..).zip(FAMILIES) {
            let to = SocketAddr::new(net.server.address(family), 22);
            net.server.grant(slot, net.client.address(family), "tcp", to, Admits::One);
            assert_eq!(reach(&net, &net.other, family, 22), Reach::Refused);
            let stream = net.client.connect(to.ip(), 22, SOON).unwrap();
            assert_eq!(reach(&net, &net.client, family, 22), Reach::Refused);
            net.server.run(&["conntrack", "-F"]);
            assert!(is_alive(&stream), "{tools:?} {family:?}");
        }
    }
}

#[test]
fn udp_is_answered_by_an_icmp_error_unless_allowed() {
    for tools in TOOLS {
        let net = Net::lan();
        firewall_with(&net, tools, &["--allow", "udp/53"]);
        for family in FAMILIES {
            let bind = |host: &Host, port| {
                let address = SocketAddr::new(host.address(family), port);
                let socket = host.bind(|| UdpSocket::bind(address));
                socket.set_read_timeout(Some(SOON)).unwrap();
                socket
            };
            let [server, closed] = [53, 54].map(|port| bind(&net.server, port));
            let client = |port| {
                let socket = bind(&net.client, 0);
                socket.connect(SocketAddr::new(net.server.address(family), port)).unwrap();
                socket.send(b"question").unwrap();
                socket
            };
            let refused = client(54).recv(&mut [0; 8]).unwrap_err();
            assert_eq!(
                refused.kind(),
                std::io::ErrorKind::ConnectionRefused,
                "{tools:?} {family:?}"
            );
            closed.set_nonblocking(true).unwrap();
            assert!(closed.recv(&mut [0; 8]).is_err());
            let asking = client(53);
            let (_, asker) = server.recv_from(&mut [0; 8]).unwrap();
            server.send_to(b"answer", asker).unwrap();
            assert_eq!(asking.recv(&mut [0; 8]).unwrap(), 6);
        }
    }
}

#[test]
fn connections_from_before_the_firewall_go_on() {
    for tools in TOOLS {
        let net = Net::lan();
        let _listener = net.server.echo(22);
        let streams = FAMILIES
            .map(|family| net.client.connect(net.server.address(family), 22, SECOND).unwrap());
        // Nothing tracked connections so far, and these stay silent until the rules are there.
        for _ in 0..2 {
            firewall_with(&net, tools, &[]);
            for stream in &streams {
                assert!(is_alive(stream), "{tools:?} {stream:?}");
            }
        }
        assert_eq!(reach(&net, &net.client, Family::V4, 22), Reach::Refused);
    }
}

#[test]
fn excepted_networks_come_in_without_a_knock() {
    for tools in TOOLS {
        let net = Net::lan();
        let _listener = net.server.echo(22);
        firewall_with(&net, tools, &["--except", "10.66.1.2, fd66:0:0:2::/64"]);
        for family in FAMILIES {
            assert_eq!(reach(&net, &net.client, family, 22), Reach::Connected, "{tools:?}");
            assert_eq!(reach(&net, &net.other, family, 22), Reach::Refused, "{tools:?}");
        }
    }
}

#[test]
fn applying_twice_is_applying_once_and_undo_leaves_nothing() {
    for tools in TOOLS {
        for choice in [&["--allow", "tcp/80", "--allow", "udp/53"][..], &["--only", "tcp/22"]] {
            let net = Net::lan();
            net.server.nft("table inet somebody_elses { chain in { type filter hook input priority 5; tcp dport 1 drop; }; }");
            firewall_with(&net, tools, choice);
            let once = ruleset(&net);
            assert!(once.contains("somebody_elses"));
            firewall_with(&net, tools, choice);
            assert_eq!(ruleset(&net), once);

            let _listener = net.server.echo(22);
            assert_eq!(reach(&net, &net.client, Family::V6, 22), Reach::Refused);
            assert!(remembered(&net).is_some());
            firewall_with(&net, tools, &["--undo"]);
            let left = ruleset(&net);
            assert!(
                left.contains("somebody_elses") && !left.to_lowercase().contains("knockknock"),
                "{left}"
            );
            assert_eq!(remembered(&net), None);
            assert!(is_open(&net, 22));
            firewall_with(&net, tools, &["--undo"]);
            assert_eq!(ruleset(&net), left);
        }
    }
}

#[test]
fn another_choice_replaces_the_one_before_whatever_it_was_made_with() {
    let net = Net::lan();
    let choices = [&["--allow", "tcp/80"][..], &["--only", "tcp/22"]];
    for tools in [Tools::Nft, Tools::IptablesNft, Tools::Nft, Tools::IptablesNft] {
        for choice in choices {
            firewall_with(&net, tools, choice);
            let rules = ruleset(&net);
            let ours = ["knockknock_firewall", "knockknock_guard", "-j KNOCKKNOCK_FW"];
            let iptables = tools != Tools::Nft;
            let nft = |name: &str| rules.contains(&format!("table inet {name} "));
            assert_eq!(nft(ours[0]), !iptables && choice == choices[0]);
            assert_eq!(nft(ours[1]), !iptables && choice == choices[1]);
            assert_eq!(rules.contains("jump KNOCKKNOCK_FW"), iptables, "{rules}");
            let forwarded = rules.matches("jump KNOCKKNOCK_FW").count();
            assert_eq!(
                forwarded,
                if !iptables {
                    0
                } else if choice == choices[1] {
                    4
                } else {
                    2
                }
            );
        }
    }
}

#[test]
fn print_shows_what_would_be_loaded_and_changes_nothing() {
    for (choice, table) in
        [(&["--allow", "tcp/80"][..], "firewall"), (&["--only", "tcp/80"], "guard")]
    {
        let net = Net::lan();
        let printed = firewall(&net, &[choice, &["--print"]].concat());
        assert_eq!(ruleset(&net), "");
        assert!(!net.path("run").exists() && remembered(&net).is_none());
        net.server.nft(&printed);
        let from_print = ruleset(&net);
        assert!(from_print.contains(&format!("table inet knockknock_{table} ")));
        firewall(&net, choice);
        assert_eq!(ruleset(&net), from_print);
        let iptables = firewall_with(&net, Tools::IptablesNft, &[choice, &["--print"]].concat());
        assert!(iptables.contains("# ip6tables\n") && iptables.contains("port 80 "), "{iptables}");
    }
}

#[test]
fn an_unconfirmed_change_goes_back_by_itself() {
    for tools in TOOLS {
        let net = Net::lan();
        let _listeners = [80, 81].map(|port| net.server.echo(port));
        firewall_with(&net, tools, &["--allow", "tcp/81", "--confirm", "6"]);
        assert!(!is_open(&net, 80) && is_open(&net, 81));
        assert_eq!(remembered(&net), None);
        wait_until(SOON, "nothing, as before", || is_open(&net, 80));
        assert!(!ruleset(&net).to_lowercase().contains("knockknock"), "{}", ruleset(&net));

        // This one makes iptables-nft keep a chain of its own for what is forwarded.
        firewall_with(&net, tools, &["--only", "tcp/80"]);
        firewall_with(&net, tools, &["--allow", "tcp/80"]);
        let confirmed = ruleset(&net);
        firewall_with(&net, tools, &["--only", "tcp/80", "--confirm", "300"]);
        // A second unconfirmed change does not make the first one permanent.
        firewall_with(&net, tools, &["--allow", "tcp/82", "--confirm", "6"]);
        assert!(!is_open(&net, 80) && !is_open(&net, 81));
        wait_until(SOON, "the version before both", || is_open(&net, 80));
        assert!(!is_open(&net, 81));
        assert_eq!(ruleset(&net), confirmed);
        assert!(remembered(&net).unwrap().contains("\nallow = tcp/80\n"));
        let late = script(&net, tools, &["--confirmed"]).output().unwrap();
        assert_eq!(late.status.code(), Some(1), "{}", said(&late));
    }
}

#[test]
fn a_confirmed_change_stays_and_is_loaded_at_boot() {
    for tools in TOOLS {
        let net = Net::lan();
        let _listeners = [80, 81].map(|port| net.server.echo(port));
        let early = script(&net, tools, &["--boot"]).output().unwrap();
        assert_eq!(early.status.code(), Some(1), "{}", said(&early));
        let choice = ["--only", "udp/1,tcp/80", "--except", "192.0.2.0/24", "--confirm", "300"];
        firewall_with(&net, tools, &choice);
        firewall_with(&net, tools, &["--confirmed"]);
        // The process that would have taken it back ends when it finds nothing to do.
        wait_until(SOON, "no process left", || net.server.processes().is_empty());
        let loaded = ruleset(&net);
        let kept = remembered(&net).unwrap();
        assert!(kept.contains("\nonly = tcp/80, udp/1\nexcept = 192.0.2.0/24\n"), "{kept}");
        firewall_with(&net, tools, &["--boot"]);
        assert_eq!(ruleset(&net), loaded);
        assert_eq!(remembered(&net).unwrap(), kept);

        // Another host with the same file: one that has just started.
        let after = Net::lan();
        let _service = after.server.echo(80);
        fs::create_dir(after.path("etc")).unwrap();
        fs::write(after.path("etc/firewall"), &kept).unwrap();
        // The file says what the rules are made with.
        firewall(&after, &["--boot"]);
        assert_eq!(reach(&after, &after.client, Family::V4, 80), Reach::Refused);
        assert_eq!(reach(&after, &after.client, Family::V6, 80), Reach::Refused);
    }
}

#[test]
fn what_cannot_be_loaded_at_boot_is_an_error() {
    for (file, explanation) in [
        ("backend = nftables\nonly = tcp/0\n", "tcp/80"),
        ("backend = nftables\nonly =\n", "needs a value"),
        ("[main]\nonli = tcp/22\n", "unknown key"),
        ("backend = ipfw\n", "nftables or iptables"),
        ("backend = nftables\nonly = tcp/22\nexcept = 1:2:3\n", "open"),
        ("[main]\n", "nftables or iptables"),
    ] {
        let net = Net::lan();
        fs::create_dir(net.path("etc")).unwrap();
        fs::write(net.path("etc/firewall"), file).unwrap();
        let output = script(&net, Tools::Nft, &["--boot"]).output().unwrap();
        assert!(
            !output.status.success() && said(&output).contains(explanation),
            "{}",
            said(&output)
        );
        assert_eq!(ruleset(&net), "");
    }
}

#[test]
fn what_waits_to_be_confirmed_is_loaded_again_too() {
    let net = Net::lan();
    let _service = net.server.echo(80);
    firewall(&net, &["--only", "tcp/80", "--confirm", "300"]);
    net.server.nft("flush ruleset");
    assert!(is_open(&net, 80));
    firewall(&net, &["--boot"]);
    assert!(!is_open(&net, 80));
    assert_eq!(remembered(&net), None);
    firewall(&net, &["--undo"]);
    wait_until(SOON, "no process left", || net.server.processes().is_empty());
}

#[test]
fn a_choice_that_the_kernel_refuses_changes_nothing() {
    for tools in TOOLS {
        let net = Net::lan();
        let _listeners = [80, 81].map(|port| net.server.echo(port));
        firewall_with(&net, tools, &["--allow", "tcp/80"]);
        let (rules, kept) = (ruleset(&net), remembered(&net));
        // No address, which only who loads it finds out; with iptables, after IPv4's rules have been loaded.
        for confirm in ["0", "300"] {
            let wrong = ["--allow", "tcp/81", "--except", "1:2:3", "--confirm", confirm];
            let output = script(&net, tools, &wrong).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{}", said(&output));
            assert!(said(&output).contains("not loaded"), "{}", said(&output));
            assert_eq!(ruleset(&net), rules, "{tools:?}");
            assert_eq!(remembered(&net), kept);
            assert!(is_open(&net, 80) && !is_open(&net, 81));
        }
        wait_until(SOON, "no process left", || net.server.processes().is_empty());
        let left: Vec<_> =
            fs::read_dir(net.path("run")).unwrap().map(|one| one.unwrap().file_name()).collect();
        assert_eq!(left, ["lock"]);
    }
}

#[test]
fn the_way_back_outlives_a_hang_up() {
    let net = Net::lan();
    let _listener = net.server.echo(80);
    firewall(&net, &["--confirm", "6"]);
    let waiting = net.server.processes();
    assert!(!waiting.is_empty());
    for pid in waiting {
        kill(pid, Signal::SIGHUP).unwrap();
    }
    wait_until(SOON, "open as before", || is_open(&net, 80));
}

#[test]
fn over_ssh_a_change_waits_for_confirmation() {
    let net = Net::lan();
    let dirs = ["--run-dir", "--config-dir"]
        .map(|option| format!("{option}={}", net.path(&option[2..]).display()));
    let over_ssh = |arguments: &[&str]| {
        let mut command = net.server.command(SCRIPT);
        command.args(&dirs).args(arguments);
        command.env("SSH_CONNECTION", "10.66.1.2 40000 10.66.1.1 2222");
        said(&command.output().unwrap())
    };
    let lost = |arguments: &[&str]| over_ssh(arguments).contains("nobody comes in that way again");
    for (arguments, is_lost) in [
        (&[][..], true),
        (&["--allow", "tcp/2000-2221"], true),
        (&["--allow", "tcp/2222"], false),
        (&["--allow", "udp/1,tcp/2000-3000"], false),
        (&["--only", "tcp/22"], false),
        (&["--only", "tcp/22,tcp/2222"], true),
        (&["--except", "10.66.1.2"], false),
    ] {
        assert_eq!(lost(arguments), is_lost, "{arguments:?}");
    }
    fs::create_dir_all(net.path("config-dir/profiles/laptop")).unwrap();
    let answer = over_ssh(&[]);
    assert!(answer.contains("for 60 s") && !answer.contains("nobody comes in"), "{answer}");
    assert!(over_ssh(&["--confirmed"]).contains("closed"));
    over_ssh(&["--undo"]);
    // sudo clears the environment: what remains is the process above.
    let mut sudo = net.server.command("sh");
    sudo.args(["-c", "env -u SSH_CONNECTION \"$@\"; exit $?", "sh", SCRIPT]).args(&dirs);
    let answer =
        said(&sudo.env("SSH_CONNECTION", "10.66.1.2 40000 10.66.1.1 2222").output().unwrap());
    assert!(answer.contains("for 60 s"), "{answer}");
}

#[test]
fn what_cannot_be_meant_is_refused_before_anything_changes() {
    let net = Net::lan();
    for (arguments, explanation) in [
        (&["--allow", "tcp/0"][..], "tcp/80"),
        (&["--allow", "tcp/90-80"], "tcp/80"),
        (&["--allow", "tcp/65536"], "tcp/80"),
        (&["--allow", "tcp/080"], "tcp/80"),
        (&["--allow", "sctp/80"], "tcp/80"),
        (&["--allow", "80"], "tcp/80"),
        (&["--only", "tcp/22,tcp/x"], "tcp/80"),
        (&["--only", ","], "tcp/80"),
        (&["--allow"], "needs a value"),
        (&["--only="], "needs a value"),
        (&["--only", "tcp/22", "--allow", "tcp/80"], "no --allow with it"),
        (&["--except", "example.org"], "not like"),
        (&["--except", "0.0.0.0/0"], "not like"),
        (&["--except", "::/0"], "not like"),
        (&["--except", "192.0.2.1/33"], "not like"),
        (&["--except", "192.0.2.256"], "not like"),
        (&["--except", "192.0.2.1; flush ruleset"], "not like"),
        (&["--except-interface", "\", \"lo"], "not like"),
        (&["--except-interface", "sixteenletters-x"], "not like"),
        (&["--confirm", "soon"], "seconds"),
        (&["--flush"], "unknown option"),
        (&["--knock-port", "666"], "unknown option"),
    ] {
        let output = script(&net, Tools::Nft, arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(explanation), "{arguments:?}: {}", said(&output));
    }
    assert_eq!(ruleset(&net), "");
}

/// ufw knows nothing of the guard, has no line of ours, and opens the port to everybody.
#[test]
fn a_guard_beside_ufw_closes_what_ufw_opens() {
    let net = Net::lan();
    let _service = net.server.echo(22);
    let etc = net.path("ufw");
    assert!(Command::new("cp").arg("-a").arg("/etc/ufw").arg(&etc).status().unwrap().success());
    // ufw sees the copy as its /etc/ufw, in the mount namespace that `ip netns exec` makes for each run.
    let ufw = |arguments: &str| {
        let script = format!("mount --bind {} /etc/ufw && ufw {arguments}", etc.display());
        net.server.run(&["sh", "-ec", &script]);
    };
    ufw("--force enable");
    for (slot, open) in (0..).zip([true, false]) {
        ufw(if open { "allow 22/tcp" } else { "delete allow 22/tcp" });
        firewall(&net, &["--only", "tcp/22"]);
        for (nth, family) in (1..).zip(FAMILIES) {
            ufw("reload");
            assert_eq!(reach(&net, &net.client, family, 22), Reach::Refused);
            let to = SocketAddr::new(net.server.address(family), 22);
            net.server.grant(slot * 2 + nth, net.client.address(family), "tcp", to, Admits::One);
            assert_eq!(
                net.client.can_connect(to.ip(), 22, SOON),
                Reach::Connected,
                "ufw open: {open}"
            );
            assert_eq!(reach(&net, &net.client, family, 22), Reach::Refused);
        }
    }
}

/// The units' lines are what systemd knows, and what they run is this script.
#[test]
fn systemd_understands_the_units() {
    let dir = tempfile::tempdir().unwrap();
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd");
    let names = ["knockknock-guard.service", "knockknock-guard-nftables.service"];
    let copies = names.map(|name| {
        let text = fs::read_to_string(units.join(name)).unwrap();
        assert!(text.contains("ExecStart=/usr/local/sbin/minimal-firewall.sh --boot\n"), "{name}");
        let copy = dir.path().join(name);
        fs::write(&copy, text.replace("/usr/local/sbin/minimal-firewall.sh", SCRIPT)).unwrap();
        copy
    });
    let verified =
        Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&copies).output();
    let verified = verified.unwrap();
    assert!(
        verified.status.success() && !said(&verified).contains("knockknock-guard"),
        "{}",
        said(&verified)
    );
}
