//! `scripts/guard.nft`, attacked with real packets: what it closes stays shut to strangers, and nothing else changes. The
//! same holds of the copy that a daemon has.

use std::io::{ErrorKind, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt::Linger};
use pnet::packet::tcp::TcpFlags;

use crate::connection::{Reach, is_alive};
use crate::firewall_script::{TOOLS, Tools, firewall, firewall_with};
use crate::grant::Admits;
use crate::net::{FAMILIES, Family, Host, Net};
use crate::process::{Running, SOON, wait_until};
use crate::wire::{Route, make_segment, send_frames};

const SECOND: Duration = Duration::from_secs(1);
/// The closed ports; beside them one that nobody has closed, and one where nothing listens.
const PORT: u16 = 22;
const UDP_PORT: u16 = 51820;
const OPEN: u16 = 80;
const UNUSED: u16 = 23;

/// Who holds the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    /// The script's own table.
    Script,
    /// A daemon's copy alone.
    Daemon,
}

const HOLDERS: [Holder; 2] = [Holder::Script, Holder::Daemon];

/// A daemon that holds the rules, until this is dropped.
struct Held(Option<Running>);

impl Drop for Held {
    fn drop(&mut self) {
        let Some(daemon) = &mut self.0 else { return };
        daemon.signal(Signal::SIGTERM);
        if !std::thread::panicking() {
            daemon.wait_for_end();
        }
    }
}

impl Holder {
    /// Closes the two ports, and more options.
    fn guard(self, net: &Net, more: &[&str]) -> Held {
        guard(net, more);
        if self == Self::Script {
            return Held(None);
        }
        let etc = net.path("etc");
        if !etc.join("profiles").exists() {
            let mut made = Command::new(env!("CARGO_BIN_EXE_knock-genprofile"));
            made.arg("--config-dir").arg(&etc).args(["client", "666"]);
            assert!(made.output().unwrap().status.success());
        }
        let mut command = net.server.command(env!("CARGO_BIN_EXE_knock-daemon"));
        command.arg("--config-dir").arg(&etc).args(["--user", "nobody", "--log", "kmsg"]);
        let mut daemon = Running::start(&mut command);
        daemon.wait_for_line("ready", |line| line == "ready");
        net.server.run(&["nft", "delete", "table", "inet", "knockknock_guard"]);
        Held(Some(daemon))
    }
}

fn guard(net: &Net, more: &[&str]) {
    firewall(net, &[&["--only", "tcp/22,udp/51820"][..], more].concat());
}

fn server(net: &Net, family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(net.server.address(family), port)
}

fn reach(from: &Host, to: SocketAddr) -> Reach {
    from.can_connect(to.ip(), to.port(), SOON)
}

pub(crate) fn udp(host: &Host, family: Family, port: u16) -> UdpSocket {
    let address: IpAddr = match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = host.bind(|| UdpSocket::bind(SocketAddr::new(address, port)));
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

/// Sends a datagram, and gives what came back.
pub(crate) fn ask(from: &UdpSocket, to: SocketAddr) -> std::io::Result<usize> {
    from.connect(to).unwrap();
    from.send(b"question").unwrap();
    from.recv(&mut [0; 16])
}

/// Answers one datagram.
fn answer(service: &UdpSocket) {
    let (_, asker) = service.recv_from(&mut [0; 16]).unwrap();
    service.send_to(b"answer", asker).unwrap();
}

#[track_caller]
pub(crate) fn assert_refused(answer: std::io::Result<usize>) {
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn strangers_are_refused_and_a_grant_lets_one_connection_in() {
    for holder in HOLDERS {
        strangers_are_refused_and_a_grant_lets_one_connection_in_by(holder);
    }
}

fn strangers_are_refused_and_a_grant_lets_one_connection_in_by(holder: Holder) {
    let net = Net::lan();
    let services = [PORT, OPEN].map(|port| net.server.echo(port));
    let _held = holder.guard(&net, &[]);
    for (slot, family) in (1..).zip(FAMILIES) {
        let to = server(&net, family, PORT);
        for from in [&net.client, &net.other] {
            assert_eq!(reach(from, to), Reach::Refused, "{family:?}");
            assert_eq!(reach(from, server(&net, family, OPEN)), Reach::Connected, "{family:?}");
        }
        net.server.grant(slot, net.client.address(family), "tcp", to, Admits::One);
        assert_eq!(reach(&net.other, to), Reach::Refused, "the grant is the client's");
        let stream = net.client.connect(to.ip(), to.port(), SOON).expect("granted");
        assert_eq!(reach(&net.client, to), Reach::Refused, "once");
        assert!(is_alive(&stream));
    }
    assert_eq!(services[0].accepted(), 2);
}

#[test]
fn a_udp_service_hears_nothing_but_who_was_granted() {
    for holder in HOLDERS {
        a_udp_service_hears_nothing_but_who_was_granted_by(holder);
    }
}

fn a_udp_service_hears_nothing_but_who_was_granted_by(holder: Holder) {
    let net = Net::lan();
    let _held = holder.guard(&net, &[]);
    for (slot, family) in (1..).zip(FAMILIES) {
        let to = server(&net, family, UDP_PORT);
        let service = udp(&net.server, family, UDP_PORT);
        assert_refused(ask(&udp(&net.client, family, 0), to));
        net.server.grant(slot, net.client.address(family), "udp", to, Admits::One);
        assert_refused(ask(&udp(&net.other, family, 0), to));
        let client = udp(&net.client, family, 0);
        std::thread::scope(|scope| {
            let serving = scope.spawn(|| (0..2).for_each(|_| answer(&service)));
            for _ in 0..2 {
                assert_eq!(ask(&client, to).unwrap(), 6, "{family:?}");
            }
            serving.join().unwrap();
        });
        assert_refused(ask(&udp(&net.client, family, 0), to));
        service.set_nonblocking(true).unwrap();
        assert_eq!(service.recv(&mut [0; 16]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}

#[test]
fn running_sessions_live_through_the_load_and_through_whatever_makes_conntrack_forget_them() {
    for loose in ["0", "1"] {
        let net = Net::lan();
        let _service = net.server.echo(PORT);
        let connect = |family| net.client.connect(net.server.address(family), PORT, SOON).unwrap();
        let old = FAMILIES.map(connect);
        let setting = format!("net.netfilter.nf_conntrack_tcp_loose={loose}");
        net.server.run(&["sysctl", "-q", &setting]);
        guard(&net, &[]);
        let alive = |when: &str| {
            for (stream, family) in old.iter().zip(FAMILIES) {
                assert!(is_alive(stream), "loose={loose}, {family:?}: {when}");
                assert_eq!(reach(&net.client, server(&net, family, PORT)), Reach::Refused);
            }
        };
        alive("loaded while nothing tracked connections");
        guard(&net, &[]);
        alive("loaded again");
        net.server.run(&["conntrack", "-F"]);
        alive("conntrack -F");
        for (family, of) in [(Family::V4, "ipv4"), (Family::V6, "ipv6")] {
            // With loose=0 nothing was picked up that could be deleted.
            let mut delete = net.server.command("conntrack");
            let _ = delete.args(["-D", "-f", of, "-p", "tcp"]).output().unwrap();
            let _ = family;
        }
        alive("conntrack -D");
        firewall(&net, &["--undo"]);
        alive_only(&old);
    }
}

fn alive_only(streams: &[TcpStream]) {
    assert!(streams.iter().all(is_alive), "after --undo");
}

#[test]
fn the_host_reaches_its_own_services_by_every_address() {
    for holder in HOLDERS {
        the_host_reaches_its_own_services_by_every_address_by(holder);
    }
}

fn the_host_reaches_its_own_services_by_every_address_by(holder: Holder) {
    let net = Net::lan();
    let _service = net.server.echo(PORT);
    let _held = holder.guard(&net, &[]);
    let own: [IpAddr; 5] = [
        net.server.ipv4.into(),
        net.server.ipv6.into(),
        Ipv4Addr::LOCALHOST.into(),
        Ipv4Addr::new(127, 1, 2, 3).into(),
        Ipv6Addr::LOCALHOST.into(),
    ];
    for address in own {
        assert_eq!(net.server.can_connect(address, PORT, SOON), Reach::Connected, "{address}");
    }
    let service = udp(&net.server, Family::V4, UDP_PORT);
    std::thread::scope(|scope| {
        scope.spawn(|| answer(&service));
        let to = server(&net, Family::V4, UDP_PORT);
        assert_eq!(ask(&udp(&net.server, Family::V4, 0), to).unwrap(), 6);
    });
}

#[test]
fn what_the_host_begins_is_answered() {
    for holder in HOLDERS {
        what_the_host_begins_is_answered_by(holder);
    }
}

fn what_the_host_begins_is_answered_by(holder: Holder) {
    let net = Net::lan();
    let _held = holder.guard(&net, &[]);
    for family in FAMILIES {
        // A WireGuard that calls its peer: from the closed port, to the peer's.
        let (service, peer) =
            (udp(&net.server, family, UDP_PORT), udp(&net.client, family, UDP_PORT));
        std::thread::scope(|scope| {
            scope.spawn(|| answer(&peer));
            let to = SocketAddr::new(net.client.address(family), UDP_PORT);
            assert_eq!(ask(&service, to).unwrap(), 6);
        });
        let _there = net.client.echo(PORT);
        assert_eq!(
            net.server.can_connect(net.client.address(family), PORT, SOON),
            Reach::Connected
        );
    }
}

#[test]
fn broadcast_and_multicast_to_a_closed_port_are_not_heard() {
    for holder in HOLDERS {
        broadcast_and_multicast_to_a_closed_port_are_not_heard_by(holder);
    }
}

fn broadcast_and_multicast_to_a_closed_port_are_not_heard_by(holder: Holder) {
    let net = Net::lan();
    let _held = holder.guard(&net, &[]);
    // What goes to the open port comes after what went to the closed one.
    let ports = [UDP_PORT, UDP_PORT + 1];
    let everybody: [SocketAddr; 3] = [
        (Ipv4Addr::new(10, 66, 1, 255), 0).into(),
        (Ipv4Addr::BROADCAST, 0).into(),
        (Ipv4Addr::new(224, 0, 0, 1), 0).into(),
    ];
    let heard = |sender: &UdpSocket, services: &[UdpSocket; 2], mut to: SocketAddr| {
        for port in ports {
            to.set_port(port);
            net.client.inside(|| sender.send_to(b"all of you", to).unwrap());
        }
        services[1].recv(&mut [0; 16]).unwrap();
        services[0].set_nonblocking(true).unwrap();
        assert_eq!(
            services[0].recv(&mut [0; 16]).unwrap_err().kind(),
            ErrorKind::WouldBlock,
            "{to}"
        );
    };
    net.client.run(&["ip", "route", "add", "default", "dev", "eth0"]);
    let services = ports.map(|port| udp(&net.server, Family::V4, port));
    let sender = udp(&net.client, Family::V4, 0);
    sender.set_broadcast(true).unwrap();
    for to in everybody {
        heard(&sender, &services, to);
    }
    drop(services);
    let services = ports.map(|port| udp(&net.server, Family::V6, port));
    let index = net.client.inside(|| nix::net::if_::if_nametoindex("eth0").unwrap());
    let all_nodes = std::net::SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, index);
    heard(&udp(&net.client, Family::V6, 0), &services, all_nodes.into());
}

/// TCP port `from` and UDP port `udp_from` of the server are the container's 2200 and 5300, as a container engine does it.
fn publish(net: &Net, container: &Host) {
    net.server.nft(&format!(
        "table inet publish {{
            chain pre {{ type nat hook prerouting priority dstnat;
                fib daddr type local meta nfproto ipv4 tcp dport {PORT} dnat ip to {v4}:2200
                fib daddr type local meta nfproto ipv6 tcp dport {PORT} dnat ip6 to [{v6}]:2200
                fib daddr type local meta nfproto ipv4 udp dport {UDP_PORT} dnat ip to {v4}:5300
                fib daddr type local meta nfproto ipv6 udp dport {UDP_PORT} dnat ip6 to [{v6}]:5300
            }}
            chain out {{ type nat hook output priority -100;
                fib daddr type local meta nfproto ipv4 tcp dport {PORT} dnat ip to {v4}:2200
            }}
            chain post {{ type nat hook postrouting priority srcnat;
                iifname kk-bridge oifname kk-bridge masquerade
            }}
        }}",
        v4 = container.ipv4,
        v6 = container.ipv6,
    ));
}

/// A way to the container's own address, through the server.
fn route_to(net: &Net, container: &Host) {
    for (family, to) in [("-4", "10.68.1.0/24"), ("-6", "fd68::/64"), ("-6", "fd69::/64")] {
        let via =
            if family == "-4" { net.server.ipv4.to_string() } else { net.server.ipv6.to_string() };
        net.client.run(&["ip", family, "route", "add", to, "via", &via]);
    }
    assert!(container.ipv4.octets().starts_with(&[10, 68, 1]));
}

#[test]
fn published_ports_are_closed_by_the_port_that_clients_see() {
    for holder in HOLDERS {
        published_ports_are_closed_by_the_port_that_clients_see_by(holder);
    }
}

fn published_ports_are_closed_by_the_port_that_clients_see_by(holder: Holder) {
    let net = Net::lan();
    let container = net.container();
    publish(&net, &container);
    let service = container.echo(2200);
    for family in FAMILIES {
        assert_eq!(reach(&net.client, server(&net, family, PORT)), Reach::Connected);
    }
    let _held = holder.guard(&net, &[]);
    for (slot, family) in (1..).zip(FAMILIES) {
        let accepted = service.accepted();
        let to = server(&net, family, PORT);
        assert_eq!(reach(&net.client, to), Reach::Refused);
        net.server.grant(slot * 2, net.client.address(family), "tcp", to, Admits::One);
        assert_eq!(reach(&net.other, to), Reach::Refused);
        assert_eq!(reach(&net.client, to), Reach::Connected);
        assert_eq!(reach(&net.client, to), Reach::Refused);
        wait_until(SOON, "one more", || service.accepted() == accepted + 1);

        let to = server(&net, family, UDP_PORT);
        let inside = udp(&container, family, 5300);
        assert_refused(ask(&udp(&net.client, family, 0), to));
        net.server.grant(slot * 2 + 1, net.client.address(family), "udp", to, Admits::One);
        std::thread::scope(|scope| {
            scope.spawn(|| answer(&inside));
            assert_eq!(ask(&udp(&net.client, family, 0), to).unwrap(), 6);
        });
        assert_refused(ask(&udp(&net.client, family, 0), to));
    }
}

#[test]
fn forwarded_traffic_and_containers_are_left_alone() {
    for holder in HOLDERS {
        forwarded_traffic_and_containers_are_left_alone_by(holder);
    }
}

fn forwarded_traffic_and_containers_are_left_alone_by(holder: Holder) {
    let net = Net::lan();
    let container = net.container();
    publish(&net, &container);
    let (_published, _inside) = (container.echo(2200), container.echo(PORT));
    let _outside = net.client.echo(PORT);
    route_to(&net, &container);
    for (to, via) in [("10.68.1.0/24", "10.66.1.1"), ("fd68::/64", "fd66:0:0:1::1")] {
        net.other.run(&["ip", "route", "add", to, "via", via]);
    }
    let held = holder.guard(&net, &[]);
    for family in FAMILIES {
        let (inside, outside) = (container.address(family), net.client.address(family));
        assert_eq!(net.client.can_connect(inside, PORT, SOON), Reach::Connected, "passing through");
        assert_eq!(container.can_connect(outside, PORT, SOON), Reach::Connected, "from inside");
        assert_refused(ask(&udp(&net.client, family, 0), SocketAddr::new(inside, UDP_PORT)));
        assert_eq!(
            net.server.can_connect(inside, PORT, SOON),
            Reach::Connected,
            "host to container"
        );
        let hairpin = server(&net, family, PORT);
        assert_eq!(reach(&container, hairpin), Reach::Refused);
    }
    assert_eq!(reach(&net.server, server(&net, Family::V4, PORT)), Reach::Connected, "published");
    let nowhere: IpAddr = "fd69::1".parse().unwrap();
    let error =
        net.client.inside(|| TcpStream::connect_timeout(&SocketAddr::new(nowhere, PORT), SOON));
    assert_eq!(error.unwrap_err().kind(), ErrorKind::NetworkUnreachable, "the ICMP error, no RST");

    drop(held);
    let _held = holder.guard(&net, &["--except-interface", "kk-br*"]);
    for family in FAMILIES {
        assert_eq!(reach(&container, server(&net, family, PORT)), Reach::Connected);
        assert_eq!(reach(&net.client, server(&net, family, PORT)), Reach::Refused);
    }
}

#[test]
fn excepted_networks_come_in_without_a_knock() {
    for holder in HOLDERS {
        excepted_networks_come_in_without_a_knock_by(holder);
    }
}

fn excepted_networks_come_in_without_a_knock_by(holder: Holder) {
    let net = Net::lan();
    let _service = net.server.echo(PORT);
    let _held =
        holder.guard(&net, &["--except", "10.66.1.2", "--except=10.66.1.2/31,fd66:0:0:2::/64"]);
    for family in FAMILIES {
        // 10.66.1.3 is the other host: part of the /31.
        let other = if family == Family::V4 { Reach::Connected } else { Reach::Refused };
        assert_eq!(reach(&net.client, server(&net, family, PORT)), Reach::Connected);
        assert_eq!(reach(&net.other, server(&net, family, PORT)), other);
    }
}

/// Counts in a host's namespace what comes from the server: pairs of ports, by whether it was an RST or a SYN-ACK.
fn watch_answers(host: &Host) {
    host.nft(
        "table inet watch {
            set resets { type inet_service . inet_service; flags dynamic; }
            set greetings { type inet_service . inet_service; flags dynamic; }
            chain pre { type filter hook prerouting priority -300;
                tcp flags & rst == rst add @resets { tcp sport . tcp dport }
                tcp flags & (syn | ack) == syn | ack add @greetings { tcp sport . tcp dport }
            }
        }",
    );
}

/// The client's ports that have got an answer of a kind from one of the server's.
fn answered(host: &Host, kind: &str, port: u16) -> Vec<u16> {
    let listed = host.run(&["nft", "-n", "list", "set", "inet", "watch", kind]);
    let mut ports: Vec<u16> = listed
        .split(&['{', '}', ','][..])
        .filter_map(|one| one.trim().strip_prefix(&format!("{port} . "))?.parse().ok())
        .collect();
    ports.sort_unstable();
    ports
}

#[test]
fn no_odd_packet_is_an_entrance_or_tells_the_port_from_one_where_nothing_listens() {
    for holder in HOLDERS {
        no_odd_packet_is_an_entrance_or_tells_the_port_from_one_where_nothing_listens_by(holder);
    }
}

fn no_odd_packet_is_an_entrance_or_tells_the_port_from_one_where_nothing_listens_by(
    holder: Holder,
) {
    let net = Net::lan();
    let service = net.server.echo(PORT);
    // The worst setting: any ACK may complete a handshake that the host does not remember.
    net.server.run(&["sysctl", "-q", "net.ipv4.tcp_syncookies=2"]);
    let _held = holder.guard(&net, &[]);
    watch_answers(&net.client);
    let (fin, syn, rst, psh, ack, urg) =
        (TcpFlags::FIN, TcpFlags::SYN, TcpFlags::RST, TcpFlags::PSH, TcpFlags::ACK, TcpFlags::URG);
    let kinds = [
        ack,
        ack | psh,
        fin,
        0,
        fin | psh | urg,
        fin | ack,
        rst,
        rst | ack,
        syn | ack,
        syn | fin,
        syn | rst,
        syn | psh,
        syn | urg,
        syn | TcpFlags::ECE | TcpFlags::CWR,
        u8::MAX,
        u8::MAX ^ ack,
        syn,
    ];
    let route = Route::between(&net.client, &net.server);
    for (begin, family) in [(30_000, Family::V4), (40_000, Family::V6)] {
        for port in [PORT, UNUSED] {
            let frames: Vec<_> = (begin..)
                .zip(kinds)
                .map(|(from, flags)| {
                    let from = SocketAddr::new(net.client.address(family), from);
                    make_segment(route, from, server(&net, family, port), 77, flags)
                })
                .collect();
            // Twice: the first may have left something behind in conntrack.
            send_frames(&net.client, &frames);
            send_frames(&net.client, &frames);
        }
        let last = begin + u16::try_from(kinds.len()).unwrap() - 1;
        for port in [PORT, UNUSED] {
            wait_until(SOON, "the answer to the last", || {
                answered(&net.client, "resets", port).contains(&last)
            });
        }
    }
    wait_until(SOON, "the same answers", || {
        answered(&net.client, "resets", PORT) == answered(&net.client, "resets", UNUSED)
    });
    let answers = answered(&net.client, "resets", PORT);
    assert!(answers.len() >= 20, "{answers:?}");
    assert!(answered(&net.client, "greetings", PORT).is_empty());
    assert_eq!(service.accepted(), 0);
}

#[test]
fn data_in_a_fast_open_syn_does_not_arrive() {
    let net = Net::lan();
    // Both sides without a cookie.
    net.server.run(&["sysctl", "-q", "net.ipv4.tcp_fastopen=0x603"]);
    let service = net.server.echo(PORT);
    net.client.run(&["sysctl", "-q", "net.ipv4.tcp_fastopen=0x5"]);
    let send = |family| {
        let script = "import socket, sys\n\
            s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)\n\
            s.settimeout(20)\n\
            try:\n    s.sendto(b'data', 0x20000000, (sys.argv[1], 22)); print(s.recv(4))\n\
            except ConnectionRefusedError: print('refused')\n";
        net.client.run(&["python3", "-c", script, &net.server.address(family).to_string()])
    };
    for family in FAMILIES {
        assert_eq!(send(family).trim(), "b'data'");
    }
    let syn_data = net.server.run(&["nstat", "-asz", "TcpExtTCPFastOpenPassive"]);
    assert!(syn_data.contains(" 2 "), "both came in the SYN: {syn_data}");
    guard(&net, &[]);
    let accepted = service.accepted();
    for family in FAMILIES {
        assert_eq!(send(family).trim(), "refused");
    }
    assert_eq!(service.accepted(), accepted);
}

#[test]
fn a_granted_syn_that_is_sent_again_gets_in() {
    let [server_s, client_s] = ["output priority -300", "prerouting priority -300"];
    for (lossy, where_, holder) in [
        ("server", server_s, Holder::Script),
        ("server", server_s, Holder::Daemon),
        ("client", client_s, Holder::Script),
        ("client", client_s, Holder::Daemon),
    ] {
        let net = Net::lan();
        let _service = net.server.echo(PORT);
        let _held = holder.guard(&net, &[]);
        let host = if lossy == "server" { &net.server } else { &net.client };
        host.nft(&format!(
            "table inet loss {{
                counter lost {{
                }}
                chain c {{ type filter hook {where_};
                    tcp flags & (syn | ack) == syn | ack limit rate 1/day burst 3 packets counter name lost drop
                }}
            }}"
        ));
        let to = server(&net, Family::V4, PORT);
        net.server.grant(1, net.client.ipv4.into(), "tcp", to, Admits::One);
        assert_eq!(reach(&net.client, to), Reach::Connected, "SYN-ACK lost at the {lossy}");
        let lost = host.run(&["nft", "list", "counters"]);
        assert!(lost.contains("packets 3 "), "{lost}");
        assert_eq!(reach(&net.client, to), Reach::Refused);
    }
}

#[test]
fn a_granted_handshake_with_syn_cookies_gets_in() {
    for holder in HOLDERS {
        a_granted_handshake_with_syn_cookies_gets_in_by(holder);
    }
}

fn a_granted_handshake_with_syn_cookies_gets_in_by(holder: Holder) {
    let net = Net::lan();
    let _service = net.server.echo(PORT);
    net.server.run(&["sysctl", "-q", "net.ipv4.tcp_syncookies=2"]);
    let _held = holder.guard(&net, &[]);
    for (slot, family) in (1..).zip(FAMILIES) {
        let to = server(&net, family, PORT);
        net.server.grant(slot, net.client.address(family), "tcp", to, Admits::One);
        let stream = net.client.connect(to.ip(), PORT, SOON).unwrap();
        assert!(is_alive(&stream));
        assert_eq!(reach(&net.client, to), Reach::Refused);
    }
}

/// The service's end of a connection is gone without a FIN or RST (a container that was torn down), conntrack's entry is
/// not: whoever has its ports now must not begin another one on them.
#[test]
fn a_dead_connection_s_ports_let_no_other_in() {
    for holder in HOLDERS {
        a_dead_connection_s_ports_let_no_other_in_by(holder);
    }
}

fn a_dead_connection_s_ports_let_no_other_in_by(holder: Holder) {
    let net = Net::lan();
    let to = server(&net, Family::V4, PORT);
    let listener = net.server.bind(|| TcpListener::bind(to));
    let _held = holder.guard(&net, &[]);
    net.server.grant(1, net.client.ipv4.into(), "tcp", to, Admits::One);
    let mut client = net.client.connect(to.ip(), PORT, SOON).unwrap();
    let (service, from) = listener.accept().unwrap();
    client.write_all(b"data").unwrap();
    net.server.nft(
        "table inet mute { chain c { type filter hook output priority -300; tcp flags & (fin | rst) != 0 drop; }; }",
    );
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&service, Linger, &at_once).unwrap();
    drop(service);
    net.server.run(&["nft", "delete", "table", "inet", "mute"]);
    let entries = net.server.run(&["conntrack", "-L", "-p", "tcp"]);
    assert!(entries.contains("ESTABLISHED") && entries.contains("ASSURED"), "{entries}");

    watch_answers(&net.client);
    let syn = make_segment(Route::between(&net.client, &net.server), from, to, 77, TcpFlags::SYN);
    send_frames(&net.client, &[syn]);
    wait_until(SOON, "an answer", || {
        answered(&net.client, "resets", PORT) == [from.port()]
            || answered(&net.client, "greetings", PORT) == [from.port()]
    });
    assert!(answered(&net.client, "greetings", PORT).is_empty());
}

#[test]
fn a_reload_of_a_ruleset_that_begins_with_flush_is_made_good_by_boot() {
    let net = Net::lan();
    let _service = net.server.echo(PORT);
    guard(&net, &[]);
    let to = server(&net, Family::V6, PORT);
    net.server.nft("flush ruleset");
    assert_eq!(reach(&net.client, to), Reach::Connected);
    firewall(&net, &["--boot"]);
    assert_eq!(reach(&net.client, to), Reach::Refused);
    net.server.grant(1, net.client.ipv6.into(), "tcp", to, Admits::One);
    assert_eq!(reach(&net.client, to), Reach::Connected);
}

/// The same choice for a kernel without nftables, with both kinds of iptables.
#[test]
fn iptables_closes_local_and_published_ports_too() {
    for tools in TOOLS.into_iter().filter(|tools| *tools != Tools::Nft) {
        let net = Net::lan();
        let container = net.container();
        let (_local, _published) = (net.server.echo(PORT), container.echo(2200));
        route_to(&net, &container);
        let old = net.client.connect(net.server.ipv6.into(), PORT, SOON).unwrap();
        for (name, to) in [
            ("iptables", format!("{}:2200", container.ipv4)),
            ("ip6tables", format!("[{}]:2200", container.ipv6)),
        ] {
            let rule =
                [tools.program(name), "-t".into(), "nat".into(), "-A".into(), "PREROUTING".into()];
            let mut rule: Vec<&str> = rule.iter().map(String::as_str).collect();
            rule.extend([
                "-i",
                "eth0",
                "-p",
                "tcp",
                "--dport",
                "8022",
                "-j",
                "DNAT",
                "--to-destination",
                &to,
            ]);
            net.server.run(&rule);
        }
        firewall_with(&net, tools, &["--only", "tcp/22,tcp/8022"]);
        assert!(is_alive(&old));
        let _outside = net.client.echo(8022);
        for (slot, family) in (0..).zip(FAMILIES) {
            for (nth, port) in (1..).zip([PORT, 8022]) {
                let to = server(&net, family, port);
                assert_eq!(reach(&net.client, to), Reach::Refused, "{tools:?} {to}");
                net.server.grant(
                    slot * 2 + nth,
                    net.client.address(family),
                    "tcp",
                    to,
                    Admits::One,
                );
                assert_eq!(reach(&net.other, to), Reach::Refused, "{tools:?} {to}");
                assert_eq!(reach(&net.client, to), Reach::Connected, "{tools:?} {to}");
                assert_eq!(reach(&net.client, to), Reach::Refused, "{tools:?} {to}");
            }
            assert_eq!(
                net.server.can_connect(net.server.address(family), PORT, SECOND),
                Reach::Connected
            );
            assert_eq!(
                container.can_connect(net.client.address(family), 8022, SOON),
                Reach::Connected
            );
        }
    }
}
