//! What an administrator wrote beside a route (`ip route ... advmss`), as far as it shows in a SYN. Asks the kernel by
//! `RTM_GETROUTE`, which needs no privilege and sends nothing.

use std::net::IpAddr;
use std::os::fd::AsRawFd;

use netlink_packet_core::{DefaultNla, Emitable, NLM_F_REQUEST, NetlinkHeader, NlasIterator};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, connect, recv,
    send, socket,
};

use super::route::Route;

const NLMSG_ERROR: u16 = 2;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_METRICS: u16 = 8;
const RTA_IP_PROTO: u16 = 27;
const RTA_SPORT: u16 = 28;
const RTA_DPORT: u16 = 29;
const RTAX_LOCK: u16 = 1;
const RTAX_MTU: u16 = 2;
const RTAX_WINDOW: u16 = 3;
const RTAX_ADVMSS: u16 = 8;
const RTAX_HOPLIMIT: u16 = 10;
const RTAX_FEATURES: u16 = 12;
const RTAX_INITRWND: u16 = 14;
const RTAX_CC_ALGO: u16 = 16;
const FEATURE_ECN: u32 = 1;
const TCP: u8 = 6;

/// Of `struct nlmsghdr` and of `struct rtmsg`.
const HEADER_LEN: usize = 16;
const ROUTE_LEN: usize = 12;

/// The metrics of a route; 0 where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RouteMetrics {
    /// The largest segment that we take, in bytes (`advmss`).
    pub(super) advmss: u32,
    /// The largest window, in bytes (`window`).
    pub(super) window: u32,
    /// The first window, in segments (`initrwnd`).
    pub(super) initrwnd: u32,
    /// TTL (`hoplimit`).
    pub(super) hop_limit: u32,
    /// Connections ask for ECN (`features ecn`).
    pub(super) ecn: bool,
    /// The MTU is not to be found out by packets that may not be fragmented (`mtu lock`).
    pub(super) mtu_locked: bool,
    /// What controls the congestion (`congctl`).
    pub(super) congestion_control: Option<String>,
}

impl RouteMetrics {
    /// The metrics of the route that a TCP segment from `source_port` to `port` of the target takes.
    pub(super) fn of(route: &Route, source_port: u16, port: u16) -> Result<Self, Errno> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket =
            socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        // Connected to the kernel: it takes no message from any process.
        connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        send(socket.as_raw_fd(), &question(route, source_port, port), MsgFlags::empty())?;
        let mut answer = [0; 8192];
        // The answer is there when `send` returns.
        let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)?;
        Self::parse(answer.get(..length).unwrap_or_default())
    }

    fn parse(answer: &[u8]) -> Result<Self, Errno> {
        let kind =
            answer.get(4..).and_then(<[u8]>::first_chunk).map(|kind| u16::from_ne_bytes(*kind));
        let body = answer.get(HEADER_LEN..).unwrap_or_default();
        match kind {
            Some(RTM_NEWROUTE) => {}
            Some(NLMSG_ERROR) => {
                let code = number(body).map_or(0, u32::cast_signed);
                return Err(Errno::from_raw(code.saturating_neg()));
            }
            _ => return Err(Errno::EPROTO),
        }
        let attributes = body.get(ROUTE_LEN..).unwrap_or_default();
        let mut metrics = Self::default();
        for attribute in NlasIterator::new(attributes) {
            let attribute = attribute.map_err(|_| Errno::EPROTO)?;
            if attribute.kind() == RTA_METRICS {
                for metric in NlasIterator::new(attribute.value()) {
                    let metric = metric.map_err(|_| Errno::EPROTO)?;
                    metrics.set(metric.kind(), metric.value());
                }
            }
        }
        Ok(metrics)
    }

    fn set(&mut self, kind: u16, value: &[u8]) {
        let number = number(value).unwrap_or(0);
        match kind {
            RTAX_LOCK => self.mtu_locked = number & (1 << RTAX_MTU) != 0,
            RTAX_WINDOW => self.window = number,
            RTAX_ADVMSS => self.advmss = number,
            RTAX_HOPLIMIT => self.hop_limit = number,
            RTAX_FEATURES => self.ecn = number & FEATURE_ECN != 0,
            RTAX_INITRWND => self.initrwnd = number,
            RTAX_CC_ALGO => {
                let name = value.split(|byte| *byte == 0).next().unwrap_or_default();
                self.congestion_control = Some(String::from_utf8_lossy(name).into_owned());
            }
            _ => {}
        }
    }
}

fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|value| u32::from_ne_bytes(*value))
}

/// `RTM_GETROUTE` for all that `ip_route_connect` and `ip6_dst_lookup_flow` would ask by.
fn question(route: &Route, source_port: u16, port: u16) -> Vec<u8> {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let (family, bits) = if route.source.is_ipv4() { (2, 32) } else { (10, 128) };
    let mut attributes = vec![
        DefaultNla::new(RTA_DST, octets(route.target.ip())),
        DefaultNla::new(RTA_SRC, octets(route.source)),
        DefaultNla::new(RTA_IP_PROTO, vec![TCP]),
        DefaultNla::new(RTA_SPORT, source_port.to_be_bytes().to_vec()),
        DefaultNla::new(RTA_DPORT, port.to_be_bytes().to_vec()),
    ];
    if route.scope() != 0 {
        attributes.push(DefaultNla::new(RTA_OIF, route.scope().to_ne_bytes().to_vec()));
    }
    let attributes = attributes.as_slice();
    let length = HEADER_LEN + ROUTE_LEN + attributes.buffer_len();
    let mut bytes = vec![0; length];
    let (header, body) = bytes.split_at_mut(HEADER_LEN);
    let mut fields = NetlinkHeader::default();
    #[expect(clippy::cast_possible_truncation, reason = "some 80 bytes")]
    {
        fields.length = length as u32;
    }
    fields.message_type = RTM_GETROUTE;
    fields.flags = NLM_F_REQUEST;
    fields.emit(header);
    let (message, rest) = body.split_at_mut(ROUTE_LEN);
    message.iter_mut().zip([family, bits, bits]).for_each(|(to, byte)| *to = byte);
    attributes.emit(rest);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(kind: u16, value: &[u8]) -> DefaultNla {
        DefaultNla::new(kind, value.to_vec())
    }

    fn answer(metrics: &[DefaultNla]) -> Vec<u8> {
        let mut nested = vec![0; metrics.buffer_len()];
        metrics.emit(&mut nested);
        let attributes = [metric(RTA_DST, &[192, 0, 2, 1]), metric(RTA_METRICS, &nested)];
        let mut body = vec![0; HEADER_LEN + ROUTE_LEN + attributes.as_slice().buffer_len()];
        body[4..6].copy_from_slice(&RTM_NEWROUTE.to_ne_bytes());
        attributes.as_slice().emit(&mut body[HEADER_LEN + ROUTE_LEN..]);
        body
    }

    #[test]
    fn metrics_are_read() {
        let number = |kind, value: u32| metric(kind, &value.to_ne_bytes());
        let bytes = answer(&[
            number(RTAX_LOCK, 1 << RTAX_MTU),
            number(RTAX_MTU, 1400),
            number(RTAX_WINDOW, 20_000),
            number(RTAX_ADVMSS, 1000),
            number(RTAX_HOPLIMIT, 33),
            number(RTAX_FEATURES, 1),
            number(RTAX_INITRWND, 5),
            metric(RTAX_CC_ALGO, b"dctcp\0"),
        ]);
        let expected = RouteMetrics {
            advmss: 1000,
            window: 20_000,
            initrwnd: 5,
            hop_limit: 33,
            ecn: true,
            mtu_locked: true,
            congestion_control: Some("dctcp".to_owned()),
        };
        assert_eq!(RouteMetrics::parse(&bytes), Ok(expected));
        assert_eq!(RouteMetrics::parse(&answer(&[])), Ok(RouteMetrics::default()));
        for length in 0..bytes.len() {
            let _ = RouteMetrics::parse(&bytes[..length]);
        }
        let locked = RouteMetrics::parse(&answer(&[number(RTAX_LOCK, 1 << RTAX_WINDOW)]));
        assert!(!locked.unwrap().mtu_locked, "another metric is locked");
    }

    #[test]
    fn an_error_is_told() {
        let mut answer = vec![0; 36];
        answer[4] = 2;
        answer[16..20].copy_from_slice(&(-101_i32).to_ne_bytes());
        assert_eq!(RouteMetrics::parse(&answer), Err(Errno::ENETUNREACH));
        assert_eq!(RouteMetrics::parse(&[]), Err(Errno::EPROTO));
    }

    #[test]
    fn the_kernel_answers() {
        for address in ["127.0.0.1", "::1"] {
            let source: IpAddr = address.parse().unwrap();
            let route = Route { source, target: (source, 0).into() };
            assert_eq!(RouteMetrics::of(&route, 40_000, 22), Ok(RouteMetrics::default()));
        }
    }
}
