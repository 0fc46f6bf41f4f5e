//! Hears the SYNs that leave a host, and has it send them both ways: by connecting, and by a stealth knock.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use knockknock::client::knock::kernel_syn::KernelSyn;
use knockknock::client::knock::raw_socket::RawSockets;
use knockknock::client::knock::route::Route;
use knockknock::client::knock::source_port::SourcePort;
use knockknock::layout::stealth::StealthFields;
use pnet::datalink::DataLinkReceiver;
use pnet::packet::ipv4::{self, Ipv4Packet};
use pnet::packet::tcp::{self, TcpPacket};

use crate::net::Host;
use crate::process::SOON;
use crate::wire::channel_on;

pub(crate) const PORT: u16 = 2222;
pub(crate) const FIELDS: StealthFields = StealthFields { tag: 0x0102_0304, mac: 0xfffe_fdfc };
pub(crate) const QUIET: Duration = Duration::from_millis(300);
pub(crate) const TUN: &str = "tun0";

/// Hears the SYNs that leave by an interface.
pub(crate) struct Ear {
    receiver: Box<dyn DataLinkReceiver>,
    /// Bytes before the IP header.
    link: usize,
}

/// A SYN from its IP header on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Syn(pub(crate) Vec<u8>);

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
    pub(crate) fn reset(&mut self) -> Syn {
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
    pub(crate) fn count(&mut self) -> usize {
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
    pub(crate) fn tcp(&self) -> usize {
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

    pub(crate) fn timestamp_at(&self) -> Option<usize> {
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
    pub(crate) fn assert_checksums(&self) {
        let segment = TcpPacket::new(&self.0[self.tcp()..]).unwrap();
        let sum = if self.is_v4() {
            let header = Ipv4Packet::new(&self.0).unwrap();
            assert_eq!(header.get_checksum(), ipv4::checksum(&header));
            tcp::ipv4_checksum(&segment, &header.get_source(), &header.get_destination())
        } else {
            let address = |at: usize| <[u8; 16]>::try_from(&self.0[at..at + 16]).unwrap().into();
            tcp::ipv6_checksum(&segment, &address(8), &address(24))
        };
        // 0 and 0xffff are the same number in ones' complement, and Linux writes the second.
        assert_eq!(segment.get_checksum(), if sum == 0 { 0xffff } else { sum });
    }
}

/// What `connect` does: refused, since nothing listens.
pub(crate) fn connect(host: &Host, to: IpAddr) {
    let _ = host.inside(|| TcpStream::connect_timeout(&SocketAddr::new(to, PORT), QUIET));
}

pub(crate) fn kernel_syn(to: IpAddr, source: Option<IpAddr>) -> KernelSyn {
    let route = Route::find(SocketAddr::new(to, 0), source).unwrap();
    KernelSyn::for_route(&route, PORT).unwrap()
}

/// What a stealth knock does.
pub(crate) fn knock(host: &Host, to: IpAddr) -> SourcePort {
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

pub(crate) fn get(host: &Host, setting: &str) -> String {
    host.inside(|| fs::read_to_string(Path::new("/proc/sys/net").join(setting)).unwrap())
}
