//! The harness does what it says: otherwise a test that sees nothing happen proves nothing.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use crate::connection::{Reach, hang_up, is_alive};
use crate::kernel_log::{DAEMONS, Framing, KernelLog, Rsyslog};
use crate::net::{FAMILIES, Family, Net};
use crate::process::{Running, SOON, wait_until};
use crate::wire::{Route, Tap, make_syn, send_frames};

const SECOND: Duration = Duration::from_secs(1);

/// A firewall that logs and refuses SYNs to one port, and lets everything else in.
fn refuse_and_log(net: &Net, port: u16) {
    net.server.nft(&format!(
        "table inet t {{ chain in {{ type filter hook input priority filter; tcp dport {port} tcp flags syn \
         log prefix \"{}\" level debug flags tcp sequence,options flags ip options reject with tcp reset; }}; }}",
        net.prefix
    ));
}

#[test]
fn hosts_of_a_lan_reach_each_other_and_tell_refused_from_silent() {
    let net = Net::lan();
    let echo = net.server.echo(7);
    net.server.nft(
        "table inet t { chain in { type filter hook input priority filter; tcp dport 9 drop; }; }",
    );
    for family in FAMILIES {
        let to = net.server.address(family);
        for host in [&net.client, &net.other] {
            assert_eq!(host.can_connect(to, 7, SECOND), Reach::Connected);
            assert_eq!(host.can_connect(to, 8, SECOND), Reach::Refused);
            assert_eq!(host.can_connect(to, 9, Duration::from_millis(200)), Reach::TimedOut);
        }
        let stream = net.client.connect(to, 7, SECOND).unwrap();
        assert!(is_alive(&stream));
        assert_eq!(stream.local_addr().unwrap().ip(), net.client.address(family));
        hang_up(&stream);
        assert!(!is_alive(&stream));
    }
    wait_until(SOON, "six connections", || echo.accepted() == 6);
    drop(echo);
    assert_eq!(net.client.can_connect(net.server.ipv4.into(), 7, SECOND), Reach::Refused);
}

#[test]
fn hosts_behind_the_router_share_its_address() {
    let net = Net::nat();
    let _echo = net.server.echo(7);
    let router = net.router.as_ref().unwrap();
    for family in FAMILIES {
        for host in [&net.client, &net.other] {
            let mut tap = Tap::on(&net.server);
            assert_eq!(host.can_connect(net.server.address(family), 7, SECOND), Reach::Connected);
            assert_eq!(tap.wait_for_syn(7).source, router.address(family));
        }
    }
}

#[test]
fn a_dropped_network_leaves_no_namespace_and_no_process() {
    let net = Net::lan();
    assert_eq!(net.server.run(&["ip", "-br", "link", "show", "type", "veth"]).lines().count(), 1);
    let mut sleeper =
        Running::start(net.server.command("sh").args(["-c", "echo asleep; exec sleep 600"]));
    sleeper.wait_for_line("asleep", |line| line == "asleep");
    let names = || {
        fs::read_dir("/run/netns")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
    };
    let id = net.prefix.trim_end().strip_prefix("REJECT-").unwrap().to_owned();
    let ours = || names().filter(|name| name.starts_with(&format!("kk-{id}-"))).count();
    assert_eq!(ours(), 4);
    let dir = net.path("");
    drop(net);
    assert_eq!(ours(), 0);
    assert!(!dir.exists());
    sleeper.wait_for_end();
}

#[test]
fn a_captured_syn_is_sent_again_byte_for_byte() {
    let net = Net::lan();
    refuse_and_log(&net, 666);
    let log = KernelLog::of(&net);
    for family in FAMILIES {
        let to = net.server.address(family);
        let mut tap = Tap::on(&net.server);
        assert_eq!(net.client.can_connect(to, 666, SECOND), Reach::Refused);
        let first = tap.wait_for_syn(666);
        assert_eq!((first.source, first.destination), (net.client.address(family), to));
        log.wait_for("the first", |line| line.contains(&format!("SEQ={} ", first.sequence)));
        send_frames(&net.client, std::slice::from_ref(&first.frame));
        assert_eq!(tap.wait_for_syn(666).frame, first.frame);
        assert_eq!(tap.syns_to(666, Duration::from_millis(50)).len(), 0);
        wait_until(SOON, "the second line", || log.count(&format!("SEQ={} ", first.sequence)) == 2);
    }
}

#[test]
fn a_made_syn_is_a_valid_one() {
    let net = Net::lan();
    refuse_and_log(&net, 666);
    let log = KernelLog::of(&net);
    for (family, length) in [(Family::V4, "LEN=40 "), (Family::V6, "LEN=60 ")] {
        let source = SocketAddr::new(net.other.address(family), 40_000);
        let destination = SocketAddr::new(net.server.address(family), 666);
        let mut tap = Tap::on(&net.server);
        send_frames(
            &net.client,
            &[make_syn(Route::between(&net.client, &net.server), source, destination, 305_419_896)],
        );
        assert_eq!(tap.wait_for_syn(666).source, source.ip());
        log.wait_for("the made SYN", |line| {
            line.contains("SPT=40000 DPT=666 SEQ=305419896 ACK=0 ") && line.contains(length)
        });
    }
    assert_eq!(log.lines().len(), 2);
}

#[test]
fn rsyslog_writes_this_networks_lines_as_debian_does() {
    for framing in [Framing::Traditional, Framing::Iso] {
        let (net, elsewhere) = (Net::lan(), Net::lan());
        refuse_and_log(&net, 666);
        refuse_and_log(&elsewhere, 666);
        let mut rsyslog = Rsyslog::start(&net, framing);
        let knock = |net: &Net| {
            assert_eq!(net.client.can_connect(net.server.ipv4.into(), 666, SECOND), Reach::Refused);
        };
        // rsyslog makes a file when it has a line for it.
        let lines = |path: &Path| {
            let text = match fs::read_to_string(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
                read => read.unwrap(),
            };
            // The lines of daemons that other tests run are in it, too.
            let daemons = format!("] {DAEMONS}");
            let firewalls = text.lines().filter(|line| !line.contains(&daemons));
            firewalls.map(str::to_owned).collect::<Vec<_>>()
        };
        knock(&elsewhere);
        knock(&net);
        wait_until(SOON, "a line", || !lines(&rsyslog.kern_log).is_empty());
        rsyslog.pause();
        knock(&net);
        rsyslog.resume();
        wait_until(SOON, "the line that waited", || lines(&rsyslog.kern_log).len() == 2);
        let moved = rsyslog.kern_log.with_extension("log.1");
        fs::rename(&rsyslog.kern_log, &moved).unwrap();
        rsyslog.reopen();
        knock(&net);
        wait_until(SOON, "a line in one of the files", || {
            lines(&moved).len() == 3 || lines(&rsyslog.kern_log).len() == 1
        });
        for line in lines(&moved) {
            let (before, text) = line.split_once(&net.prefix).unwrap();
            let (header, stamp) = before.split_once(" kernel: ").unwrap();
            assert!(stamp.starts_with('[') && stamp.ends_with("] "), "{line}");
            assert_eq!(
                header.contains('T') && header.contains('+'),
                matches!(framing, Framing::Iso),
                "{line}"
            );
            assert!(text.contains(" DPT=666 SEQ="), "{line}");
        }
        let forged = UnixDatagram::unbound().unwrap();
        forged.send_to(b"<7>kernel: [    1.000000] forged", &rsyslog.dev_log).unwrap();
        wait_until(SOON, "the forged line", || {
            lines(&rsyslog.kern_log).iter().any(|line| line.ends_with("] forged"))
        });
    }
}
