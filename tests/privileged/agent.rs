//! A process in a namespace that does what a test tells it, one line each way. It is this very test program, started with
//! `ip netns exec`, so that it has a main thread of its own to fork from, and so that it can be killed.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use knockknock::daemon::helper_handle::{HelperGone, HelperHandle};
use knockknock::grant::{Grant, Protocol, Service, Spend};
use knockknock::privileged::drop_privileges::Ids;
use knockknock::privileged::firewall::log_rules::LogRules;
use knockknock::privileged::firewall::{BackEnd, Firewall};
use knockknock::privileged::limits::Limits;
use knockknock::privileged::message::Reply;
use knockknock::privileged::spawn::spawn_helper;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};
use nix::unistd::{Gid, Uid};

use crate::net::SERVER;

/// What distinguishes the agent's answers from the test harness's own output.
const MARKER: &str = "@ ";
const ROLE: &str = "KNOCK_TEST_AGENT";

pub(crate) const NOBODY: u32 = 65534;

/// A running agent, killed when dropped.
pub(crate) struct Agent {
    process: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Agent {
    pub(crate) fn start(namespace: &str) -> Self {
        Self::start_after(namespace, "true")
    }

    /// An agent that has run a shell command first, in a mount namespace of its own.
    pub(crate) fn start_after(namespace: &str, command: &str) -> Self {
        let mut process = Command::new("ip")
            .args([
                "netns",
                "exec",
                namespace,
                "sh",
                "-c",
                &format!("{command} && exec \"$0\" \"$@\""),
            ])
            .arg(std::env::current_exe().unwrap())
            .args(["agent::agent", "--exact", "--nocapture", "--test-threads=1"])
            .env(ROLE, "1")
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().unwrap());
        Self { process, orders, answers }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Gives an order and waits for the answer.
    pub(crate) fn ask(&mut self, order: &str) -> String {
        self.order(order);
        self.answer()
    }

    /// Gives an order; the answer is for later.
    pub(crate) fn order(&mut self, order: &str) {
        writeln!(self.orders.as_mut().unwrap(), "{order}").unwrap();
    }

    pub(crate) fn answer(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(self.answers.read_line(&mut line).unwrap(), 0, "the agent has ended");
            if let Some((_, answer)) = line.split_once(MARKER) {
                return answer.trim_end().to_owned();
            }
        }
    }

    /// What the lines begin with that the table of this agent's helper has the kernel log.
    pub(crate) fn log_prefixes(&self) -> [String; 2] {
        prefixes(self.pid())
    }

    /// Makes the table `name` and forks the helper; its process id. The name says the back end, too: `nftables:knockknock`;
    /// without it, it is conntrack.
    pub(crate) fn start_helper(&mut self, name: &str) -> i32 {
        let answer = self.ask(&format!("start {name}"));
        answer.parse().unwrap_or_else(|_| panic!("{answer}"))
    }

    pub(crate) fn open(&mut self, address: &str, port: u16, seconds: u16) -> String {
        self.ask(&format!("open {address} {port} {seconds}"))
    }

    /// Closes what was opened to `address`.
    pub(crate) fn close(&mut self, address: &str, port: u16) -> String {
        self.ask(&format!("close {address} {port} 1"))
    }

    /// Connects within a time that is long enough to be sure, and short enough for a port that drops.
    pub(crate) fn connect(&mut self, address: &str, port: u16) -> String {
        self.ask(&format!("connect {address} {port} 700"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The agent itself. As a test among others it does nothing.
#[test]
fn agent() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let mut world = World::default();
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        println!("{MARKER}{}", world.obey(&words));
    }
    std::process::exit(0);
}

#[derive(Default)]
struct World {
    helper: Option<HelperHandle>,
    streams: HashMap<u16, TcpStream>,
}

impl World {
    fn obey(&mut self, words: &[&str]) -> String {
        match *words {
            ["start", name] => match start(name) {
                Err(error) => error,
                Ok(helper) => self.helper.insert(helper).pid().to_string(),
            },
            ["helpers"] => HELPERS_OF.get().map_or_else(String::new, Clone::clone),
            ["open", address, port, seconds, ref more @ ..] => {
                let request = request(address, port, seconds, more);
                format!("{:?}", self.helper.as_mut().unwrap().ask_open(&request))
            }
            ["close", address, port, seconds, ref more @ ..] => {
                let request = request(address, port, seconds, more);
                format!("{:?}", self.helper.as_mut().unwrap().ask_close(&request))
            }
            ["end"] => self.helper.take().unwrap().end().to_string(),
            ["listen", port] => listen(port.parse().unwrap()),
            ["connect", address, port, milliseconds] => {
                let address =
                    SocketAddr::new(address.parse::<IpAddr>().unwrap(), port.parse().unwrap());
                let patience = Duration::from_millis(milliseconds.parse().unwrap());
                match TcpStream::connect_timeout(&address, patience) {
                    Err(error) => error.kind().to_string(),
                    Ok(stream) => {
                        self.streams.insert(address.port(), stream);
                        "connected".to_owned()
                    }
                }
            }
            // Two connections at the same instant, from two CPUs; how many get in.
            ["connect-twice", address, port] => {
                let address =
                    SocketAddr::new(address.parse::<IpAddr>().unwrap(), port.parse().unwrap());
                let both = Barrier::new(2);
                let connect = || {
                    both.wait();
                    TcpStream::connect_timeout(&address, Duration::from_millis(100)).is_ok()
                };
                let got_in: [bool; 2] = std::thread::scope(|scope| {
                    [scope.spawn(connect), scope.spawn(connect)]
                        .map(|thread| thread.join().unwrap())
                });
                got_in.into_iter().filter(|got_in| *got_in).count().to_string()
            }
            // One TCP packet with these flags, made here.
            ["packet", from, source_port, to, port, flags, seq, ack] => {
                let number = |text: &str| text.parse::<u32>().unwrap();
                send_packet(
                    SocketAddr::new(from.parse().unwrap(), source_port.parse().unwrap()),
                    SocketAddr::new(to.parse().unwrap(), port.parse().unwrap()),
                    flags.parse().unwrap(),
                    number(seq),
                    number(ack),
                );
                "sent".to_owned()
            }
            ["listen-udp", port] => {
                let socket =
                    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port.parse().unwrap())).unwrap();
                std::thread::spawn(move || {
                    let mut bytes = [0; 16];
                    while let Ok((length, from)) = socket.recv_from(&mut bytes) {
                        let _ = socket.send_to(&bytes[..length], from);
                    }
                });
                "listening".to_owned()
            }
            // A datagram of a new flow, and whether it was answered.
            ["datagram", address, port] => {
                let address = SocketAddr::new(address.parse().unwrap(), port.parse().unwrap());
                let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).unwrap();
                socket.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
                socket.send_to(b"hello", address).unwrap();
                match socket.recv(&mut [0; 16]) {
                    Ok(5) => "answered".to_owned(),
                    other => format!("{:?}", other.map_err(|error| error.kind())),
                }
            }
            ["talk", port] => match talk(&self.streams[&port.parse().unwrap()]) {
                Ok(()) => "talked".to_owned(),
                Err(error) => error.kind().to_string(),
            },
            _ => self.ask_helper(words),
        }
    }

    /// What is asked of the helper in numbers.
    fn ask_helper(&mut self, words: &[&str]) -> String {
        match *words {
            // Grants for as many clients, and the first reply that is another.
            ["open-many", count, seconds] => {
                let helper = self.helper.as_mut().unwrap();
                let first = u32::from_be_bytes([10, 78, 0, 0]);
                let (mut replies, mut times) = (Vec::new(), Vec::new());
                for nth in 0..count.parse().unwrap() {
                    let address = std::net::Ipv4Addr::from(first + nth).to_string();
                    let request = request(&address, "22", seconds, &["any"]);
                    let start = Instant::now();
                    replies.push(helper.ask_open(&request));
                    times.push(start.elapsed());
                    if replies.last() != Some(&Ok(Reply::Opened)) {
                        break;
                    }
                }
                times.sort();
                format!(
                    "{} {:?} median {:?}",
                    replies.len(),
                    replies.last().unwrap(),
                    times[times.len() / 2]
                )
            }
            ["expect", ref numbers @ ..] => self.numbers(numbers, HelperHandle::ask_expect),
            ["forget", ref numbers @ ..] => self.numbers(numbers, HelperHandle::ask_forget),
            // Numbers from `first` on, far apart.
            ["expect-many", first, count] => {
                let (first, count): (u32, u32) = (first.parse().unwrap(), count.parse().unwrap());
                let numbers: Vec<u32> =
                    (first..first + count).map(|nth| nth.wrapping_mul(2_654_435_761)).collect();
                let start = Instant::now();
                let reply = self.helper.as_mut().unwrap().ask_expect(&numbers);
                format!("{reply:?} {:?}", start.elapsed())
            }
            ["knock-ports", ref ports @ ..] => {
                let ports: Vec<u16> = ports.iter().map(|port| port.parse().unwrap()).collect();
                format!("{:?}", self.helper.as_mut().unwrap().ask_knock_ports(&ports))
            }
            _ => format!("what is {words:?}?"),
        }
    }
}

impl World {
    fn numbers(
        &mut self,
        numbers: &[&str],
        ask: fn(&mut HelperHandle, &[u32]) -> Result<Reply, HelperGone>,
    ) -> String {
        let numbers: Vec<u32> = numbers.iter().map(|number| number.parse().unwrap()).collect();
        format!("{:?}", ask(self.helper.as_mut().unwrap(), &numbers))
    }
}

/// `more` may say `any` (number of connections), `udp`, and the destination, else it is the server's usual address.
fn request(address: &str, port: &str, seconds: &str, more: &[&str]) -> Grant {
    let address: IpAddr = address.parse().unwrap();
    let destination = more.iter().find_map(|word| word.parse().ok());
    let usual = SERVER[usize::from(address.is_ipv6())].parse().unwrap();
    Grant {
        address,
        destination: destination.unwrap_or(usual),
        protocol: if more.contains(&"udp") { Protocol::Udp } else { Protocol::Tcp },
        port: port.parse().unwrap(),
        seconds: seconds.parse().unwrap(),
        spend: if more.contains(&"any") { Spend::Any } else { Spend::One },
    }
}

/// The conntrack helpers that were found.
static HELPERS_OF: std::sync::OnceLock<String> = std::sync::OnceLock::new();

fn prefixes(pid: u32) -> [String; 2] {
    [format!("KNOCK {pid:08x} "), format!("KNOCK-IN {pid:08x} ")]
}

/// `nftables:NAME`, or a name for the conntrack back end; `many:NAME` has room for 65,536 grants.
fn start(name: &str) -> Result<HelperHandle, String> {
    let many = name.strip_prefix("many:");
    let service = |protocol| Service { protocol, first_port: 1, last_port: 65535 };
    let limits = Limits {
        allow: Some(vec![service(Protocol::Tcp), service(Protocol::Udp)]),
        max_seconds: 3600,
        max_open: if many.is_some() { 65_536 } else { 6 },
        max_open_per_source: 3,
        ipv4: true,
        ipv6: true,
    };
    let ids = Ids { uid: Uid::from_raw(NOBODY), gid: Gid::from_raw(NOBODY), groups: vec![] };
    let (back_end, name) = match name.strip_prefix("nftables:") {
        Some(name) => (BackEnd::Nftables, name),
        None => (BackEnd::Conntrack, many.unwrap_or(name)),
    };
    let [knock_prefix, came_in_prefix] = prefixes(std::process::id());
    let log = LogRules { knock_prefix, came_in_prefix, per_second: 2, burst: 4 };
    let firewall = Firewall::create(name, back_end, &log, limits.max_open)
        .map_err(|error| error.to_string())?;
    assert!(firewall.has_table());
    let _ = HELPERS_OF.set(format!("{:?}", firewall.conntrack_helpers()));
    let spawned = spawn_helper(firewall, &limits, &ids).map_err(|errno| errno.to_string())?;
    HelperHandle::when_ready(spawned).map_err(|error| error.to_string())
}

/// Sends one TCP packet; the kernel makes the header around it.
fn send_packet(from: SocketAddr, to: SocketAddr, flags: u8, seq: u32, ack: u32) {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Raw, SockFlag::empty(), SockProtocol::Tcp).unwrap();
    let mut segment = [
        &from.port().to_be_bytes()[..],
        &to.port().to_be_bytes(),
        &seq.to_be_bytes(),
        &ack.to_be_bytes(),
        &[0x50, flags, 0x20, 0, 0, 0, 0, 0],
    ]
    .concat();
    let octets = |address: SocketAddr| match address.ip() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let summed = [octets(from), octets(to), vec![0, 6, 0, 20], segment.clone()].concat();
    let mut sum: u32 =
        summed.as_chunks::<2>().0.iter().map(|two| u32::from(u16::from_be_bytes(*two))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    segment[16..18].copy_from_slice(&(!u16::try_from(sum).unwrap()).to_be_bytes());
    let to = SockaddrStorage::from(SocketAddr::new(to.ip(), 0));
    sendto(socket.as_raw_fd(), &segment, &to, MsgFlags::empty()).unwrap();
}

/// Echoes on `port`, both families, for as long as this process lives.
fn listen(port: u16) -> String {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let stream = stream.unwrap();
                std::io::copy(&mut &stream, &mut &stream)
            });
        }
    });
    "listening".to_owned()
}

fn talk(mut stream: &TcpStream) -> std::io::Result<()> {
    let mut echo = [0; 5];
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"hello")?;
    stream.read_exact(&mut echo)
}
