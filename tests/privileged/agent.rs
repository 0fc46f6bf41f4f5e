//! A process in a namespace that does what a test tells it, one line each way. It is this very test program, started with
//! `ip netns exec`, so that it has a main thread of its own to fork from, and so that it can be killed.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Barrier;
use std::time::Duration;

use knockknock::privileged::{
    Chain, Firewall, Helper, Ids, Limits, Protocol, Request, Service, Table, neighbours, split,
};
use nix::unistd::{Gid, Uid};

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

    /// Makes the table `name` and forks the helper; its process id.
    pub(crate) fn split(&mut self, name: &str) -> i32 {
        let answer = self.ask(&format!("split {name}"));
        answer.parse().unwrap_or_else(|_| panic!("{answer}"))
    }

    pub(crate) fn open(&mut self, address: &str, port: u16, seconds: u16) -> String {
        self.ask(&format!("open {address} {port} {seconds}"))
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
    helper: Option<Helper>,
    streams: HashMap<u16, TcpStream>,
}

impl World {
    fn obey(&mut self, words: &[&str]) -> String {
        match *words {
            ["split", name] => match start(name) {
                Err(error) => error,
                Ok(helper) => self.helper.insert(helper).pid().to_string(),
            },
            ["open", address, port, seconds] => {
                let request = Request {
                    address: address.parse().unwrap(),
                    protocol: Protocol::Tcp,
                    port: port.parse().unwrap(),
                    seconds: seconds.parse().unwrap(),
                };
                format!("{:?}", self.helper.as_mut().unwrap().ask_open(&request))
            }
            ["neighbours"] => {
                let found = neighbours().unwrap();
                let lines: Vec<String> = found
                    .iter()
                    .map(|one| format!("{:?}|{}|{one}", one.kind, one.accepts_mark))
                    .collect();
                lines.join("\x1e").replace('\n', "\x1f")
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
            ["talk", port] => match talk(&self.streams[&port.parse().unwrap()]) {
                Ok(()) => "talked".to_owned(),
                Err(error) => error.kind().to_string(),
            },
            _ => format!("what is {words:?}?"),
        }
    }
}

/// A table, or, if the name begins with `iptables:`, a chain.
fn start(name: &str) -> Result<Helper, String> {
    let limits = Limits {
        allow: Some(vec![Service { protocol: Protocol::Tcp, first_port: 1, last_port: 65535 }]),
        max_seconds: 3600,
        max_open: 6,
        max_open_per_source: 3,
        own_addresses: vec!["10.77.0.1".parse().unwrap()],
        ipv4: true,
        ipv6: true,
    };
    let ids = Ids { uid: Uid::from_raw(NOBODY), gid: Gid::from_raw(NOBODY), groups: vec![] };
    let firewall = match name.strip_prefix("iptables:") {
        Some(name) => {
            Firewall::Iptables(Chain::create(name, true).map_err(|error| error.to_string())?)
        }
        None => Firewall::Nftables(
            Table::create(name, limits.max_open).map_err(|error| error.to_string())?,
        ),
    };
    split(firewall, &limits, &ids).map_err(|error| error.to_string())
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
