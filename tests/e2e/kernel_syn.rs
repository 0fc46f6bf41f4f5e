//! A stealth knock is the SYN that this host's kernel would have sent: both are taken off the wire and compared.

use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use knockknock::client::knock::kernel_syn::KernelSyn;
use knockknock::client::knock::raw_socket::RawSockets;
use knockknock::client::knock::route::Route;
use knockknock::client::knock::source_port::{Guessed, SourcePort};
use knockknock::layout::stealth::StealthFields;
use nix::libc;
use nix::net::if_::if_nametoindex;
use pnet::datalink::DataLinkReceiver;
use pnet::packet::ipv4::{self, Ipv4Packet};
use pnet::packet::tcp::{self, TcpPacket};

use crate::net::{FAMILIES, Family, Host, Net};
use crate::process::{SOON, wait_until};
use crate::wire::channel_on;

pub(crate) const PORT: u16 = 2222;
const FIELDS: StealthFields = StealthFields { tag: 0x0102_0304, mac: 0xfffe_fdfc };
const QUIET: Duration = Duration::from_millis(300);
const TUN: &str = "tun0";

/// Hears the SYNs that leave by an interface.
pub(crate) struct Ear {
    receiver: Box<dyn DataLinkReceiver>,
    /// Bytes before the IP header.
    link: usize,
}

/// A SYN from its IP header on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Syn(Vec<u8>);

impl Ear {
    pub(crate) fn on(host: &Host, interface: &str) -> Self {
        let link = if interface == TUN { 0 } else { 14 };
        Self { receiver: host.inside(|| channel_on(interface).1), link }
    }

    pub(crate) fn next(&mut self) -> Option<Syn> {
        let frame = self.receiver.next().ok()?;
        Some(Syn(frame.get(self.link..)?.to_vec())).filter(Syn::is_one)
    }

    #[track_caller]
    pub(crate) fn syn(&mut self) -> Syn {
        let end = Instant::now() + SOON;
        loop {
            assert!(Instant::now() < end, "no SYN to port {PORT} left");
            if let Some(syn) = self.next() {
                return syn;
            }
        }
    }

    /// The next RST to the port.
    #[track_caller]
    fn reset(&mut self) -> Syn {
        let end = Instant::now() + SOON;
        loop {
            assert!(Instant::now() < end, "no RST to port {PORT} left");
            let frame = self.receiver.next().ok().and_then(|frame| frame.get(self.link..));
            let segment = frame.map(|packet| Syn(packet.to_vec()));
            if let Some(reset) = segment.filter(|segment| segment.is_tcp(0x17, 0x04)) {
                return reset;
            }
        }
    }

    /// How many SYNs leave until none has for a while.
    fn count(&mut self) -> usize {
        let (mut count, mut end) = (0, Instant::now() + QUIET);
        while Instant::now() < end {
            if self.next().is_some() {
                count += 1;
                end = Instant::now() + QUIET;
            }
        }
        count
    }
}

impl Syn {
    fn is_v4(&self) -> bool {
        self.0[0] >> 4 == 4
    }

    /// Where TCP begins.
    fn tcp(&self) -> usize {
        if self.is_v4() { 20 } else { 40 }
    }

    /// A SYN without ACK to the port that these tests use.
    fn is_one(&self) -> bool {
        self.is_tcp(0x12, 0x02)
    }

    /// A segment to that port with these `flags` of those in `mask`.
    fn is_tcp(&self, mask: u8, flags: u8) -> bool {
        let protocol = if self.is_v4() { 9 } else { 6 };
        let Some(tcp) = self.0.get(self.tcp()..).filter(|tcp| tcp.len() >= 20) else {
            return false;
        };
        self.0[protocol] == 6 && tcp[13] & mask == flags && tcp[2..4] == PORT.to_be_bytes()
    }

    pub(crate) fn source_port(&self) -> u16 {
        u16::from_be_bytes([self.0[self.tcp()], self.0[self.tcp() + 1]])
    }

    pub(crate) fn sequence(&self) -> u32 {
        self.number_at(self.tcp() + 4)
    }

    pub(crate) fn timestamp(&self) -> Option<u32> {
        self.timestamp_at().map(|at| self.number_at(at))
    }

    fn number_at(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.0[at..at + 4].try_into().unwrap())
    }

    fn timestamp_at(&self) -> Option<usize> {
        let at = self.tcp() + 28;
        (self.0.get(at - 2..at) == Some(&[8, 10])).then_some(at)
    }

    /// All but what no two SYNs of one kernel have in common.
    pub(crate) fn masked(&self) -> Vec<u8> {
        let mut bytes = self.0.clone();
        let tcp = self.tcp();
        let mut hide = |from: usize, count: usize| bytes[from..from + count].fill(0);
        if self.is_v4() {
            hide(4, 2); // ID
            hide(10, 2); // checksum of the header
        } else {
            hide(2, 2); // flow label, but for its upper 4 bits
        }
        hide(tcp, 2); // source port
        hide(tcp + 4, 4); // SEQ
        hide(tcp + 16, 2); // checksum
        if let Some(at) = self.timestamp_at() {
            hide(at, 4);
        }
        if !self.is_v4() {
            bytes[1] &= 0xf0;
        }
        bytes
    }

    #[track_caller]
    fn assert_checksums(&self) {
        let segment = TcpPacket::new(&self.0[self.tcp()..]).unwrap();
        let sum = if self.is_v4() {
            let header = Ipv4Packet::new(&self.0).unwrap();
            assert_eq!(header.get_checksum(), ipv4::checksum(&header));
            tcp::ipv4_checksum(&segment, &header.get_source(), &header.get_destination())
        } else {
            let address = |at: usize| <[u8; 16]>::try_from(&self.0[at..at + 16]).unwrap().into();
            tcp::ipv6_checksum(&segment, &address(8), &address(24))
        };
        assert_eq!(segment.get_checksum(), sum);
    }
}

/// What `connect` does: refused, since nothing listens.
pub(crate) fn connect(host: &Host, to: IpAddr) {
    let _ = host.inside(|| TcpStream::connect_timeout(&SocketAddr::new(to, PORT), QUIET));
}

fn kernel_syn(to: IpAddr, source: Option<IpAddr>) -> KernelSyn {
    let route = Route::find(SocketAddr::new(to, 0), source).unwrap();
    KernelSyn::for_route(&route, PORT).unwrap()
}

/// What a stealth knock does.
fn knock(host: &Host, to: IpAddr) -> SourcePort {
    host.inside(|| {
        let (packet, port) = kernel_syn(to, None).carrying(FIELDS);
        RawSockets::open().unwrap().send(&packet, 0).unwrap();
        port
    })
}

/// Sets a setting of the client's; `false` where this kernel does not take the value.
pub(crate) fn set(host: &Host, setting: &str, value: &str) -> bool {
    host.inside(|| fs::write(Path::new("/proc/sys/net").join(setting), value).is_ok())
}

fn get(host: &Host, setting: &str) -> String {
    host.inside(|| fs::read_to_string(Path::new("/proc/sys/net").join(setting)).unwrap())
}

/// The kernel's SYN and ours are the same, and ours is the knock.
#[track_caller]
fn assert_same(host: &Host, ear: &mut Ear, to: IpAddr, what: &str) -> Syn {
    connect(host, to);
    let real = ear.syn();
    let _port = knock(host, to);
    let ours = ear.syn();
    assert_eq!(ours.masked(), real.masked(), "{what}, to {to}:\nours {ours:x?}\nreal {real:x?}");
    ours.assert_checksums();
    let at = ours.timestamp_at().unwrap();
    assert_eq!(ours.0[at..at + 8], [0xff, 0xfe, 0xfd, 0xfc, 0, 0, 0, 0]);
    assert_eq!(ours.0[ours.tcp() + 4..ours.tcp() + 8], [1, 2, 3, 4]);
    real
}

/// Each of these alone, one after the other.
const SETTINGS: &[&[(&str, &str)]] = &[
    &[],
    &[("ipv4/tcp_rmem", "4096 87380 6291456")],
    &[("ipv4/tcp_rmem", "4096 131072 131072")],
    &[("ipv4/tcp_rmem", "4096 16384 100000000")],
    &[("ipv4/tcp_rmem", "4096 4000000 2000000000")],
    &[("ipv4/tcp_rmem", "4096 2000 65535")],
    &[("ipv4/ip_default_ttl", "33")],
    &[("ipv6/conf/all/hop_limit", "44"), ("ipv6/conf/eth0/hop_limit", "55")],
    &[("ipv4/tcp_ecn", "0")],
    &[("ipv4/tcp_ecn", "1")],
    &[("ipv4/tcp_ecn", "2")],
    &[("ipv4/tcp_sack", "0")],
    &[("ipv4/tcp_window_scaling", "0")],
    &[("ipv4/tcp_window_scaling", "0"), ("ipv4/tcp_sack", "0")],
    &[("ipv4/tcp_workaround_signed_windows", "1")],
    &[("ipv4/ip_no_pmtu_disc", "1")],
    &[("ipv4/ip_no_pmtu_disc", "3")],
    &[("ipv4/tcp_timestamps", "2")],
    &[("ipv6/flowlabel_state_ranges", "1")],
    &[("ipv4/tcp_congestion_control", "reno")],
    &[("ipv4/tcp_adv_win_scale", "2")],
];

/// The same; a kernel that does not take the value (accurate ECN, a congestion control) sends no such SYN.
const IF_THE_KERNEL_KNOWS: &[&[(&str, &str)]] = &[
    &[("ipv4/tcp_ecn", "3")],
    &[("ipv4/tcp_ecn", "4")],
    &[("ipv4/tcp_ecn", "5")],
    &[("ipv4/tcp_congestion_control", "dctcp")],
];

#[test]
fn a_knock_is_the_kernels_syn_whatever_is_set() {
    let net = Net::lan();
    let mut ear = Ear::on(&net.client, "eth0");
    let mut last = Vec::new();
    let mut different = 0;
    for (nth, settings) in SETTINGS.iter().chain(IF_THE_KERNEL_KNOWS).enumerate() {
        let before: Vec<_> =
            settings.iter().map(|(name, _)| (*name, get(&net.client, name))).collect();
        let is_set = settings.iter().all(|(name, value)| set(&net.client, name, value));
        assert!(is_set || nth >= SETTINGS.len(), "{settings:?}");
        for to in FAMILIES.map(|family| net.server.address(family)).iter().filter(|_| is_set) {
            let real = assert_same(&net.client, &mut ear, *to, &format!("{settings:?}"));
            different += usize::from(real.masked() != last);
            last = real.masked();
        }
        for (name, value) in before {
            assert!(set(&net.client, name, value.trim()), "{name}");
        }
    }
    assert!(different > 30, "these settings matter: {different}");
}

#[test]
fn a_knock_is_the_kernels_syn_at_every_mtu() {
    for family in FAMILIES {
        for mtu in [576, 1280, 1420, 1492, 1500, 9000, 65_535] {
            let net = Net::lan();
            if family == Family::V6 && mtu < 1280 {
                continue;
            }
            net.client.ip(&format!("link set eth0 mtu {mtu}\n"));
            let mut ear = Ear::on(&net.client, "eth0");
            assert_same(&net.client, &mut ear, net.server.address(family), &format!("MTU {mtu}"));
        }
    }
}

#[test]
fn a_knock_is_the_kernels_syn_along_every_route() {
    for family in FAMILIES {
        let net = Net::lan();
        let mut ear = Ear::on(&net.client, "eth0");
        let to = net.server.address(family);
        for metrics in [
            "mtu 1300",
            "mtu lock 1300",
            "advmss 1000",
            "advmss 70000",
            "window 20000",
            "initrwnd 5",
            "initrwnd 100",
            "hoplimit 17",
            "features ecn",
            "congctl reno",
            "quickack 1",
            "advmss 536 window 70000 hoplimit 99 initrwnd 3",
        ] {
            let bits = if to.is_ipv4() { 32 } else { 128 };
            net.client.ip(&format!("route replace {to}/{bits} dev eth0 {metrics}\n"));
            assert_same(&net.client, &mut ear, to, metrics);
        }
    }
}

#[test]
fn a_knock_is_the_kernels_syn_on_a_tun_device() {
    let net = Net::lan();
    let _device = net.client.inside(tun);
    net.client.ip(&format!(
        "link set {TUN} up mtu 1380\naddress add 10.69.0.1/24 dev {TUN}\naddress add fd69::1/64 dev {TUN} nodad\n"
    ));
    let mut ear = Ear::on(&net.client, TUN);
    for to in ["10.69.0.2", "fd69::2"] {
        assert_same(&net.client, &mut ear, to.parse().unwrap(), "tun");
    }
}

#[test]
fn a_knock_is_the_kernels_syn_on_a_narrow_path() {
    let net = Net::nat();
    net.router.as_ref().unwrap().ip("link set eth0 mtu 1400\n");
    let mut ear = Ear::on(&net.client, "eth0");
    for family in FAMILIES {
        let to = net.server.address(family);
        let mtu = || net.client.run(&["ip", "route", "get", &to.to_string()]);
        // A datagram that does not fit, until the router has said so.
        let sender = net.client.inside(|| UdpSocket::bind(("::", 0)).unwrap());
        wait_until(SOON, "the path's MTU to be known", || {
            let mapped = match to {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            let _ = sender.send_to(&[0; 1450], (mapped, 9));
            mtu().contains("mtu 1400")
        });
        let real = assert_same(&net.client, &mut ear, to, "narrow");
        let mss: u16 = if to.is_ipv4() { 1360 } else { 1340 };
        assert_eq!(real.0[real.tcp() + 22..real.tcp() + 24], mss.to_be_bytes());
    }
}

#[test]
fn a_knock_is_the_kernels_syn_to_a_link_local_address() {
    let net = Net::lan();
    let listed =
        net.server.run(&["ip", "-6", "-o", "addr", "show", "dev", "eth0", "scope", "link"]);
    let address = listed.split_whitespace().nth(3).unwrap().split('/').next().unwrap();
    let mut ear = Ear::on(&net.client, "eth0");
    let ours = net.client.inside(|| {
        let scope = if_nametoindex("eth0").unwrap();
        let to = SocketAddrV6::new(address.parse().unwrap(), PORT, 0, scope).into();
        let _ = TcpStream::connect_timeout(&to, QUIET);
        let real = ear.syn();
        let route = Route::find(to, None).unwrap();
        let (packet, _port) = KernelSyn::for_route(&route, PORT).unwrap().carrying(FIELDS);
        RawSockets::open().unwrap().send(&packet, scope).unwrap();
        assert_eq!(ear.syn().masked(), real.masked());
        packet
    });
    assert_eq!(ours.seq, FIELDS.tag);
}

/// A tun device, for as long as the file is open.
fn tun() -> File {
    let file = File::options().read(true).write(true).open("/dev/net/tun").unwrap();
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(TUN.bytes()) {
        *to = from.cast_signed();
    }
    #[expect(clippy::cast_possible_truncation, reason = "two bits")]
    let flags = (libc::IFF_TUN | libc::IFF_NO_PI) as i16;
    let request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags },
    };
    // SAFETY: the request is a whole `struct ifreq` that outlives the call.
    #[expect(unsafe_code, reason = "nix has no such call")]
    let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw const request) };
    assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
    file
}

#[test]
fn the_timestamps_are_there_even_where_they_are_off() {
    let net = Net::lan();
    let mut ear = Ear::on(&net.client, "eth0");
    for family in FAMILIES {
        let to = net.server.address(family);
        connect(&net.client, to);
        let real = ear.syn();
        assert!(set(&net.client, "ipv4/tcp_timestamps", "0"));
        connect(&net.client, to);
        assert_eq!(ear.syn().timestamp_at(), None);
        let _port = knock(&net.client, to);
        assert_eq!(ear.syn().masked(), real.masked(), "as the kernel would send it with them");
        assert!(set(&net.client, "ipv4/tcp_timestamps", "1"));
    }
}

#[test]
fn flow_labels_are_random_where_the_kernels_are() {
    let net = Net::lan();
    let mut ear = Ear::on(&net.client, "eth0");
    let to = net.server.address(Family::V6);
    let label = |syn: &Syn| u32::from_be_bytes([0, syn.0[1] & 0xf, syn.0[2], syn.0[3]]);
    for (mode, random) in [("0", false), ("1", true), ("2", false), ("3", true)] {
        assert!(set(&net.client, "ipv6/auto_flowlabels", mode));
        let both = [true, false].map(|ours| {
            if ours {
                drop(knock(&net.client, to));
            } else {
                connect(&net.client, to);
            }
            label(&ear.syn()) != 0
        });
        assert_eq!(both, [random, random], "{mode}");
    }
    assert!(set(&net.client, "ipv6/auto_flowlabels", "1"));
    assert!(set(&net.client, "ipv6/flowlabel_state_ranges", "1"));
    for _ in 0..16 {
        drop(knock(&net.client, to));
        assert_ne!(label(&ear.syn()) & 0x8_0000, 0);
    }
}

/// How far each port is from the one before.
fn steps(ports: &[u16]) -> Vec<i32> {
    ports.windows(2).map(|pair| i32::from(pair[1]) - i32::from(pair[0])).collect()
}

#[test]
fn ports_are_taken_in_the_kernels_own_order() {
    for family in FAMILIES {
        let net = Net::lan();
        let mut ear = Ear::on(&net.client, "eth0");
        let to = net.server.address(family);
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
            // A step is 2 to 16; one in the sequence may begin anew at the range's start.
            let odd = steps(&ports).into_iter().filter(|step| !(2..=16).contains(step)).count();
            assert!(odd <= 1, "{range}: {ports:?}");
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
            let unused = net.client.inside(|| kernel_syn(to, None));
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
    assert!(set(client, "ipv4/ip_local_reserved_ports", "30003"));
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
