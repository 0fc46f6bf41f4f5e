//! A stealth knock is the SYN that this host's kernel would have sent: both are taken off the wire and compared.

use std::fs::File;
use std::net::{IpAddr, SocketAddrV6, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;

use knockknock::client::knock::kernel_syn::KernelSyn;
use knockknock::client::knock::raw_socket::RawSockets;
use knockknock::client::knock::route::Route;
use nix::libc;
use nix::net::if_::if_nametoindex;

use crate::ear::{Ear, FIELDS, PORT, QUIET, Syn, TUN, connect, get, knock, set};
use crate::net::{FAMILIES, Family, Host, Net};
use crate::process::{SOON, wait_until};

/// The kernel's SYN and ours are the same, and ours is the knock.
#[track_caller]
pub(crate) fn assert_same(host: &Host, ear: &mut Ear, to: IpAddr, what: &str) -> Syn {
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
    &[("ipv4/tcp_rmem", "4096 200000 131072")],
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
    // Another interface leads to such addresses too, and is preferred where none is named.
    net.client.ip("link add one type veth peer name two\nlink set one up\nlink set two up\n\
         route del fe80::/64 dev eth0\nroute add fe80::/64 dev eth0 metric 2000 advmss 1000\n");
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

#[test]
fn a_knock_is_the_kernels_syn_to_the_host_itself() {
    for mtu in [65_536, 100_000] {
        let net = Net::lan();
        net.client.ip(&format!("link set lo mtu {mtu}\n"));
        for to in ["127.0.0.1", "::1"] {
            let to = to.parse().unwrap();
            // Each packet passes twice: as it leaves and as it arrives.
            let [real, ours] = [false, true].map(|ours| {
                let mut ear = Ear::on(&net.client, "lo");
                if ours {
                    drop(knock(&net.client, to));
                } else {
                    connect(&net.client, to);
                }
                ear.syn()
            });
            assert_eq!(ours.masked(), real.masked(), "{mtu} {to}");
        }
    }
}
