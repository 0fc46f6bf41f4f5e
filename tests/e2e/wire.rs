//! Frames as they pass a host's interface: waiting for one, and sending it again byte for byte.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use knockknock::client::knock::packet::{AddressPair, KnockPacket};
use knockknock::layout::stealth::StealthFields;
use knockknock::syn::SynFields;
use pnet::datalink::{
    self, Channel, Config, DataLinkReceiver, DataLinkSender, MacAddr, NetworkInterface,
};
use pnet::packet::Packet as _;
use pnet::packet::ethernet::{EtherTypes, EthernetPacket, MutableEthernetPacket};
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::{self, Ipv4Packet, MutableIpv4Packet};
use pnet::packet::ipv6::{Ipv6Packet, MutableIpv6Packet};
use pnet::packet::tcp::{self, MutableTcpPacket, TcpFlags, TcpPacket};

use crate::net::Host;
use crate::process::SOON;

/// Sees every frame that comes to or leaves a host's `eth0`, from now on.
pub(crate) struct Tap(Box<dyn DataLinkReceiver>);

/// A frame that carries a TCP segment with SYN and nothing else.
#[derive(Clone, Debug)]
pub(crate) struct SynFrame {
    /// The whole Ethernet frame.
    pub(crate) frame: Vec<u8>,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) destination_port: u16,
    pub(crate) sequence: u32,
}

impl Tap {
    /// Starts to listen.
    pub(crate) fn on(host: &Host) -> Self {
        Self(host.inside(|| channel().1))
    }

    /// Waits for the next bare SYN to a port.
    #[track_caller]
    pub(crate) fn wait_for_syn(&mut self, port: u16) -> SynFrame {
        let end = Instant::now() + SOON;
        while Instant::now() < end {
            let Ok(frame) = self.0.next() else { continue };
            if let Some(syn) = SynFrame::read(frame).filter(|syn| syn.destination_port == port) {
                return syn;
            }
        }
        panic!("no SYN to port {port} passed");
    }

    /// The bare SYNs to a port that have passed, up to `quiet` without any frame.
    pub(crate) fn syns_to(&mut self, port: u16, quiet: Duration) -> Vec<SynFrame> {
        let mut syns = Vec::new();
        let mut end = Instant::now() + quiet;
        while Instant::now() < end {
            if let Some(syn) = self.0.next().ok().and_then(SynFrame::read)
                && syn.destination_port == port
            {
                syns.push(syn);
                end = Instant::now() + quiet;
            }
        }
        syns
    }
}

impl SynFrame {
    fn read(frame: &[u8]) -> Option<Self> {
        let ethernet = EthernetPacket::new(frame)?;
        let (source, destination, next, segment): (IpAddr, IpAddr, _, Vec<u8>) = match ethernet
            .get_ethertype()
        {
            EtherTypes::Ipv4 => {
                let ip = Ipv4Packet::new(ethernet.payload())?;
                let next = ip.get_next_level_protocol();
                (ip.get_source().into(), ip.get_destination().into(), next, ip.payload().to_vec())
            }
            EtherTypes::Ipv6 => {
                let ip = Ipv6Packet::new(ethernet.payload())?;
                (
                    ip.get_source().into(),
                    ip.get_destination().into(),
                    ip.get_next_header(),
                    ip.payload().to_vec(),
                )
            }
            _ => return None,
        };
        let tcp = TcpPacket::new(&segment).filter(|tcp| tcp.get_flags() == TcpFlags::SYN)?;
        (next == IpNextHeaderProtocols::Tcp).then(|| Self {
            frame: frame.to_vec(),
            source,
            destination,
            destination_port: tcp.get_destination(),
            sequence: tcp.get_sequence(),
        })
    }
}

/// Sends whole frames out of a host's `eth0`.
pub(crate) fn send_frames(host: &Host, frames: &[Vec<u8>]) {
    host.inside(|| {
        let (mut sender, _) = channel();
        for frame in frames {
            sender.send_to(frame, None).expect("a buffer for a frame").unwrap();
        }
    });
}

/// Frames that are sent over and over, as fast as it goes, until this is dropped.
pub(crate) struct Flood {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<usize>>,
}

impl Flood {
    /// Begins to send out of a host's `eth0`.
    pub(crate) fn start(host: &Host, frames: Vec<Vec<u8>>) -> Self {
        let (mut sender, _) = host.inside(channel);
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let mut sent = 0;
            for frame in frames.iter().cycle().take_while(|_| !told.load(Ordering::Relaxed)) {
                // A full queue is part of a flood.
                sent += usize::from(sender.send_to(frame, None).expect("a buffer").is_ok());
            }
            sent
        });
        Self { over, thread: Some(thread) }
    }

    /// Ends it and tells how many frames were sent.
    pub(crate) fn stop(mut self) -> usize {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().expect("stopped once").join().unwrap()
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// The Ethernet addresses of a frame from one host to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    from: MacAddr,
    to: MacAddr,
}

impl Route {
    /// The addresses of two hosts of one Ethernet.
    pub(crate) fn between(from: &Host, to: &Host) -> Self {
        let mac = |host: &Host| host.inside(|| interface().mac).unwrap();
        Self { from: mac(from), to: mac(to) }
    }
}

/// A bare SYN of 40 or 60 bytes, as no kernel sends it, in a frame. The source may be a lie.
pub(crate) fn make_syn(
    route: Route,
    source: SocketAddr,
    destination: SocketAddr,
    sequence: u32,
) -> Vec<u8> {
    make_segment(route, source, destination, sequence, TcpFlags::SYN)
}

/// The same with other flags.
pub(crate) fn make_segment(
    route: Route,
    source: SocketAddr,
    destination: SocketAddr,
    sequence: u32,
    flags: u8,
) -> Vec<u8> {
    make_packet(route, source, destination, sequence, (flags, 0), &[])
}

/// Which request for ECN a SYN has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ecn {
    None,
    Asked,
    /// Accurate ECN, with its flag AE.
    Accurate,
}

/// A knock of the stealth layout in a frame, with the options of a kernel's SYN. The source may be a lie.
pub(crate) fn make_stealth_knock(
    route: Route,
    source: SocketAddr,
    destination: SocketAddr,
    StealthFields { tag, mac }: StealthFields,
    ecn: Ecn,
) -> Vec<u8> {
    let flags = match ecn {
        Ecn::None => (TcpFlags::SYN, 0),
        Ecn::Asked => (TcpFlags::SYN | TcpFlags::ECE | TcpFlags::CWR, 0),
        Ecn::Accurate => (TcpFlags::SYN | TcpFlags::ECE | TcpFlags::CWR, 1),
    };
    let mut options = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 3, 7];
    options[8..12].copy_from_slice(&mac.to_be_bytes());
    make_packet(route, source, destination, tag, flags, &options)
}

fn make_packet(
    route: Route,
    source: SocketAddr,
    destination: SocketAddr,
    sequence: u32,
    (flags, reserved): (u8, u8),
    options: &[u8],
) -> Vec<u8> {
    let mut segment = vec![0; 20 + options.len()];
    segment[20..].copy_from_slice(options);
    let words = u8::try_from(segment.len() / 4).unwrap();
    let length = u16::try_from(segment.len()).unwrap();
    let mut tcp = MutableTcpPacket::new(&mut segment).unwrap();
    tcp.set_source(source.port());
    tcp.set_destination(destination.port());
    tcp.set_sequence(sequence);
    tcp.set_data_offset(words);
    tcp.set_reserved(reserved);
    tcp.set_flags(flags);
    tcp.set_window(1024);
    let mut packet = match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            tcp.set_checksum(tcp::ipv4_checksum(&tcp.to_immutable(), &source, &destination));
            let mut packet = vec![0; 20];
            let mut ip = MutableIpv4Packet::new(&mut packet).unwrap();
            ip.set_version(4);
            ip.set_header_length(5);
            ip.set_total_length(20 + length);
            ip.set_identification(1);
            ip.set_ttl(64);
            ip.set_next_level_protocol(IpNextHeaderProtocols::Tcp);
            ip.set_source(source);
            ip.set_destination(destination);
            ip.set_checksum(ipv4::checksum(&ip.to_immutable()));
            packet
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            tcp.set_checksum(tcp::ipv6_checksum(&tcp.to_immutable(), &source, &destination));
            let mut packet = vec![0; 40];
            let mut ip = MutableIpv6Packet::new(&mut packet).unwrap();
            ip.set_version(6);
            ip.set_payload_length(length);
            ip.set_hop_limit(64);
            ip.set_next_header(IpNextHeaderProtocols::Tcp);
            ip.set_source(source);
            ip.set_destination(destination);
            packet
        }
        pair => panic!("two families: {pair:?}"),
    };
    packet.extend_from_slice(&segment);
    in_frame(route, source.is_ipv4(), &packet)
}

/// A knock in a frame. The source may be a lie.
pub(crate) fn make_knock(
    route: Route,
    source: IpAddr,
    destination: IpAddr,
    knock_port: u16,
    fields: SynFields,
) -> Vec<u8> {
    let addresses = AddressPair::new(source, destination).expect("two addresses of one family");
    let packet = KnockPacket::classic(addresses, 40_000, knock_port, fields, 0);
    in_frame(route, source.is_ipv4(), &packet.to_bytes())
}

fn in_frame(route: Route, is_ipv4: bool, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 14];
    let mut ethernet = MutableEthernetPacket::new(&mut frame).unwrap();
    ethernet.set_source(route.from);
    ethernet.set_destination(route.to);
    ethernet.set_ethertype(if is_ipv4 { EtherTypes::Ipv4 } else { EtherTypes::Ipv6 });
    frame.extend_from_slice(packet);
    frame
}

fn interface() -> NetworkInterface {
    interface_named("eth0")
}

fn interface_named(name: &str) -> NetworkInterface {
    datalink::interfaces().into_iter().find(|interface| interface.name == name).expect(name)
}

fn channel() -> (Box<dyn DataLinkSender>, Box<dyn DataLinkReceiver>) {
    channel_on("eth0")
}

/// Frames of an interface of the caller's namespace.
pub(crate) fn channel_on(name: &str) -> (Box<dyn DataLinkSender>, Box<dyn DataLinkReceiver>) {
    let config = Config { read_timeout: Some(Duration::from_millis(100)), ..Config::default() };
    match datalink::channel(&interface_named(name), config).unwrap() {
        Channel::Ethernet(sender, receiver) => (sender, receiver),
        _ => panic!("{name} is no Ethernet"),
    }
}
