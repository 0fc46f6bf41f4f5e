//! `knock` and `knock-proxy` with a profile of the stealth layout: what leaves, what is spent, what is said, without a
//! daemon; and that they get in where there is one.

use std::collections::HashSet;
use std::fs::{self, DirBuilder};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::os::unix::fs::DirBuilderExt as _;
use std::process::Output;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use knockknock::layout::Request;
use knockknock::layout::stealth::{StealthFields, StealthKeys};

use crate::connection::Reach;
use crate::ear::{Ear, PORT, Syn, connect, set};
use crate::net::{FAMILIES, Family, Net};
use crate::process::{Running, SOON, wait_until};
use crate::site::{HOST, Log, Site, write_private};
use crate::user::{User, said, wrote};

const SECRET: [u8; 32] = *b"32 bytes that nobody else knows.";
/// Years ahead of any clock: the counter decides, and every other time the clock.
const STORED: u64 = 256 * 400_000_000;
const QUIET: Duration = Duration::from_millis(300);

/// A server that refuses everything, and somebody with a profile of the stealth layout.
fn site(family: Family, more: &str) -> (Site, User) {
    let site = Site::prepare(Net::lan(), Log::Kmsg, "");
    site.net.server.run(&["nft", "flush", "ruleset"]);
    let user = user(&site, family, more);
    (site, user)
}

fn user(site: &Site, family: Family, more: &str) -> User {
    let user = User::new(site, family);
    for file in ["cipher.key", "mac.key"] {
        fs::remove_file(user.profile().join(file)).unwrap();
    }
    let address = site.net.server.address(family);
    let files = [
        ("secret.key", BASE64_STANDARD.encode(SECRET) + "\n"),
        ("config", format!("[main]\nlayout = stealth\naddress = \"{address}\"\n{more}")),
        ("counter", "1\n".to_owned()),
    ];
    for (name, content) in files {
        fs::write(user.profile().join(name), content).unwrap();
    }
    user.own();
    user
}

/// The same with our guard and a daemon that knows the profile.
fn guarded(net: Net, family: Family) -> (Site, User) {
    let mut site = Site::prepare(net, Log::Kmsg, "delay = 600\n");
    let dir = site.profile("laptop");
    DirBuilder::new().mode(0o700).create(&dir).unwrap();
    write_private(&dir.join("secret.key"), BASE64_STANDARD.encode(SECRET) + "\n");
    write_private(&dir.join("config"), "[main]\nlayout = stealth\n");
    write_private(&dir.join("counter"), "0\n");
    site.net.server.run(&["nft", "flush", "ruleset"]);
    site.script(&["--only", &format!("tcp/{PORT}")]);
    site.start_daemon();
    let user = user(&site, family, "");
    (site, user)
}

fn sealed(number: u64, bound_to: Option<IpAddr>) -> StealthFields {
    StealthKeys::new(&SECRET).seal(number, Request(PORT), bound_to)
}

/// The number that `knock` says it has spent.
#[track_caller]
fn spent(output: &Output) -> u64 {
    let text = said(output);
    let (_, rest) = text.split_once("(counter ").expect(&text);
    rest.split_once(')').unwrap().0.parse().unwrap()
}

fn carries(syn: &Syn, fields: StealthFields) -> bool {
    (syn.sequence(), syn.timestamp()) == (fields.tag, Some(fields.mac))
}

fn stored(user: &User) -> String {
    fs::read_to_string(user.profile().join("counter")).unwrap()
}

fn unix_step() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    now.as_secs() / 10
}

/// The SYNs that leave while `work` runs, and what it gives.
fn heard<T>(ear: &mut Ear, work: impl FnOnce() -> T) -> (Vec<Syn>, T) {
    let result = work();
    let (mut syns, mut end) = (Vec::new(), Instant::now() + QUIET);
    while Instant::now() < end {
        if let Some(syn) = ear.next() {
            syns.push(syn);
            end = Instant::now() + QUIET;
        }
    }
    (syns, result)
}

#[test]
fn a_knock_is_one_syn_to_the_port_that_it_asks_for_as_the_kernel_sends_it() {
    for family in FAMILIES {
        let (site, user) = site(family, "");
        let client = &site.net.client;
        let mut ear = Ear::on(client, "eth0");
        connect(client, site.net.server.address(family));
        let real = ear.syn();
        let mut ports = HashSet::from([real.source_port()]);
        let (mut last, before) = (0, unix_step() * 256);
        for _ in 0..3 {
            let (syns, output) = heard(&mut ear, || user.knock(client, &["-p", "2222", HOST], ""));
            assert!(output.status.success(), "{}", said(&output));
            assert!(said(&output).contains(" ms (refused)"), "{}", said(&output));
            let [syn] = &syns[..] else { panic!("one SYN: {syns:x?}") };
            assert_eq!(syn.masked(), real.masked());
            let number = spent(&output);
            assert!(carries(syn, sealed(number, None)), "{syn:x?}");
            assert!(number > last && number >= before && number < (unix_step() + 1) * 256);
            assert_eq!(stored(&user).trim(), (number + 1).to_string());
            assert!(ports.insert(syn.source_port()), "a port of its own");
            last = number;
        }
        connect(client, site.net.server.address(family));
        assert!(ports.insert(ear.syn().source_port()), "and so has the connection after it");
    }
}

#[test]
fn without_a_counter_the_clock_decides_and_a_bound_knock_is_for_its_address() {
    let (site, user) = site(Family::V4, "bind_source = true\n");
    let client = &site.net.client;
    fs::remove_file(user.profile().join("counter")).unwrap();
    let mut ear = Ear::on(client, "eth0");
    let output = user.knock(client, &["-p", "2222", HOST], "");
    assert!(output.status.success(), "{}", said(&output));
    assert!(carries(&ear.syn(), sealed(spent(&output), Some(client.ipv4.into()))));
}

#[test]
fn a_knock_port_of_the_profiles_own_is_knocked_at() {
    let (site, user) = site(Family::V4, "knock_port = 2222\n");
    let mut ear = Ear::on(&site.net.client, "eth0");
    let output = user.knock(&site.net.client, &["-p", "22", HOST], "");
    let fields = StealthKeys::new(&SECRET).seal(spent(&output), Request(22), None);
    assert!(carries(&ear.syn(), fields), "{}", said(&output));
}

#[test]
fn a_dry_run_sends_and_spends_nothing_and_shows_what_would_be() {
    for family in FAMILIES {
        let (site, user) = site(family, "");
        let counter = user.write(".knockknock/server.test/counter", &format!("{STORED}\n"));
        let mut ear = Ear::on(&site.net.client, "eth0");
        let (syns, output) =
            heard(&mut ear, || user.knock(&site.net.client, &["-n", "-p", "2222", HOST], ""));
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!((syns.len(), fs::read_to_string(counter).unwrap()), (0, format!("{STORED}\n")));
        let fields = sealed(STORED, None);
        for number in [fields.tag, fields.mac, 2222] {
            assert!(wrote(&output).contains(&number.to_string()), "{}", wrote(&output));
        }
        let listed = user.knock(&site.net.client, &["--list"], "");
        let row = format!("asked  {STORED}  stealth  {}", site.net.server.address(family));
        assert!(wrote(&listed).contains(&row), "{}", wrote(&listed));
    }
}

#[test]
fn each_try_of_a_connection_is_a_knock_of_its_own() {
    for family in FAMILIES {
        let (site, user) = site(family, "");
        user.write(".knockknock/server.test/counter", &format!("{STORED}\n"));
        let mut ear = Ear::on(&site.net.client, "eth0");
        let target = format!("{HOST}:{PORT}");
        let (syns, output) = heard(&mut ear, || user.knock(&site.net.client, &["-W", &target], ""));
        assert_eq!(output.status.code(), Some(1));
        let text = said(&output);
        assert!(text.contains("still refused after 3 SYNs (3 counters)"), "{text}");
        // The clock and the counter, which is years ahead, take turns.
        let numbers = (STORED..STORED + 2).chain((unix_step() - 2) * 256..(unix_step() + 1) * 256);
        let knocks: HashSet<_> = numbers
            .map(|number| sealed(number, None))
            .map(|fields| (fields.tag, Some(fields.mac)))
            .collect();
        let sent: Vec<_> =
            syns.iter().filter(|syn| knocks.contains(&(syn.sequence(), syn.timestamp()))).collect();
        assert_eq!(sent.len(), 3, "{text}");
        let ports: HashSet<_> = syns.iter().map(Syn::source_port).collect();
        assert_eq!(ports.len(), syns.len(), "no port twice, knocks and connections together");
        assert!(syns.iter().all(|syn| syn.masked() == syns[0].masked()), "{syns:x?}");
    }
}

#[test]
fn the_proxy_knocks_with_it_too() {
    let (site, user) = site(Family::V4, "");
    let client = &site.net.client;
    user.write(".knockknock/server.test/counter", &format!("{STORED}\n"));
    let mut proxy = Running::start(user.command(client, "knock-proxy").arg("1080"));
    proxy.wait_for_line("ready", |line| line.contains("ready on"));
    let mut ear = Ear::on(client, "eth0");
    let mut stream = client.inside(|| TcpStream::connect("127.0.0.1:1080")).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let name = HOST.as_bytes();
    let length = u8::try_from(name.len()).unwrap();
    stream.write_all(&[5, 1, 0]).unwrap();
    let request = [&[5, 1, 0, 3, length], name, &PORT.to_be_bytes()].concat();
    stream.read_exact(&mut [0; 2]).unwrap();
    stream.write_all(&request).unwrap();
    let first = ear.syn();
    assert!(carries(&first, sealed(STORED, None)), "{first:x?}");
    let mut reply = [0; 2];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply, [5, 5], "refused");
}

#[test]
fn a_knock_at_the_asked_port_gets_in_once_behind_a_nat_too() {
    for net in [Net::lan, Net::nat] {
        for family in FAMILIES {
            let (mut site, user) = guarded(net(), family);
            let service = site.net.server.echo(PORT);
            for nth in 1..=3 {
                assert_eq!(site.reach(family, PORT), Reach::Refused);
                let output = user.knock(&site.net.client, &["-p", "2222", HOST], "");
                assert!(output.status.success(), "{}", said(&output));
                wait_until(SOON, "a grant", || site.opened() == nth);
                assert_eq!(site.reach(family, PORT), Reach::Connected);
                wait_until(SOON, "the grant is closed", || site.came_in() == nth);
            }
            assert_eq!(site.reach(family, PORT), Reach::Refused);
            assert_eq!(service.accepted(), 3);
        }
    }
}

#[test]
fn knock_and_connect_gets_in_with_one_knock() {
    for family in FAMILIES {
        let (mut site, user) = guarded(Net::lan(), family);
        let _service = site.net.server.echo(PORT);
        let target = format!("{HOST}:{PORT}");
        let mut ear = Ear::on(&site.net.client, "eth0");
        for nth in 1..=5 {
            let (syns, output) =
                heard(&mut ear, || user.knock(&site.net.client, &["-v", "-W", &target], "ping"));
            let text = said(&output);
            assert_eq!(wrote(&output), "ping", "{text}");
            assert!(text.contains("(SYNs: 1, counters: 1, "), "{text}");
            // Somebody who was refused and tried again; not a burst of attempts.
            assert!((2..=4).contains(&syns.len()), "{text}");
            assert!(carries(&syns[0], sealed(spent(&output), None)));
            wait_until(SOON, "the grant is closed", || site.came_in() == nth);
        }
    }
}

#[test]
fn an_open_port_is_told_of() {
    for family in FAMILIES {
        let (site, user) = site(family, "");
        let service = site.net.server.echo(PORT);
        let output = user.knock(&site.net.client, &["-p", "2222", HOST], "");
        let text = said(&output);
        assert!(text.contains(" ms (accepted: something listens on port 2222)"), "{text}");
        assert_eq!(service.accepted(), 0, "a knock is no connection");
    }
}

#[test]
fn where_there_is_no_source_port_no_counter_is_spent() {
    let (site, user) = site(Family::V4, "");
    let client = &site.net.client;
    // The resolver and the routing table are asked by sockets with a port of their own: these take the other half.
    assert!(set(client, "ipv4/ip_local_port_range", "30000 30001"));
    let held = client.inside(|| {
        [30_000, 30_001].map(|port| std::net::TcpListener::bind(("0.0.0.0", port)).unwrap())
    });
    let mut ear = Ear::on(client, "eth0");
    let (syns, output) = heard(&mut ear, || user.knock(client, &["-p", "2222", HOST], ""));
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let text = said(&output);
    assert!(
        text.contains("no source port for ") && text.contains("no counter was spent"),
        "{text}"
    );
    assert_eq!((syns.len(), stored(&user).as_str()), (0, "1\n"));
    drop(held);
}

#[test]
fn without_fast_open_it_knocks_all_the_same_and_says_what_is_weaker() {
    let (site, user) = site(Family::V4, "");
    let client = &site.net.client;
    assert!(set(client, "ipv4/tcp_fastopen", "0"));
    let mut ear = Ear::on(client, "eth0");
    let (syns, output) = heard(&mut ear, || user.knock(client, &["-p", "2222", HOST], ""));
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(syns.len(), 1);
    let text = said(&output);
    assert!(text.contains("fix: sudo sysctl net.ipv4.tcp_fastopen=1"), "{text}");
    let quiet = user.knock(client, &["-q", "-p", "2222", HOST], "");
    assert_eq!(said(&quiet), "");
}
