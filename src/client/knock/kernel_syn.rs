//! The SYN that this host's kernel would send to an address and port now, but for the two fields that carry a knock.
//!
//! Asks the kernel wherever it can be asked (the route, the port, the buffers), and does what it does with the answers
//! where it cannot. Sends nothing, and needs no privilege. The functions that are named are Linux's, in `net/ipv4` and
//! `net/ipv6`.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{getsockopt, sockopt};

use super::initial_window::WindowSettings;
use super::packet::{AddressPair, EcnRequest, KnockPacket};
use super::receive_buffer::full_space;
use super::route::Route;
use super::route_metrics::RouteMetrics;
use super::socket_options::{IpMtuDiscover, Ipv6Mtu};
use super::source_port::{SourcePort, SourcePortError};
use super::syn_options::SynOptions;
use super::sysctl;
use crate::layout::stealth::StealthFields;

/// An IP header and a TCP header.
const HEADERS_V4: u32 = 40;
const HEADERS_V6: u32 = 60;
/// The largest segment of an IPv4 packet.
const MAX_MSS_V4: u32 = 65_535 - HEADERS_V4;
/// The largest of an IPv6 packet that is no jumbogram. Above it, which only a loopback interface with a changed MTU is, the
/// kernel says "any" (older ones 65535).
const MAX_MSS_V6: u32 = 65_535 - 20;
const ANY_MSS: u32 = 65_534;

/// Labels that no router keeps a state for (`IPV6_FLOWLABEL_STATELESS_FLAG`).
const STATELESS_LABEL: u32 = 0x8_0000;

/// What the congestion control puts into the IP header of all packets, from the SYN on (`INET_ECN_xmit`).
const ECT_0: u8 = 2;
/// The congestion control that cannot do without ECN.
const DCTCP: &str = "dctcp";

/// A SYN that lacks only the knock. It keeps its source port from other programs; one packet leaves from it.
#[derive(Debug)]
pub struct KernelSyn {
    port: SourcePort,
    packet: KnockPacket,
    options: SynOptions,
}

/// Why it is not known what the kernel would send.
#[derive(Debug, thiserror::Error)]
pub enum KernelSynError {
    /// There is no source port.
    #[error("no source port for {0} ({1})")]
    SourcePort(SocketAddr, SourcePortError),
    /// The kernel says nothing of the route.
    #[error("the kernel does not say how it would send to {0} ({why})", why = .1.desc())]
    Unknown(SocketAddr, Errno),
}

impl KernelSyn {
    /// The SYN that `connect` would send along `route` to `port` now.
    pub fn for_route(route: &Route, port: u16) -> Result<Self, KernelSynError> {
        let target = route.target_at(port);
        let unknown = |why| KernelSynError::Unknown(target, why);
        let source_port =
            SourcePort::take(route, port).map_err(|why| KernelSynError::SourcePort(target, why))?;
        let (packet, options) = match source_port.connected() {
            Some(socket) => describe(route, target, &source_port, socket),
            None => connected_datagram_socket(route, target)
                .and_then(|socket| describe(route, target, &source_port, socket.as_fd())),
        }
        .map_err(unknown)?;
        Ok(Self { port: source_port, packet, options })
    }

    /// The knock that `fields` are, and what keeps its port until the knock is done: a port that another program gets
    /// in the meantime would have two SYNs with unrelated numbers.
    #[must_use]
    pub fn carrying(self, fields: StealthFields) -> (KnockPacket, SourcePort) {
        let options = SynOptions { timestamp: fields.mac, ..self.options };
        let packet = KnockPacket { seq: fields.tag, options: Some(options), ..self.packet };
        (packet, self.port)
    }
}

/// A socket with the route that a connection would have, as far as its protocol makes no difference.
fn connected_datagram_socket(route: &Route, target: SocketAddr) -> Result<UdpSocket, Errno> {
    let connected = UdpSocket::bind(route.local()).and_then(|socket| {
        socket.connect(target)?;
        Ok(socket)
    });
    connected.map_err(|why| Errno::try_from(why).unwrap_or(Errno::EIO))
}

/// `socket`: connected to the target.
fn describe(
    route: &Route,
    target: SocketAddr,
    source_port: &SourcePort,
    socket: BorrowedFd<'_>,
) -> Result<(KnockPacket, SynOptions), Errno> {
    let addresses = AddressPair::new(route.source, target.ip()).ok_or(Errno::EAFNOSUPPORT)?;
    let metrics = RouteMetrics::of(route, source_port.number(), target.port())?;
    let mss = advertised_mss(&metrics, target, socket)?;
    let (window, window_scale) = window(&metrics, mss)?.offer();
    let congestion_control = congestion_control(&metrics);
    let packet = KnockPacket {
        addresses,
        source_port: source_port.number(),
        destination_port: target.port(),
        label: label(target)?,
        hop_limit: hop_limit(&metrics, target, socket)?,
        traffic_class: if congestion_control == DCTCP { ECT_0 } else { 0 },
        dont_fragment: target.is_ipv4() && !may_be_fragmented(&metrics, socket)?,
        seq: 0,
        ack: 0,
        window,
        ecn: ecn_request(&metrics, &congestion_control),
        options: None,
    };
    let sack = sysctl::number("ipv4/tcp_sack", 0, 1) != 0;
    Ok((packet, SynOptions { mss, sack, timestamp: 0, window_scale }))
}

/// `dst_metric_advmss`: what the route says, else what fits into its MTU (`ipv4_default_advmss`,
/// `ip6_default_advmss`).
fn advertised_mss(
    metrics: &RouteMetrics,
    target: SocketAddr,
    socket: BorrowedFd<'_>,
) -> Result<u16, Errno> {
    let mss = match (metrics.advmss, target) {
        (0, SocketAddr::V4(_)) => {
            let mtu = getsockopt(&socket, sockopt::IpMtu)?;
            let least = sysctl::number("ipv4/route/min_adv_mss", 0, 256);
            positive(mtu).saturating_sub(HEADERS_V4).max(least).min(MAX_MSS_V4)
        }
        (0, SocketAddr::V6(_)) => {
            let mtu = getsockopt(&socket, Ipv6Mtu)?;
            let least = sysctl::number("ipv6/route/min_adv_mss", 0, 1220);
            match positive(mtu).saturating_sub(HEADERS_V6).max(least) {
                mss if mss > MAX_MSS_V6 => ANY_MSS,
                mss => mss,
            }
        }
        (advmss, _) => advmss,
    };
    // The kernel, too, keeps 16 bits of it (`tcp_mss_clamp`).
    Ok((mss & 0xffff) as u16)
}

/// What `tcp_connect_init` hands to `tcp_select_initial_window`.
fn window(metrics: &RouteMetrics, mss: u16) -> Result<WindowSettings, Errno> {
    let largest = sysctl::number("ipv4/tcp_rmem", 2, 6_291_456);
    Ok(WindowSettings {
        space: full_space(largest)?,
        mss,
        clamp: metrics.window,
        initial_segments: metrics.initrwnd,
        max_buffer: largest.max(sysctl::number("core/rmem_max", 0, 212_992)),
        scaling: sysctl::number("ipv4/tcp_window_scaling", 0, 1) != 0,
        signed: sysctl::number("ipv4/tcp_workaround_signed_windows", 0, 0) != 0,
    })
}

/// `ip4_dst_hoplimit`; `ip6_dst_hoplimit`, which the socket asks itself.
fn hop_limit(
    metrics: &RouteMetrics,
    target: SocketAddr,
    socket: BorrowedFd<'_>,
) -> Result<u8, Errno> {
    let limit = match (metrics.hop_limit, target) {
        (0, SocketAddr::V4(_)) => positive(getsockopt(&socket, sockopt::Ipv4Ttl)?),
        (limit, SocketAddr::V4(_)) => limit,
        (_, SocketAddr::V6(_)) => positive(getsockopt(&socket, sockopt::Ipv6Ttl)?),
    };
    Ok((limit & 0xff) as u8)
}

/// The opposite of `ip_dont_fragment`, of a socket that was made with `ip_no_pmtu_disc` as it is now.
fn may_be_fragmented(metrics: &RouteMetrics, socket: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(match getsockopt(&socket, IpMtuDiscover)? {
        libc::IP_PMTUDISC_DO => false,
        libc::IP_PMTUDISC_WANT => metrics.mtu_locked,
        _ => true,
    })
}

/// What a new connection along the route has (`tcp_assign_congestion_control`, `tcp_ca_dst_init`).
fn congestion_control(metrics: &RouteMetrics) -> String {
    let usual = || sysctl::text("ipv4/tcp_congestion_control").unwrap_or_default();
    metrics.congestion_control.clone().unwrap_or_else(usual).trim().to_owned()
}

/// `tcp_ecn_send_syn`.
fn ecn_request(metrics: &RouteMetrics, congestion_control: &str) -> EcnRequest {
    match sysctl::number("ipv4/tcp_ecn", 0, 2) {
        3 => EcnRequest::Accurate,
        1 | 4 => EcnRequest::Classic,
        _ if metrics.ecn || congestion_control == DCTCP => EcnRequest::Classic,
        _ => EcnRequest::None,
    }
}

/// IPv4: the identification, random for each connection (`tcp_v4_connect`). The kernel's may be 0; ours is not, since the
/// kernel would replace it. IPv6: the flow label (`ip6_make_flowlabel`).
fn label(target: SocketAddr) -> Result<u32, Errno> {
    let random = getrandom::u32().map_err(|_| Errno::EIO)?;
    Ok(match target {
        SocketAddr::V4(_) => 1 + random % 0xffff,
        // Off, or for those sockets alone that ask for it.
        SocketAddr::V6(_) if matches!(sysctl::number("ipv6/auto_flowlabels", 0, 1), 0 | 2) => 0,
        SocketAddr::V6(_) => {
            let stateless = sysctl::number("ipv6/flowlabel_state_ranges", 0, 0) != 0;
            random & 0xf_ffff | if stateless { STATELESS_LABEL } else { 0 }
        }
    })
}

fn positive(value: i32) -> u32 {
    u32::try_from(value).unwrap_or(0)
}
