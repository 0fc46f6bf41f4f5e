//! Facts about this host: its addresses, and the ports on which something listens.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use nix::ifaddrs::getifaddrs;

/// Addresses for documentation: nothing is sent to them, but the routing tables say who would be the sender.
const FAR_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const FAR_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// The state of a listening socket in /proc/net/tcp.
const LISTEN: &str = "0A";

/// The address that this host is reached at: that of its way out, else the first of its interfaces'.
pub(super) fn address(is_family: fn(&IpAddr) -> bool) -> Option<IpAddr> {
    let usable = |address: &IpAddr| {
        is_family(address)
            && !address.is_loopback()
            && !address.is_unspecified()
            && !matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
    };
    let way_out = [
        (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V4(FAR_V4)),
        (IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V6(FAR_V6)),
    ];
    let way_out = way_out.into_iter().find(|(any, _)| is_family(any)).and_then(|(any, far)| {
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect((far, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    });
    let interfaces = getifaddrs()
        .into_iter()
        .flatten()
        .filter(|interface| !interface.interface_name.starts_with("kktry"));
    let listed = interfaces.filter_map(|interface| {
        let address = interface.address?;
        address
            .as_sockaddr_in()
            .map(|address| IpAddr::V4(address.ip()))
            .or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    });
    way_out.into_iter().chain(listed).find(usable)
}

/// Whether something on this host listens at that port, on any address.
pub(super) fn listens(at: SocketAddr) -> bool {
    // A socket for both families is listed as one for IPv6.
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .any(|list| has_listener(&list, at.port()))
}

fn has_listener(list: &str, port: u16) -> bool {
    list.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (local, state) = (words.next().unwrap_or_default(), words.nth(1));
        let listed = local.rsplit(':').next().and_then(|hex| u16::from_str_radix(hex, 16).ok());
        listed == Some(port) && state == Some(LISTEN)
    })
}

/// Random bytes.
pub(super) fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map(|()| bytes)
        .map_err(|why| format!("/dev/urandom: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_found_and_a_connection_is_none() {
        let list = "  sl  local_address rem_address   st\n   \
            0: 0100007F:0016 00000000:0000 0A 00000000\n   \
            1: 0100007F:0050 0100007F:A000 01 00000000\n";
        assert!(has_listener(list, 22));
        assert!(!has_listener(list, 80), "a connection");
        assert!(!has_listener(list, 443));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        assert!(listens(at));
        drop(listener);
        assert!(!listens(at));
    }
}
