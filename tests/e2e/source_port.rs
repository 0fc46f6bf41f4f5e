//! The port that a stealth knock comes from, and what else leaves for its sake: nothing.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use knockknock::client::knock::kernel_syn::KernelSyn;
use knockknock::client::knock::raw_socket::RawSockets;
use knockknock::client::knock::route::Route;
use knockknock::client::knock::source_port::{Guessed, SourcePort};
use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockType, SockaddrIn, setsockopt, socket, sockopt,
};

use crate::ear::{Ear, FIELDS, PORT, connect, kernel_syn, knock, set};
use crate::kernel_syn::assert_same;
use crate::net::{FAMILIES, Family, Host, Net};
use crate::process::{SOON, wait_until};

/// How far each port is from the one before.
fn steps(ports: &[u16]) -> Vec<i32> {
    ports.windows(2).map(|pair| i32::from(pair[1]) - i32::from(pair[0])).collect()
}

/// Addresses of the server that no other network has. The order of ports is one for all namespaces of a machine: others,
/// where two of the same addresses talk, take from it too.
fn addresses_of_its_own(net: &Net) -> [IpAddr; 2] {
    let [a, b, ..] = getrandom::u32().unwrap().to_be_bytes();
    let v4 = Ipv4Addr::new(10, 71, a, b);
    let v6 = Ipv6Addr::new(0xfd66, 0, 0, 0x71, 0, 0, a.into(), b.into());
    net.server.ip(&format!("address add {v4}/32 dev eth0\naddress add {v6}/128 dev eth0 nodad\n"));
    net.client.ip(&format!("route add {v4}/32 dev eth0\n"));
    [v4.into(), v6.into()]
}

#[test]
fn ports_are_taken_in_the_kernels_own_order() {
    let net = Net::lan();
    let mut ear = Ear::on(&net.client, "eth0");
    for to in addresses_of_its_own(&net) {
        for range in ["32768 60999", "20001 20501"] {
            assert!(set(&net.client, "ipv4/ip_local_port_range", range));
            let first: u16 = range[..5].parse().unwrap();
            let ports: Vec<u16> = (0..20)
                .map(|nth| {
                    if nth % 2 == 0 {
                        connect(&net.client, to);
                    } else {
                        drop(knock(&net.client, to));
                    }
                    ear.syn().source_port()
                })
                .collect();
            assert!(ports.iter().all(|port| port % 2 == first % 2), "{range}: {ports:?}");
            // A step is 2 to 16. The kernel begins elsewhere every ten seconds, and again at the end of the range.
            let jumps = steps(&ports).into_iter().filter(|step| !(2..=16).contains(step)).count();
            assert!(jumps <= 4, "{range}: {ports:?}");
        }
    }
}

#[test]
fn a_port_is_kept_until_the_knock_is_done_and_reserved_ones_are_left_out() {
    for family in FAMILIES {
        let net = Net::lan();
        let client = &net.client;
        let to = net.server.address(family);
        let route = client.inside(|| Route::find(SocketAddr::new(to, 0), None).unwrap());
        // Two of the parity of the first.
        assert!(set(client, "ipv4/ip_local_port_range", "30000 30003"));
        let held = client.inside(|| kernel_syn(to, None).carrying(FIELDS).1);
        let next = client.inside(|| kernel_syn(to, None).carrying(FIELDS).1);
        assert_ne!(held.number(), next.number());
        assert!([held.number(), next.number()].iter().all(|port| [30_000, 30_002].contains(port)));
        drop(next);
        assert!(set(client, "ipv4/ip_local_reserved_ports", "30000,30002-30003"));
        let odd = client.inside(|| kernel_syn(to, None).carrying(FIELDS).1);
        assert_eq!(odd.number(), 30_001);
        assert!(set(client, "ipv4/ip_local_reserved_ports", "30000-30003"));
        let none = client.inside(|| KernelSyn::for_route(&route, PORT).unwrap_err());
        assert!(none.to_string().contains("no source port"), "{none}");
    }
}

#[test]
fn a_knock_comes_from_the_address_that_was_asked_for() {
    let net = Net::lan();
    let mut ear = Ear::on(&net.client, "eth0");
    net.client
        .ip("address add 10.66.1.77/24 dev eth0\naddress add fd66:0:0:2::77/48 dev eth0 nodad\n");
    for (family, source) in [(Family::V4, "10.66.1.77"), (Family::V6, "fd66:0:0:2::77")] {
        let source: IpAddr = source.parse().unwrap();
        let to = net.server.address(family);
        let _port = net.client.inside(|| {
            let (packet, port) = kernel_syn(to, Some(source)).carrying(FIELDS);
            RawSockets::open().unwrap().send(&packet, 0).unwrap();
            port
        });
        let octets = match source {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let at = if source.is_ipv4() { 12 } else { 8 };
        assert_eq!(ear.syn().0[at..at + octets.len()], octets);
    }
}

#[test]
fn nothing_but_the_knock_leaves() {
    for family in FAMILIES {
        let net = Net::lan();
        let to = net.server.address(family);
        let mut ear = Ear::on(&net.client, "eth0");
        for (fast_open, blackhole) in [("1", "0"), ("1", "3600"), ("0", "0"), ("5", "0")] {
            assert!(set(&net.client, "ipv4/tcp_fastopen", fast_open));
            assert!(set(&net.client, "ipv4/tcp_fastopen_blackhole_timeout_sec", blackhole));
            // Taken and not used: nothing at all.
            let unused = net.client.inside(|| kernel_syn(to, None).carrying(FIELDS).1);
            assert_eq!(unused.guessed().is_none(), fast_open != "0", "{fast_open} {blackhole}");
            drop(unused);
            assert_eq!(ear.count(), 0, "{fast_open} {blackhole}");
            // Answered by a RST, and closed.
            drop(knock(&net.client, to));
            assert_eq!(ear.count(), 1, "{fast_open} {blackhole}");
        }
        // Answered by a SYN-ACK; the socket is there for longer than the kernel waits with a retransmission.
        let service = net.server.inside(|| TcpListener::bind(SocketAddr::new(to, PORT)).unwrap());
        assert!(set(&net.client, "ipv4/tcp_fastopen", "1"));
        let port = knock(&net.client, to);
        assert_eq!(ear.syn().source_port(), port.number());
        std::thread::sleep(Duration::from_millis(1300));
        drop(port);
        assert_eq!(ear.count(), 0, "no SYN of the kernel's own");
        service.set_nonblocking(true).unwrap();
        assert!(service.accept().is_err(), "no connection came of it");
    }
}

/// How often the kernel has paused Fast Open.
fn pauses(host: &Host) -> u64 {
    let text = host.inside(|| fs::read_to_string("/proc/thread-self/net/netstat").unwrap());
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let [names, values] = [(); 2].map(|()| lines.next().unwrap().split(' '));
    let (_, value) = names.zip(values).find(|(name, _)| *name == "TCPFastOpenBlackhole").unwrap();
    value.parse().unwrap()
}

#[test]
fn while_the_kernel_pauses_fast_open_nothing_but_the_knock_leaves_either() {
    let net = Net::lan();
    let client = &net.client;
    assert!(set(client, "ipv4/tcp_fastopen", "5"));
    assert!(set(client, "ipv4/tcp_fastopen_blackhole_timeout_sec", "3600"));
    net.server.nft(
        "table inet hole { chain in { type filter hook input priority 0; tcp dport 9 drop; }; }",
    );
    // A Fast Open connection whose data are never acknowledged.
    let mut lost = client.inside(|| {
        let flags = SockFlag::empty();
        let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
        setsockopt(&socket, sockopt::TcpFastOpenConnect, &true).unwrap();
        socket::connect(
            socket.as_raw_fd(),
            &SockaddrIn::from(SocketAddrV4::new(net.server.ipv4, 9)),
        )
        .unwrap();
        TcpStream::from(socket)
    });
    lost.set_nonblocking(true).unwrap();
    lost.write_all(b"data").unwrap();
    wait_until(SOON, "the kernel to pause Fast Open", || pauses(client) > 0);
    for family in FAMILIES {
        let mut ear = Ear::on(client, "eth0");
        let port = knock(client, net.server.address(family));
        assert_eq!(port.guessed(), Some(Guessed::FastOpenPaused));
        assert_eq!(ear.count(), 1);
    }
}

#[test]
fn an_open_port_is_told_to_go_away_as_if_nobody_held_the_port() {
    for family in FAMILIES {
        let net = Net::lan();
        let to = net.server.address(family);
        let service = net.server.inside(|| TcpListener::bind(SocketAddr::new(to, PORT)).unwrap());
        let mut ear = Ear::on(&net.client, "eth0");
        let resets = [true, false].map(|held| {
            let port = net.client.inside(|| {
                let (packet, port) = kernel_syn(to, None).carrying(FIELDS);
                let port = held.then_some(port);
                RawSockets::open().unwrap().send(&packet, 0).unwrap();
                port
            });
            assert_eq!(ear.syn().sequence(), FIELDS.tag);
            let reset = ear.reset();
            drop(port);
            assert_eq!(ear.count(), 0);
            reset
        });
        assert_eq!(resets[0].masked(), resets[1].masked());
        assert_eq!(resets.map(|reset| reset.sequence()), [FIELDS.tag + 1; 2]);
        drop(service);
    }
}

#[test]
fn without_fast_open_a_port_of_the_kernels_kind_is_kept_too() {
    let net = Net::lan();
    let client = &net.client;
    assert!(set(client, "ipv4/tcp_fastopen", "0"));
    assert!(set(client, "ipv4/ip_local_port_range", "30001 30008"));
    assert!(set(client, "ipv4/ip_local_reserved_ports", "30002,30003"));
    let mut ear = Ear::on(client, "eth0");
    for family in FAMILIES {
        let to = net.server.address(family);
        assert_same(client, &mut ear, to, "without Fast Open");
        let held: Vec<SourcePort> =
            (0..3).map(|_| client.inside(|| kernel_syn(to, None).carrying(FIELDS).1)).collect();
        assert!(held.iter().all(|port| port.guessed() == Some(Guessed::FastOpenOff)));
        let mut ports: Vec<u16> = held.iter().map(SourcePort::number).collect();
        ports.sort_unstable();
        assert_eq!(ports, [30_001, 30_005, 30_007]);
    }
}
