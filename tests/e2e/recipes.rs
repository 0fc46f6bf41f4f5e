//! The recipes of docs/recipes.md, from the first refusal to the last: a port that Docker publishes, and a UDP service as
//! `WireGuard` is one. The guard closes them, the real client and daemon open them.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::connection::{Reach, is_alive};
use crate::firewall_script::firewall;
use crate::guard::{ask, assert_refused, udp};
use crate::net::{FAMILIES, Family, Host, Net};
use crate::process::SOON;
use crate::site::{HOST, Log, Site};
use crate::user::{User, said};

/// What Docker publishes, and what it is inside: `-p 8080:80 -p 5300:53/udp`.
pub(crate) const PUBLISHED: u16 = 8080;
const PUBLISHED_UDP: u16 = 5300;
const WIREGUARD: u16 = 51820;

/// A UDP service that sends back whatever comes.
struct UdpEcho {
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl UdpEcho {
    fn start(host: &Host, port: u16) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let threads = FAMILIES.map(|family| {
            let address = SocketAddr::new(host.address(family), port);
            let socket = host.bind(|| UdpSocket::bind(address));
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let ended = Arc::clone(&ended);
            thread::spawn(move || {
                let mut datagram = [0; 2048];
                while !ended.load(Ordering::Relaxed) {
                    if let Ok((length, from)) = socket.recv_from(&mut datagram) {
                        let _ = socket.send_to(&datagram[..length], from);
                    }
                }
            })
        });
        Self { ended, threads: threads.into() }
    }
}

impl Drop for UdpEcho {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

/// The rules of Docker 28 for one container on one bridge, in the order in which its daemon and `docker run` write them.
pub(crate) fn docker(net: &Net, container: &Host, tools: &str) {
    let families = [
        ("iptables", container.ipv4.to_string(), "10.68.1.0/24", "127.0.0.0/8", "32"),
        ("ip6tables", container.ipv6.to_string(), "fd68::/64", "::1/128", "128"),
    ];
    for (tool, address, network, loopback, one) in families {
        let inside = if tool == "iptables" { address.clone() } else { format!("[{address}]") };
        let bridge = "kk-bridge";
        let rules = format!(
            "*raw
            -A PREROUTING -d {address}/{one} ! -i {bridge} -j DROP
            COMMIT
            *filter
            :FORWARD DROP
            :DOCKER -
            :DOCKER-BRIDGE -
            :DOCKER-CT -
            :DOCKER-FORWARD -
            :DOCKER-ISOLATION-STAGE-1 -
            :DOCKER-ISOLATION-STAGE-2 -
            :DOCKER-USER -
            -A FORWARD -j DOCKER-USER
            -A FORWARD -j DOCKER-FORWARD
            -A DOCKER -d {address}/{one} ! -i {bridge} -o {bridge} -p tcp -m tcp --dport 80 -j ACCEPT
            -A DOCKER -d {address}/{one} ! -i {bridge} -o {bridge} -p udp -m udp --dport 53 -j ACCEPT
            -A DOCKER ! -i {bridge} -o {bridge} -j DROP
            -A DOCKER-BRIDGE -o {bridge} -j DOCKER
            -A DOCKER-CT -o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
            -A DOCKER-FORWARD -j DOCKER-CT
            -A DOCKER-FORWARD -j DOCKER-ISOLATION-STAGE-1
            -A DOCKER-FORWARD -j DOCKER-BRIDGE
            -A DOCKER-FORWARD -i {bridge} -j ACCEPT
            -A DOCKER-ISOLATION-STAGE-1 -i {bridge} ! -o {bridge} -j DOCKER-ISOLATION-STAGE-2
            -A DOCKER-ISOLATION-STAGE-2 -o {bridge} -j DROP
            COMMIT
            *nat
            :DOCKER -
            -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
            -A OUTPUT ! -d {loopback} -m addrtype --dst-type LOCAL -j DOCKER
            -A POSTROUTING -s {network} ! -o {bridge} -j MASQUERADE
            -A DOCKER ! -i {bridge} -p tcp -m tcp --dport {PUBLISHED} -j DNAT --to-destination {inside}:80
            -A DOCKER ! -i {bridge} -p udp -m udp --dport {PUBLISHED_UDP} -j DNAT --to-destination {inside}:53
            COMMIT"
        );
        let rules: String = rules.lines().flat_map(|line| [line.trim_start(), "\n"]).collect();
        let path = net.path(&format!("{tool}-{tools}"));
        fs::write(&path, rules).unwrap();
        net.server.run(&[&format!("{tool}-{tools}-restore"), path.to_str().unwrap()]);
    }
}

fn at(site: &Site, family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(site.net.server.address(family), port)
}

/// Whether everybody, or nobody, gets an answer from a UDP service.
#[track_caller]
fn assert_open(site: &Site, port: u16, open: bool) {
    for family in FAMILIES {
        for host in [&site.net.client, &site.net.other] {
            let answer = ask(&udp(host, family, 0), at(site, family, port));
            if open {
                assert_eq!(answer.unwrap(), 8, "{family:?}");
            } else {
                assert_refused(answer);
            }
        }
    }
}

/// Each family's flow of somebody who has just knocked: theirs alone, and not the only one.
fn flows(site: &Site, port: u16) -> [UdpSocket; 2] {
    FAMILIES.map(|family| {
        let to = at(site, family, port);
        assert_refused(ask(&udp(&site.net.other, family, 0), to));
        let flow = udp(&site.net.client, family, 0);
        assert_eq!(ask(&flow, to).unwrap(), 8, "{family:?}");
        assert_eq!(ask(&udp(&site.net.client, family, 0), to).unwrap(), 8, "another flow");
        flow
    })
}

/// When the time is over, a running flow goes on and no new one begins.
fn assert_over(site: &Site, port: u16, flows: &[UdpSocket]) {
    site.wait_until_shut(SOON);
    assert_open(site, port, false);
    for (flow, family) in flows.iter().zip(FAMILIES) {
        assert_eq!(ask(flow, at(site, family, port)).unwrap(), 8, "{family:?}: goes on");
    }
}

#[test]
fn a_port_that_docker_publishes_opens_for_who_knocks() {
    for tools in ["nft", "legacy"] {
        let net = Net::lan();
        let container = net.container();
        let config = format!("delay = 600\nallow = tcp/{PUBLISHED}, udp/{PUBLISHED_UDP}\n");
        let mut site = Site::start(net, Log::Kmsg, &config);
        docker(&site.net, &container, tools);
        let service = container.echo(80);
        let _udp_service = UdpEcho::start(&container, 53);
        for family in FAMILIES {
            assert_eq!(site.reach(family, PUBLISHED), Reach::Connected, "Docker opens it to all");
        }
        assert_open(&site, PUBLISHED_UDP, true);

        firewall(&site.net, &["--only", &format!("tcp/{PUBLISHED},udp/{PUBLISHED_UDP}")]);
        let before = service.accepted();
        let sessions = FAMILIES.map(|family| {
            let server = site.net.server.address(family);
            assert_eq!(site.reach(family, PUBLISHED), Reach::Refused, "{family:?}");
            site.knock(family, PUBLISHED);
            assert_eq!(site.net.other.can_connect(server, PUBLISHED, SOON), Reach::Refused);
            let session = site.net.client.connect(server, PUBLISHED, SOON).expect("it knocked");
            assert!(is_alive(&session));
            site.wait_until_shut(SOON);
            assert_eq!(site.reach(family, PUBLISHED), Reach::Refused, "{family:?}: once");
            session
        });
        assert_eq!(service.accepted(), before + 2);

        // The one connection has shut it, not the time. UDP has the time alone.
        site.stop_daemon();
        let config = site.config_dir().join("config");
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, text.replace("delay = 600", "delay = 6")).unwrap();
        site.start_daemon();
        assert_open(&site, PUBLISHED_UDP, false);
        for family in FAMILIES {
            site.knock(family, PUBLISHED_UDP);
        }
        let flows = flows(&site, PUBLISHED_UDP);
        assert_over(&site, PUBLISHED_UDP, &flows);
        assert!(sessions.iter().all(is_alive), "the sessions go on");
        assert_eq!(service.accepted(), before + 2);
    }
}

/// The kernel of the tests may have no `WireGuard`; any UDP service is the same to firewall and daemon.
#[test]
fn a_udp_service_opens_for_its_time_and_a_running_flow_goes_on() {
    let mut site =
        Site::start(Net::lan(), Log::Kmsg, &format!("delay = 6\nallow = udp/{WIREGUARD}\n"));
    let _service = UdpEcho::start(&site.net.server, WIREGUARD);
    // What the test's own firewall closes, where there is one, is to be the guard's.
    let rule = format!("inet closed input udp dport {WIREGUARD} accept");
    let line =
        format!("nft list table inet closed >/dev/null 2>&1 || exit 0; nft insert rule {rule}");
    site.net.server.run(&["sh", "-c", &line]);
    assert_open(&site, WIREGUARD, true);
    firewall(&site.net, &["--only", &format!("udp/{WIREGUARD}")]);
    assert_open(&site, WIREGUARD, false);

    for family in FAMILIES {
        let user = User::new(&site, family);
        if family == Family::V6 {
            // Each user begins with the profile as it was copied.
            fs::write(user.profile().join("counter"), "1\n").unwrap();
        }
        let output = user.knock(&site.net.client, &["-p", &format!("udp/{WIREGUARD}"), HOST], "");
        assert!(output.status.success(), "{}", said(&output));
        assert!(said(&output).contains("asking for port 51820"), "{}", said(&output));
        let address = site.net.client.address(family);
        site.wait_for(&format!("opened udp/{WIREGUARD} to {address} for 6 s"));
    }
    let flows = flows(&site, WIREGUARD);
    assert_over(&site, WIREGUARD, &flows);
}

#[test]
fn one_knock_opens_a_port_by_tcp_and_by_udp_where_both_are_allowed() {
    let config = "delay = 600\nallow = tcp/443, udp/443\n";
    let mut site = Site::start(Net::lan(), Log::Kmsg, config);
    let (_web, _quic) = (site.net.server.echo(443), UdpEcho::start(&site.net.server, 443));
    firewall(&site.net, &["--only", "tcp/443,udp/443"]);
    for family in FAMILIES {
        let to = at(&site, family, 443);
        assert_refused(ask(&udp(&site.net.client, family, 0), to));
        site.knock(family, 443);
        let address = site.net.client.address(family);
        let both = format!(
            "opened tcp/443 to {address} for 600 s (profile \"client\"); opened udp/443 to {address} "
        );
        site.wait_for(&both);
        let session = site.net.client.connect(to.ip(), 443, SOON).expect("by TCP");
        let flow = udp(&site.net.client, family, 0);
        assert_eq!(ask(&flow, to).unwrap(), 8, "by UDP");
        assert_eq!(site.net.other.can_connect(to.ip(), 443, SOON), Reach::Refused);
        assert_refused(ask(&udp(&site.net.other, family, 0), to));
        assert!(is_alive(&session));
    }
    site.stop_daemon();
    for family in FAMILIES {
        assert_eq!(site.reach(family, 443), Reach::Refused);
        assert_refused(ask(&udp(&site.net.client, family, 0), at(&site, family, 443)));
    }
}

#[test]
fn what_does_not_open_of_two_is_told_and_the_other_one_is_open() {
    let config = "delay = 600\nallow = tcp/443, udp/443\nmax_open_per_source = 1\n";
    let mut site = Site::start(Net::lan(), Log::Kmsg, config);
    let (_web, _quic) = (site.net.server.echo(443), UdpEcho::start(&site.net.server, 443));
    site.knock(Family::V4, 443);
    let line = site.wait_for("opened tcp/443");
    assert!(line.contains("; could not open udp/443 to "), "{line}");
    assert!(line.contains("max_open_per_source"), "{line}");
    assert_eq!(site.reach(Family::V4, 443), Reach::Connected);
    assert_refused(ask(&udp(&site.net.client, Family::V4, 0), at(&site, Family::V4, 443)));
}

#[test]
fn without_a_list_a_knock_opens_tcp_alone() {
    let mut site = Site::start(Net::lan(), Log::Kmsg, "delay = 600\n");
    let (_web, _quic) = (site.net.server.echo(443), UdpEcho::start(&site.net.server, 443));
    site.knock(Family::V4, 443);
    assert_refused(ask(&udp(&site.net.client, Family::V4, 0), at(&site, Family::V4, 443)));
    assert_eq!(site.reach(Family::V4, 443), Reach::Connected);
    assert!(site.daemon().lines().iter().all(|line| !line.contains("udp/")));
}

#[test]
fn what_genprofile_writes_into_config_limits_every_profile() {
    let mut site = Site::prepare(Net::lan(), Log::Kmsg, "delay = 600\n");
    let made = Command::new(env!("CARGO_BIN_EXE_knock-genprofile"))
        .args(["--config-dir".as_ref(), site.config_dir().as_os_str()])
        .args(["--allow", "tcp/8000-8080,udp/5300", "third", "668"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    site.start_daemon();
    let (_inside, _outside) = (site.net.server.echo(8000), site.net.server.echo(2222));
    // This profile has no list of its own.
    site.send_knock(Family::V4, 2222);
    site.wait_for("tcp/2222 is not among the services in `allow`");
    assert_eq!(site.reach(Family::V4, 2222), Reach::Refused);
    site.knock(Family::V4, 8000);
    assert_eq!(site.reach(Family::V4, 8000), Reach::Connected);
}
