//! What our table has the kernel log: knocks, and connections that came in. Nothing else, and nothing twice.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::agent::Agent;
use crate::net::{CLIENT, Kmsg, Namespace, Net, SERVER, STATEFUL, until};

const TABLE: &str = "knockknock";
const SYN: u8 = 2;
const ACK: u8 = 16;

struct Scene {
    net: Net,
    daemon: Agent,
    client: Agent,
    kmsg: Kmsg,
}

impl Scene {
    fn new() -> Self {
        let net = Net::new();
        net.server.nft(STATEFUL);
        let (mut daemon, client) = (net.server.agent(), net.client.agent());
        daemon.start_helper(TABLE);
        Self { net, daemon, client, kmsg: Kmsg::from_now() }
    }

    /// Sends a packet from the client; `count` counts what has arrived.
    fn send(&mut self, v: usize, port: u16, flags: u8, seq: u32, ack: u32) {
        self.send_to(SERVER[v], CLIENT[v], port, flags, seq, ack);
    }

    fn send_to(&mut self, to: &str, from: &str, port: u16, flags: u8, seq: u32, ack: u32) {
        let order = format!("packet {from} 40000 {to} {port} {flags} {seq} {ack}");
        assert_eq!(self.client.ask(&order), "sent");
    }

    fn knocks(&mut self) -> Vec<String> {
        self.kmsg.lines(&self.daemon.log_prefixes()[0])
    }

    /// The lines of knocks once there are `count` of them, and the packet after them has been logged by another table.
    fn knocks_after(&mut self, count: usize) -> Vec<String> {
        let stop = format!("STOP {:08x}", self.daemon.pid());
        self.net.server.nft(&format!(
            "table inet stop {{ chain c {{ type filter hook prerouting priority -500; tcp dport 9 log prefix \"{stop} \" level debug; }}; }}"
        ));
        self.send(0, 9, SYN, 1, 0);
        until(5, "the last packet is logged", || !self.kmsg.lines(&stop).is_empty());
        self.net.server.nft("delete table inet stop");
        let knocks = self.knocks();
        assert_eq!(knocks.len(), count, "{knocks:#?}");
        knocks
    }
}

fn field<'a>(line: &'a str, name: &str) -> &'a str {
    line.split(' ').find_map(|word| word.strip_prefix(name)).unwrap_or_else(|| panic!("{line}"))
}

#[test]
fn the_table_lists_as_it_is_documented() {
    let server = Namespace::server();
    let mut daemon = server.agent();
    daemon.start_helper(TABLE);
    let [knock, came_in] = daemon.log_prefixes();
    let listed = server.run(&["nft", "list", "table", "inet", TABLE]);
    let lines: Vec<&str> = listed.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let syn = "tcp flags syn / fin,syn,rst,ack";
    let logged = format!("log prefix \"{knock}\" level debug flags tcp sequence,options");
    assert_eq!(
        lines[1..],
        [
            "flags owner",
            "set expected {",
            "typeof tcp sequence",
            "}",
            "set seen {",
            "typeof tcp sequence",
            "size 16384",
            "flags dynamic,timeout",
            "timeout 10s",
            "}",
            "set knock_ports {",
            "type inet_service",
            "}",
            "chain knocks {",
            "type filter hook prerouting priority raw - 10; policy accept;",
            &format!(
                "{syn} tcp sequence @expected fib daddr type local update @seen {{ tcp sequence limit rate 1/second burst 8 packets }} {logged} accept"
            ),
            &format!(
                "{syn} tcp dport @knock_ports tcp ackseq != 0 fib daddr type local limit rate 2/second burst 4 packets {logged}"
            ),
            "}",
            "chain came_in {",
            "type filter hook prerouting priority -190; policy accept;",
            &format!(
                "ct direction original ct status expected,assured / expected,assured fib daddr type local \
                 ct label ! 77 ct label set 77 ct label 77 log prefix \"{came_in}\" level debug"
            ),
            "}",
            "}",
        ]
    );
}

#[test]
fn a_syn_with_an_expected_number_is_logged_and_no_other_packet() {
    let mut scene = Scene::new();
    assert_eq!(scene.daemon.ask("expect 305419896 4000000000"), "Ok(Done)");
    for v in [0, 1] {
        scene.send(v, 666, SYN, 305_419_896, 0);
        scene.send(v, 22, SYN, 4_000_000_000, 77);
        scene.send(v, 666, SYN, 305_419_897, 0);
        scene.send(v, 666, SYN | ACK, 305_419_896, 1);
        scene.send(v, 666, ACK, 305_419_896, 1);
    }
    // Not for this host: the client's neighbour on the other side.
    scene.net.server.run(&["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
    scene.net.client.run(&["ip", "route", "add", "198.51.100.0/24", "via", SERVER[0]]);
    scene.send_to("198.51.100.9", CLIENT[0], 666, SYN, 305_419_896, 0);
    let lines = scene.knocks_after(4);
    for (line, (v, port, seq, ack)) in lines.iter().zip([
        (0, "666", "305419896", "0"),
        (0, "22", "4000000000", "77"),
        (1, "666", "305419896", "0"),
        (1, "22", "4000000000", "77"),
    ]) {
        assert_eq!(
            [field(line, "DPT="), field(line, "SEQ="), field(line, "ACK=")],
            [port, seq, ack]
        );
        let same = |name, address: &str| {
            field(line, name).parse::<std::net::IpAddr>() == address.parse::<std::net::IpAddr>()
        };
        assert!(same("SRC=", CLIENT[v]) && same("DST=", SERVER[v]), "{line}");
        let [prefix, _] = scene.daemon.log_prefixes();
        assert!(line.starts_with(&format!("{prefix}IN=s0 OUT= ")), "{line}");
    }

    assert_eq!(scene.daemon.ask("forget 305419896"), "Ok(Done)");
    scene.send(0, 666, SYN, 305_419_896, 0);
    scene.send(0, 666, SYN, 4_000_000_000, 0);
    let lines = scene.knocks_after(5);
    assert_eq!(field(&lines[4], "SEQ="), "4000000000");
}

/// The options stand in the line as the firewall's own log rule prints them.
#[test]
fn the_line_has_the_options_of_a_kernels_syn() {
    let mut scene = Scene::new();
    assert_eq!(scene.daemon.ask("knock-ports 666"), "Ok(Done)");
    scene
        .net
        .client
        .try_run(&["hping3", "-q", "-c", "1", "-S", "-M", "5", "-L", "7", "-p", "666", SERVER[0]]);
    assert_eq!(scene.daemon.ask("expect 99"), "Ok(Done)");
    let theirs = format!("THEIRS {:08x} ", scene.daemon.pid());
    scene.net.server.nft(&format!(
        "table inet theirs {{ chain c {{ type filter hook prerouting priority -400; tcp flags syn \
         log prefix \"{theirs}\" level debug flags tcp sequence,options; }}; }}"
    ));
    scene.send(0, 22, SYN, 99, 0);
    let lines = scene.knocks_after(2);
    assert!(lines[0].contains("SEQ=5 ACK=7 "), "{lines:?}");
    let [prefix, _] = scene.daemon.log_prefixes();
    let theirs_of = |line: &str| line.replace(&theirs, &prefix);
    let same = scene.kmsg.lines(&theirs).iter().any(|line| theirs_of(line) == lines[1]);
    assert!(same, "{:?}\n{lines:?}", scene.kmsg.lines(&theirs));
}

#[test]
fn who_repeats_a_knock_fills_no_log_and_silences_no_other() {
    let mut scene = Scene::new();
    assert_eq!(scene.daemon.ask("expect 1000 1001"), "Ok(Done)");
    // As fast as it goes, which is much more than one in a second.
    let flood =
        ["hping3", "-q", "-c", "2000", "-i", "u100", "-S", "-M", "1000", "-p", "666", SERVER[0]];
    let start = std::time::Instant::now();
    scene.net.client.try_run(&flood);
    scene.send(0, 666, SYN, 1001, 0);
    until(5, "the other one is logged", || {
        scene.knocks().iter().any(|line| field(line, "SEQ=") == "1001")
    });
    let repeated = scene.knocks().iter().filter(|line| field(line, "SEQ=") == "1000").count();
    let most = 8 + 1 + usize::try_from(start.elapsed().as_secs()).unwrap();
    assert!((8..=most).contains(&repeated), "{repeated} lines, {most} at most");
}

#[test]
fn a_knock_port_logs_what_may_be_a_knock_within_its_limit() {
    let mut scene = Scene::new();
    assert_eq!(scene.daemon.ask("knock-ports 666 65535"), "Ok(Done)");
    assert_eq!(scene.daemon.ask("knock-ports 666"), "Ok(Done)", "one that is there already");
    scene.send(1, 65_535, SYN, 1, 77);
    scene.send(0, 666, SYN, 2, 77);
    scene.send(0, 666, SYN, 3, 0);
    scene.send(0, 667, SYN, 4, 77);
    scene.send(0, 666, SYN | ACK, 5, 77);
    let lines = scene.knocks_after(2);
    let seqs: Vec<_> = lines.iter().map(|line| field(line, "SEQ=")).collect();
    assert_eq!(seqs, ["1", "2"]);
    let start = std::time::Instant::now();
    for _ in 0..500 {
        scene.send(0, 666, SYN, 6, 77);
    }
    let lines = scene.knocks_after_at_least(2);
    let most = 2 + 4 + 2 * (1 + usize::try_from(start.elapsed().as_secs()).unwrap());
    assert!(lines <= most, "{lines} lines, {most} at most");

    // A knock that can be listed is not held up by those that cannot.
    assert_eq!(scene.daemon.ask("expect 4242"), "Ok(Done)");
    scene.send(0, 666, SYN, 4242, 77);
    until(5, "the expected one is logged, once", || {
        scene.knocks().iter().filter(|line| field(line, "SEQ=") == "4242").count() == 1
    });
}

impl Scene {
    fn knocks_after_at_least(&mut self, count: usize) -> usize {
        until(5, "lines", || self.knocks().len() >= count);
        self.knocks().len()
    }

    fn came_in(&mut self) -> usize {
        self.kmsg.lines(&self.daemon.log_prefixes()[1]).len()
    }
}

#[test]
fn each_connection_that_came_in_is_logged_once_when_its_handshake_is_done() {
    let mut scene = Scene::new();
    scene.daemon.ask("listen 22");
    let mut lines = 0;
    for v in [0, 1] {
        assert_eq!(scene.daemon.ask(&format!("open {} 22 600 any", CLIENT[v])), "Ok(Opened)");
        for _ in 0..3 {
            assert_eq!(scene.client.connect(SERVER[v], 22), "connected");
            lines += 1;
            until(5, "the line", || scene.came_in() == lines);
            for _ in 0..10 {
                assert_eq!(scene.client.ask("talk 22"), "talked");
            }
        }
    }
    assert_eq!(scene.came_in(), lines, "one line each");
    let prefix = scene.daemon.log_prefixes()[1].clone();
    let logged = scene.kmsg.lines(&prefix);
    assert!(logged[0].starts_with(&format!("{prefix}IN=s0 OUT= ")), "{logged:?}");
    assert_eq!([field(&logged[0], "SRC="), field(&logged[0], "DPT=")], [CLIENT[0], "22"]);

    // A connection that no grant let in is none of ours.
    scene.net.server.nft("insert rule inet foreign input tcp dport 23 accept");
    scene.daemon.ask("listen 23");
    assert_eq!(scene.client.connect(SERVER[0], 23), "connected");
    assert_eq!(scene.client.ask("talk 23"), "talked");
    scene.knocks_after(0);
    assert_eq!(scene.came_in(), lines);
}

/// Whoever sends with the client's address and does not see the answers.
#[test]
fn a_blind_syn_and_a_blind_ack_are_not_a_handshake() {
    let mut scene = Scene::new();
    scene.daemon.ask("listen 22");
    // The client's host would end what it has not begun.
    scene.net.client.nft(
        "table inet blind { chain c { type filter hook output priority 0; tcp flags rst drop; }; }",
    );
    assert_eq!(scene.daemon.ask(&format!("open {} 22 600 any", CLIENT[0])), "Ok(Opened)");
    for nth in 0..50 {
        scene.send(0, 22, SYN, 1000 + nth, 0);
        scene.send(0, 22, ACK, 1001 + nth, 123_456_789 + nth);
    }
    let entries = scene.net.server.run(&["conntrack", "-L", "-p", "tcp", "--dport", "22"]);
    let answered = entries.contains("sport=40000 dport=22") && !entries.contains("UNREPLIED");
    assert!(answered, "the blind SYN got in: {entries}");
    scene.knocks_after(0);
    assert_eq!(scene.came_in(), 0);
    assert_eq!(scene.client.connect(SERVER[0], 22), "connected", "nothing was burnt");
    until(5, "the line", || scene.came_in() == 1);
}

/// A label of somebody else on the same connection, and a connection that has no room for labels, because it was there
/// before our table.
#[test]
fn neither_a_label_nor_the_lack_of_one_makes_a_line_of_every_packet() {
    let net = Net::new();
    net.server.nft(STATEFUL);
    let (mut first, mut listener) = (net.server.agent(), net.server.agent());
    let (mut older, mut newer) = (net.client.agent(), net.client.agent());
    let helper = Pid::from_raw(first.start_helper(TABLE));
    listener.ask("listen 22");
    assert_eq!(first.ask(&format!("open {} 22 600 any", CLIENT[0])), "Ok(Opened)");
    kill(helper, Signal::SIGKILL).unwrap();
    until(2, "the table is gone", || !net.server.has_table(TABLE));
    assert_eq!(older.connect(SERVER[0], 22), "connected");

    let mut second = net.server.agent();
    second.start_helper(TABLE);
    let mut kmsg = Kmsg::from_now();
    let prefix = second.log_prefixes()[1].clone();
    net.server.nft(
        "table inet other { chain c { type filter hook prerouting priority -195; tcp dport 22 ct label set 3; }; \
         chain d { type filter hook prerouting priority -150; ct label 3 counter; }; }",
    );
    assert_eq!(newer.connect(SERVER[0], 22), "connected");
    for _ in 0..10 {
        assert_eq!(older.ask("talk 22"), "talked");
        assert_eq!(newer.ask("talk 22"), "talked");
    }
    until(5, "the line", || !kmsg.lines(&prefix).is_empty());
    let lines = kmsg.lines(&prefix);
    assert_eq!(lines.len(), 1, "{lines:#?}");
    let counted = net.server.run(&["nft", "list", "table", "inet", "other"]);
    assert!(!counted.contains("counter packets 0 "), "the other's label is there: {counted}");
}

#[test]
fn numbers_that_are_there_or_not_there_are_no_failure_and_are_counted_right() {
    let server = Namespace::server();
    let mut daemon = server.agent();
    daemon.start_helper(TABLE);
    let count = || {
        let listed = server.run(&["nft", "-j", "list", "set", "inet", TABLE, "expected"]);
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        let sets = listed["nftables"].as_array().unwrap();
        sets.iter().find_map(|object| object["set"]["elem"].as_array().map(Vec::len)).unwrap_or(0)
    };
    for (order, there) in [
        ("expect 1 2 3", 3),
        ("expect 3 4 4 5", 5),
        ("expect 5", 5),
        ("forget 9", 5),
        ("forget 1 9 2 2", 3),
        ("forget 3 4", 1),
        ("expect", 1),
        ("forget", 1),
    ] {
        assert_eq!(daemon.ask(order), "Ok(Done)", "{order}");
        assert_eq!(count(), there, "{order}");
    }
}

/// A million of them load in seconds; there are no more. Prints what it costs.
#[test]
fn a_million_numbers_are_the_most_that_is_expected() {
    let server = Namespace::server();
    let mut daemon = server.agent();
    daemon.start_helper(TABLE);
    let before = kernel_memory();
    let said = daemon.ask("expect-many 0 1000000");
    assert!(said.starts_with("Ok(Done) "), "{said}");
    println!("a million: {said}, {} MB of kernel memory", (kernel_memory() - before) / 1024);
    let full = daemon.ask("expect-many 2000000 1");
    assert!(full.starts_with("Ok(Full) "), "{full}");
    assert_eq!(daemon.ask("forget 0"), "Ok(Done)", "the first of them");
    let room = daemon.ask("expect-many 2000000 1");
    assert!(room.starts_with("Ok(Done) "), "{room}");
}

fn kernel_memory() -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let of = |name: &str| -> i64 {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    of("Slab:") + of("VmallocUsed:")
}
