//! `scripts/minimal-firewall.sh` by what it does to packets: what gets in, what is refused, what is logged.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use crate::kernel_log::KernelLog;
use crate::net::{FAMILIES, Family, Host, Net};
use crate::process::{SOON, wait_until};
use crate::talk::{Reach, is_alive};
use crate::wire::{Route, Tap, make_syn, send_frames};

const SECOND: Duration = Duration::from_secs(1);
const KNOCK_PORT: u16 = 666;
/// The two ways in which the script makes its rules.
const BACK_ENDS: [&[&str]; 2] = [&[], &["--iptables"]];

/// A call of the script on the server. `--confirm 0`, because whoever runs the tests may do so over ssh.
fn script(net: &Net, arguments: &[&str]) -> Command {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/minimal-firewall.sh");
    let mut command = net.server.command(path);
    command.args(["--confirm", "0", "--prefix", &net.prefix]).arg("--run-dir").arg(net.path("run"));
    command
        .args(arguments)
        .env_remove("SSH_CONNECTION")
        .env_remove("SSH_CLIENT")
        .env_remove("SSH_TTY");
    command
}

/// Runs the script, which has to work, and gives what it printed.
fn firewall(net: &Net, back_end: &[&str], arguments: &[&str]) -> String {
    let output = script(net, &[back_end, arguments].concat()).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
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
    net.server.run(&["nft", "-s", "list", "ruleset"])
}

fn reach(net: &Net, from: &Host, family: Family, port: u16) -> Reach {
    from.can_connect(net.server.address(family), port, SECOND)
}

fn ping(net: &Net, from: &Host, family: Family) -> bool {
    let to = net.server.address(family).to_string();
    from.command("ping").args(["-c", "1", "-W", "2", &to]).output().unwrap().status.success()
}

#[test]
fn everything_is_refused_but_what_is_allowed_and_pings() {
    for back_end in BACK_ENDS {
        let net = Net::lan();
        let _listeners: Vec<_> = [22, 79, 80, 82, 83].map(|port| net.server.echo(port)).into();
        firewall(&net, back_end, &["--allow", "tcp/80-82", "--allow=tcp/8080"]);
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
                    "{back_end:?} {family:?} {port}"
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
            assert!(ping(&net, &net.client, family), "{back_end:?} {family:?}");
        }
        net.client.run(&["ip", "neighbour", "flush", "dev", "eth0"]);
        net.server.run(&["ip", "neighbour", "flush", "dev", "eth0"]);
        for family in FAMILIES {
            assert!(
                ping(&net, &net.client, family),
                "neighbours still find each other: {back_end:?} {family:?}"
            );
        }
    }
}

#[test]
fn udp_is_answered_by_an_icmp_error_unless_allowed() {
    for back_end in BACK_ENDS {
        let net = Net::lan();
        firewall(&net, back_end, &["--allow", "udp/53"]);
        for family in FAMILIES {
            let server = net.server.inside(|| {
                UdpSocket::bind(SocketAddr::new(net.server.address(family), 53)).unwrap()
            });
            let client = |port| {
                let socket = net.client.inside(|| {
                    UdpSocket::bind(SocketAddr::new(net.client.address(family), 0)).unwrap()
                });
                socket.connect(SocketAddr::new(net.server.address(family), port)).unwrap();
                socket.set_read_timeout(Some(SOON)).unwrap();
                socket.send(b"question").unwrap();
                socket
            };
            let refused = client(54).recv(&mut [0; 8]).unwrap_err();
            assert_eq!(
                refused.kind(),
                std::io::ErrorKind::ConnectionRefused,
                "{back_end:?} {family:?}"
            );
            let asking = client(53);
            let (_, asker) = server.recv_from(&mut [0; 8]).unwrap();
            server.send_to(b"answer", asker).unwrap();
            assert_eq!(asking.recv(&mut [0; 8]).unwrap(), 6);
        }
    }
}

#[test]
fn a_packet_with_the_granted_mark_gets_in() {
    for back_end in BACK_ENDS {
        let net = Net::lan();
        let _listener = net.server.echo(22);
        firewall(&net, back_end, &[]);
        net.server.nft(
            "table inet t { chain in { type filter hook input priority filter - 10; \
             ip saddr 10.66.1.2 meta mark set meta mark | 0x20000000; }; }",
        );
        assert_eq!(reach(&net, &net.client, Family::V4, 22), Reach::Connected);
        assert_eq!(reach(&net, &net.other, Family::V4, 22), Reach::Refused);
        assert_eq!(reach(&net, &net.client, Family::V6, 22), Reach::Refused);
    }
}

#[test]
fn connections_from_before_the_firewall_go_on() {
    for back_end in BACK_ENDS {
        let net = Net::lan();
        let _listener = net.server.echo(22);
        let streams = FAMILIES
            .map(|family| net.client.connect(net.server.address(family), 22, SECOND).unwrap());
        // Nothing tracked connections so far, and these stay silent until the rules are there.
        firewall(&net, back_end, &[]);
        for stream in &streams {
            assert!(is_alive(stream), "{back_end:?} {stream:?}");
        }
        firewall(&net, back_end, &[]);
        for stream in &streams {
            assert!(is_alive(stream), "{back_end:?} {stream:?}");
        }
        assert_eq!(reach(&net, &net.client, Family::V4, 22), Reach::Refused);
    }
}

/// Profiles as `knock-genprofile` writes them, as far as the script reads them.
fn config_dir(net: &Net, ports: &[u16]) -> String {
    let dir = net.path("knockknock.d");
    for port in ports {
        let profile = dir.join(format!("profiles/p{port}"));
        fs::create_dir_all(&profile).unwrap();
        fs::write(profile.join("config"), format!("[main]\nknock_port = {port}\n")).unwrap();
    }
    dir.to_str().unwrap().to_owned()
}

#[test]
fn a_refused_syn_is_logged_with_all_a_knock_needs() {
    for back_end in BACK_ENDS {
        let net = Net::lan();
        firewall(
            &net,
            back_end,
            &["--config-dir", &config_dir(&net, &[KNOCK_PORT, 700]), "--knock-port", "800"],
        );
        let log = KernelLog::of(&net);
        for family in FAMILIES {
            for port in [KNOCK_PORT, 700, 800, 900] {
                let mut tap = Tap::on(&net.server);
                assert_eq!(reach(&net, &net.client, family, port), Reach::Refused);
                let sequence = tap.wait_for_syn(port).sequence;
                let line = log.wait_for("the SYN", |line| {
                    line.contains(&format!(" DPT={port} SEQ={sequence} ACK=0 "))
                });
                assert!(line.contains(" SYN URGP=0 OPT (020405"), "{line}");
                assert_eq!(log.count(&format!("SEQ={sequence} ")), 1);
            }
        }
    }
}

#[test]
fn a_scan_of_all_ports_silences_no_knock() {
    for back_end in BACK_ENDS {
        let net = Net::lan();
        firewall(&net, back_end, &["--knock-port", "666"]);
        let log = KernelLog::of(&net);
        for family in FAMILIES {
            let server = net.server.address(family);
            let from = SocketAddr::new(net.other.address(family), 40_000);
            let route = Route::between(&net.other, &net.server);
            let scan: Vec<_> = (1..=u16::MAX)
                .map(|port| make_syn(route, from, SocketAddr::new(server, port), 1))
                .collect();
            let knocks = thread::scope(|scope| {
                let scanning = scope.spawn(|| send_frames(&net.other, &scan));
                let mut knocks = 0;
                while knocks < 100 && !scanning.is_finished() {
                    knocks += 1;
                    knock(&net.client, &net.server, family, 1_000_000 + knocks);
                }
                knocks
            });
            assert!(knocks > 0);
            for sequence in 1_000_001..=1_000_000 + knocks {
                log.wait_for("each knock", |line| {
                    line.contains(&format!(" DPT=666 SEQ={sequence} "))
                });
            }
            let of_the_scan = log.count(" SPT=40000 ");
            assert!(
                (1..1000).contains(&of_the_scan),
                "{back_end:?} {family:?}: {of_the_scan} lines of a scan"
            );
        }
    }
}

/// Sends a SYN to the knock port.
fn knock(from: &Host, server: &Host, family: Family, sequence: u32) {
    let source = SocketAddr::new(from.address(family), 50_000);
    let frame = make_syn(
        Route::between(from, server),
        source,
        SocketAddr::new(server.address(family), KNOCK_PORT),
        sequence,
    );
    send_frames(from, &[frame]);
}

#[test]
fn a_flood_of_the_knock_port_from_one_source_silences_no_other() {
    for (back_end, family) in
        BACK_ENDS.iter().flat_map(|back_end| FAMILIES.map(|family| (back_end, family)))
    {
        let net = Net::lan();
        firewall(&net, back_end, &["--knock-port", "666"]);
        let log = KernelLog::of(&net);
        let server = SocketAddr::new(net.server.address(family), KNOCK_PORT);
        let from = SocketAddr::new(net.other.address(family), 40_000);
        let route = Route::between(&net.other, &net.server);
        let mut flood = vec![make_syn(route, from, server, 1); 5_000];
        if let IpAddr::V6(own) = from.ip() {
            // From 200 addresses of one /64: still one source.
            for (frame, number) in flood.iter_mut().zip(0..) {
                let source = Ipv6Addr::from_bits(own.to_bits() + 0x10000 + number % 200);
                *frame = make_syn(route, SocketAddr::new(source.into(), 40_000), server, 1);
            }
        }
        let heard = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..200 {
                    send_frames(&net.other, &flood);
                    if heard.load(Ordering::SeqCst) {
                        break;
                    }
                }
            });
            wait_until(SOON, "the flood at its limit", || log.count(" SPT=40000 ") >= 200);
            for sequence in 2_000_001..=2_000_020 {
                knock(&net.client, &net.server, family, sequence);
                log.wait_for("the knock", |line| {
                    line.contains(&format!(" DPT=666 SEQ={sequence} "))
                });
            }
            heard.store(true, Ordering::SeqCst);
        });
        let lines = log.count(" SPT=40000 ");
        assert!((200..400).contains(&lines), "{back_end:?} {family:?}: {lines} lines of a flood");
    }
}

#[test]
fn a_flood_from_everywhere_fills_no_disk() {
    for back_end in BACK_ENDS {
        let net = Net::lan();
        firewall(&net, back_end, &["--knock-port", "666"]);
        let log = KernelLog::of(&net);
        let route = Route::between(&net.other, &net.server);
        let to = SocketAddr::new(net.server.ipv4.into(), KNOCK_PORT);
        let from =
            |number: u32| SocketAddr::new(Ipv4Addr::from_bits(0xc612_0000 + number).into(), 40_000);
        let flood: Vec<_> =
            (0..50_000).map(|number| make_syn(route, from(number), to, 1)).collect();
        send_frames(&net.other, &flood);
        net.server.nft(&format!(
            "table inet t {{ chain in {{ type filter hook input priority -100; tcp dport 1 log prefix \"{}last \"; }}; }}",
            net.prefix
        ));
        assert_eq!(reach(&net, &net.client, Family::V4, 1), Reach::Refused);
        log.wait_for("the end of the flood", |line| line.contains("last IN="));
        let lines = log.count(" SPT=40000 ");
        assert!((300..2000).contains(&lines), "{back_end:?}: {lines} lines of a flood");
    }
}

#[test]
fn one_user_can_knock_for_two_hundred_connections_at_once() {
    for back_end in BACK_ENDS {
        let net = Net::lan();
        firewall(&net, back_end, &["--knock-port", "666"]);
        let log = KernelLog::of(&net);
        for sequence in 1..=200 {
            knock(&net.client, &net.server, Family::V4, sequence);
        }
        wait_until(SOON, "200 lines", || log.count(" DPT=666 ") == 200);
    }
}

#[test]
fn applying_twice_is_applying_once_and_undo_leaves_nothing() {
    for back_end in BACK_ENDS {
        let net = Net::lan();
        net.server.nft("table inet somebody_elses { chain in { type filter hook input priority 5; tcp dport 1 drop; }; }");
        let options = ["--allow", "tcp/80", "--allow", "udp/53", "--knock-port", "666"];
        firewall(&net, back_end, &options);
        let once = ruleset(&net);
        firewall(&net, back_end, &options);
        assert_eq!(ruleset(&net), once);
        assert!(once.contains("somebody_elses"));

        let _listener = net.server.echo(22);
        assert_eq!(reach(&net, &net.client, Family::V6, 22), Reach::Refused);
        firewall(&net, back_end, &["--undo"]);
        let left = ruleset(&net);
        assert!(
            left.contains("somebody_elses") && !left.to_lowercase().contains("knockknock"),
            "{left}"
        );
        assert_eq!(reach(&net, &net.client, Family::V6, 22), Reach::Connected);
        firewall(&net, back_end, &["--undo"]);
        assert_eq!(ruleset(&net), left);
    }
}

#[test]
fn changing_the_back_end_leaves_one_of_them() {
    let net = Net::lan();
    firewall(&net, BACK_ENDS[0], &["--knock-port", "666"]);
    firewall(&net, BACK_ENDS[1], &["--knock-port", "666"]);
    assert!(
        !ruleset(&net).contains("knockknock_firewall") && ruleset(&net).contains("KNOCKKNOCK_FW")
    );
    firewall(&net, BACK_ENDS[0], &["--knock-port", "666"]);
    assert!(
        ruleset(&net).contains("knockknock_firewall") && !ruleset(&net).contains("KNOCKKNOCK_FW")
    );
}

#[test]
fn print_shows_what_would_be_loaded_and_changes_nothing() {
    let net = Net::lan();
    let _listener = net.server.echo(22);
    let stream = net.client.connect(net.server.ipv4.into(), 22, SECOND).unwrap();
    let options = ["--allow", "tcp/80", "--knock-port", "666"];
    for back_end in BACK_ENDS {
        let printed = firewall(&net, back_end, &[&options[..], &["--print"]].concat());
        assert!(printed.contains(&net.prefix) && printed.contains("666"), "{printed}");
        assert!(printed.contains("# now, for the connection that is there"), "{printed}");
        assert_eq!(ruleset(&net), "");
        assert!(!net.path("run").exists());
    }
    drop(stream);
    // What is printed is what is loaded: kept in a file, it does at the next boot what the script does now.
    net.server.nft(&firewall(&net, &[], &[&options[..], &["--print"]].concat()));
    let from_file = ruleset(&net);
    firewall(&net, &[], &options);
    let own = |rules: &str| rules.split_once("chain input").unwrap().1.to_owned();
    assert_eq!(own(&from_file), own(&ruleset(&net)));
}

#[test]
fn an_unconfirmed_change_goes_back_by_itself() {
    for back_end in BACK_ENDS {
        let net = Net::lan();
        let _listeners = [80, 81].map(|port| net.server.echo(port));
        let open = |port| reach(&net, &net.client, Family::V4, port) == Reach::Connected;
        firewall(&net, back_end, &["--allow", "tcp/81", "--confirm", "2"]);
        assert!(!open(80) && open(81));
        wait_until(SOON, "nothing, as before", || open(80));

        // Back to the version before, with the state it had: a knock has been counted there.
        firewall(&net, back_end, &["--allow", "tcp/80", "--knock-port", "666"]);
        knock(&net.client, &net.server, Family::V4, 1);
        knock(&net.client, &net.server, Family::V6, 1);
        firewall(&net, back_end, &["--allow", "tcp/81", "--confirm", "300"]);
        // A second unconfirmed change does not make the first one permanent.
        firewall(&net, back_end, &["--allow", "tcp/82", "--confirm", "2"]);
        assert!(!open(80) && !open(81));
        wait_until(SOON, "the version before both", || open(80));
        assert!(!open(81));
        let late = script(&net, &["--confirmed"]).output().unwrap();
        assert_eq!(late.status.code(), Some(1), "{}", said(&late));
    }
}

#[test]
fn a_confirmed_change_stays() {
    let net = Net::lan();
    let _listener = net.server.echo(80);
    firewall(&net, &[], &["--confirm", "2"]);
    firewall(&net, &[], &["--confirmed"]);
    // The process that would have taken it back ends when it finds nothing to do.
    wait_until(SOON, "no process left", || net.server.processes().is_empty());
    assert_eq!(reach(&net, &net.client, Family::V4, 80), Reach::Refused);
    assert_eq!(reach(&net, &net.client, Family::V6, 80), Reach::Refused);
}

#[test]
fn the_way_back_outlives_a_hang_up() {
    let net = Net::lan();
    let _listener = net.server.echo(80);
    firewall(&net, &[], &["--confirm", "2"]);
    let waiting = net.server.processes();
    assert!(!waiting.is_empty());
    for pid in waiting {
        kill(pid, Signal::SIGHUP).unwrap();
    }
    wait_until(SOON, "open as before", || {
        reach(&net, &net.client, Family::V4, 80) == Reach::Connected
    });
}

#[test]
fn over_ssh_a_change_waits_for_confirmation() {
    let net = Net::lan();
    let over_ssh = |arguments: &[&str]| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/minimal-firewall.sh");
        let mut command = net.server.command(path);
        command.arg("--run-dir").arg(net.path("run")).args(arguments);
        command.env("SSH_CONNECTION", "10.66.1.2 40000 10.66.1.1 2222");
        said(&command.output().unwrap())
    };
    let answer = over_ssh(&["--knock-port", "666"]);
    assert!(answer.contains("for 60 s") && !answer.contains("nobody comes in"), "{answer}");
    assert!(over_ssh(&["--confirmed"]).contains("kept"));
    assert!(over_ssh(&[]).contains("nobody comes in that way again"));
    assert!(!over_ssh(&["--allow", "tcp/2222"]).contains("nobody comes in"));
    over_ssh(&["--undo"]);
    // sudo clears the environment: what remains is the process above.
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/minimal-firewall.sh");
    let mut sudo = net.server.command("sh");
    sudo.args(["-c", "env -u SSH_CONNECTION \"$@\"; exit $?", "sh"])
        .arg(path)
        .arg("--run-dir")
        .arg(net.path("run"));
    let answer =
        said(&sudo.env("SSH_CONNECTION", "10.66.1.2 40000 10.66.1.1 2222").output().unwrap());
    assert!(answer.contains("for 60 s"), "{answer}");
}

#[test]
fn what_cannot_be_meant_is_refused_before_anything_changes() {
    let net = Net::lan();
    let broken = net.path("broken");
    fs::create_dir_all(broken.join("profiles/p")).unwrap();
    fs::write(broken.join("profiles/p/config"), "[main]\nknock_port = 66666\n").unwrap();
    for (arguments, status, explanation) in [
        (&["--allow", "tcp/0"][..], 2, "tcp/80"),
        (&["--allow", "tcp/90-80"], 2, "tcp/80"),
        (&["--allow", "sctp/80"], 2, "tcp/80"),
        (&["--allow", "80"], 2, "tcp/80"),
        (&["--allow"], 2, "needs a value"),
        (&["--knock-port", "65536"], 2, "not a port"),
        (&["--knock-port", "666", "--allow", "tcp/600-700"], 2, "666 is a knock port and allowed"),
        (&["--prefix", "\" accept comment \""], 2, "letters"),
        (&["--prefix", "thirty bytes are one too many "], 2, "letters"),
        (&["--confirm", "soon"], 2, "seconds"),
        (&["--flush"], 2, "unknown option"),
        (&["--config-dir", "/nonexistent"], 1, "/nonexistent"),
        (&["--config-dir", broken.to_str().unwrap()], 1, "profiles/p/config: knock_port"),
    ] {
        let output = script(&net, arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(explanation), "{arguments:?}: {}", said(&output));
    }
    assert_eq!(ruleset(&net), "");
}
