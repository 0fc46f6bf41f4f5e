//! A long wire: frames that pass between two interfaces of one namespace are kept for a while, each for its own. This
//! kernel has no netem. Owns two packet sockets.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use pnet::datalink::{DataLinkReceiver, DataLinkSender};
use pnet::packet::Packet as _;
use pnet::packet::ethernet::{EtherTypes, EthernetPacket};
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::Ipv4Packet;
use pnet::packet::ipv6::Ipv6Packet;
use pnet::packet::tcp::{self, MutableTcpPacket};

use crate::net::Net;
use crate::wire::channel_on;

/// An Ethernet header, an IPv6 header.
const ETHERNET: usize = 14;
const IPV6: usize = 40;

/// Passes frames on until it is dropped.
pub(crate) struct Delay(Arc<AtomicBool>);

/// A frame, and when it is due.
type Due = (Instant, Vec<u8>);

/// Frames, the next to be due first.
#[derive(Default)]
struct Queue {
    frames: Mutex<BinaryHeap<Reverse<Due>>>,
    news: Condvar,
}

impl Delay {
    /// Between server and client of [`Net::lan`]: each frame takes `delay`, more or less `jitter`, so that some overtake
    /// others.
    pub(crate) fn on(net: &Net, delay: Duration, jitter: Duration) -> Self {
        net.switch.ip("link set lan1 nomaster\nlink set lan2 nomaster\n");
        for host in [&net.server, &net.client] {
            // Frames as a wire takes them: none that a network card would have to cut up first.
            host.ip("link set eth0 gso_max_segs 1\n");
        }
        let [(server_out, server_in), (client_out, client_in)] =
            ["lan1", "lan2"].map(|port| net.switch.inside(|| channel_on(port)));
        let over = Arc::new(AtomicBool::new(false));
        pass(server_in, client_out, delay, jitter, &over);
        pass(client_in, server_out, delay, jitter, &over);
        Self(over)
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn pass(
    mut from: Box<dyn DataLinkReceiver>,
    mut to: Box<dyn DataLinkSender>,
    delay: Duration,
    jitter: Duration,
    over: &Arc<AtomicBool>,
) {
    let queue = Arc::new(Queue::default());
    let (filled, told) = (Arc::clone(&queue), Arc::clone(over));
    thread::spawn(move || {
        let mut random = 88_172_645_463_325_252_u64;
        while !told.load(Ordering::Relaxed) {
            // Comes back without a frame every now and then.
            let Ok(frame) = from.next() else { continue };
            let now = Instant::now();
            // xorshift: it is to differ, not to be unpredictable.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let part = u32::try_from(random % 1001).unwrap();
            let due = now + delay.saturating_sub(jitter) + jitter * 2 * part / 1000;
            filled.frames.lock().unwrap().push(Reverse((due, with_checksum(frame))));
            filled.news.notify_one();
        }
    });
    let told = Arc::clone(over);
    thread::spawn(move || {
        while !told.load(Ordering::Relaxed) {
            let mut frames = queue.frames.lock().unwrap();
            let now = Instant::now();
            let left = match frames.peek() {
                Some(Reverse((due, _))) => due.saturating_duration_since(now),
                None => Duration::from_millis(100),
            };
            if left.is_zero() {
                let Some(Reverse((_, frame))) = frames.pop() else { continue };
                drop(frames);
                // A queue that is full loses it, as wires do.
                let _ = to.send_to(&frame, None);
            } else {
                drop(queue.news.wait_timeout(frames, left).unwrap());
            }
        }
    });
}

/// A kernel leaves the checksum of TCP to the network card, which the other end of a virtual cable is not.
fn with_checksum(frame: &[u8]) -> Vec<u8> {
    let mut whole = frame.to_vec();
    let Some(ethernet) = EthernetPacket::new(frame) else { return whole };
    match ethernet.get_ethertype() {
        EtherTypes::Ipv4 => {
            let Some(ip) = Ipv4Packet::new(ethernet.payload()) else { return whole };
            let begin = ETHERNET + usize::from(ip.get_header_length()) * 4;
            let end = ETHERNET + usize::from(ip.get_total_length());
            if ip.get_next_level_protocol() == IpNextHeaderProtocols::Tcp
                && let Some(segment) = whole.get_mut(begin..end)
                && let Some(mut tcp) = MutableTcpPacket::new(segment)
            {
                let (source, destination) = (ip.get_source(), ip.get_destination());
                tcp.set_checksum(tcp::ipv4_checksum(&tcp.to_immutable(), &source, &destination));
            }
        }
        EtherTypes::Ipv6 => {
            let Some(ip) = Ipv6Packet::new(ethernet.payload()) else { return whole };
            let begin = ETHERNET + IPV6;
            let end = begin + usize::from(ip.get_payload_length());
            if ip.get_next_header() == IpNextHeaderProtocols::Tcp
                && let Some(segment) = whole.get_mut(begin..end)
                && let Some(mut tcp) = MutableTcpPacket::new(segment)
            {
                let (source, destination) = (ip.get_source(), ip.get_destination());
                tcp.set_checksum(tcp::ipv6_checksum(&tcp.to_immutable(), &source, &destination));
            }
        }
        _ => {}
    }
    whole
}
