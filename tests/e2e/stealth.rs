//! Knocks of the stealth layout, at the server: made here and sent as packets, to the very port that they ask for.

use std::cell::Cell;
use std::fs::{self, DirBuilder};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use knockknock::layout::Request;
use knockknock::layout::stealth::{StealthFields, StealthKeys};
use knockknock::layout::steps::{NUMBERS, STEP, StealthSender, step_of};

use crate::connection::Reach;
use crate::kernel_log::{DAEMONS, KernelLog};
use crate::net::{FAMILIES, Family, Host, Net};
use crate::process::{SOON, wait_until};
use crate::site::{Log, Site, logs, write_private};
use crate::wire::{Ecn, Flood, Route, make_stealth_knock, send_frames};

/// The service behind the door.
const PORT: u16 = 2222;
/// A step of the clock.
const STEP_TIME: Duration = Duration::from_secs(STEP);
/// Long enough for every test.
const CONFIG: &str = "delay = 600\n";
/// With a list of what may be asked for, and without.
const ALLOWS: [&str; 2] = ["", "allow = tcp/22, tcp/2222, tcp/2223\n"];

/// Somebody with a profile of the stealth layout.
struct Laptop {
    keys: StealthKeys,
    sender: Cell<StealthSender>,
    /// Of the next knock: no two have the same.
    source_port: Cell<u16>,
}

impl Laptop {
    /// Gives the server the profile `name`.
    fn new(site: &Site, name: &str, config: &str) -> Self {
        let mut secret = [0; 32];
        secret.iter_mut().zip(name.bytes().cycle()).for_each(|(to, byte)| *to = byte);
        let dir = site.profile(name);
        DirBuilder::new().mode(0o700).create(&dir).unwrap();
        write_private(&dir.join("secret.key"), BASE64_STANDARD.encode(secret) + "\n");
        write_private(&dir.join("config"), format!("[main]\nlayout = stealth\n{config}"));
        write_private(&dir.join("counter"), "0\n");
        Self {
            keys: StealthKeys::new(&secret),
            sender: Cell::new(StealthSender::default()),
            source_port: Cell::new(33_000),
        }
    }

    /// The number of the next knock.
    fn number(&self) -> u64 {
        let mut sender = self.sender.get();
        let n = sender.next(step_now()).unwrap();
        self.sender.set(sender);
        n
    }

    /// The next knock for a port.
    fn seal(&self, port: u16) -> StealthFields {
        self.keys.seal(self.number(), Request(port), None)
    }

    /// A frame with a knock from `host` to `port`.
    fn frame(
        &self,
        site: &Site,
        host: &Host,
        family: Family,
        port: u16,
        knock: StealthFields,
    ) -> Vec<u8> {
        self.source_port.set(self.source_port.get() + 2);
        let from = SocketAddr::new(host.address(family), self.source_port.get());
        let to = SocketAddr::new(site.net.server.address(family), port);
        make_stealth_knock(Route::between(host, &site.net.server), from, to, knock, Ecn::None)
    }

    /// Sends a knock from the client to `port`.
    fn send(&self, site: &Site, family: Family, port: u16, knock: StealthFields) -> Vec<u8> {
        let frame = self.frame(site, &site.net.client, family, port, knock);
        send_frames(&site.net.client, std::slice::from_ref(&frame));
        frame
    }

    /// Knocks for `port`, at that port, and waits until the daemon has opened. The frame.
    #[track_caller]
    fn knock(&self, site: &mut Site, family: Family, port: u16) -> Vec<u8> {
        let before = site.opened();
        let frame = self.send(site, family, port, self.seal(port));
        wait_until(SOON, "a grant", || site.opened() > before);
        frame
    }
}

fn step_now() -> u64 {
    step_of(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
}

/// A server with nobody's firewall, closed by our guard, that has two classic profiles and a stealth one.
fn guarded(log: Log, config: &str) -> (Site, Laptop) {
    let mut site = Site::prepare(Net::lan(), log, config);
    let laptop = Laptop::new(&site, "laptop", "");
    site.net.server.run(&["nft", "flush", "ruleset"]);
    site.script(&["--only", &format!("tcp/{PORT},tcp/22")]);
    site.start_daemon();
    (site, laptop)
}

/// The same with a LOG rule of somebody else's firewall, which closes the server, too.
fn firewalled(log: Log) -> (Site, Laptop) {
    let mut site = Site::prepare(Net::lan(), log, &format!("{CONFIG}log_rule = firewall\n"));
    site.minimal_firewall(&["--knock-port", "22", "--knock-port", &PORT.to_string()]);
    let laptop = Laptop::new(&site, "laptop", "");
    site.start_daemon();
    (site, laptop)
}

/// Each log, with our own rule and with somebody else's.
fn everywhere(mut check: impl FnMut(&mut Site, &Laptop, Family)) {
    for (log, allow) in logs().into_iter().zip(ALLOWS) {
        for (mut site, laptop) in [guarded(log, &format!("{CONFIG}{allow}")), firewalled(log)] {
            for family in FAMILIES {
                check(&mut site, &laptop, family);
            }
        }
    }
}

/// Whether the kernel logs SYNs with this sequence number.
fn is_expected(site: &Site, number: u32) -> bool {
    let set = site.net.server.run(&["nft", "list", "set", "inet", "knockknock", "expected"]);
    set.split([' ', ',', '\n', '\t']).any(|word| word == number.to_string())
}

/// Connects through a grant, which is closed behind that.
#[track_caller]
fn comes_in_once(site: &mut Site, family: Family) {
    let before = site.came_in();
    assert_eq!(site.reach(family, PORT), Reach::Connected);
    wait_until(SOON, "the grant is closed", || site.came_in() > before);
    assert_eq!(site.reach(family, PORT), Reach::Refused);
}

/// Sends a knock that opens, and so shows that what was sent before it has been read.
#[track_caller]
fn a_good_one_opens(site: &mut Site, laptop: &Laptop, family: Family) {
    laptop.knock(site, family, 22);
}

fn count(site: &mut Site, what: &str) -> usize {
    site.daemon().lines().iter().filter(|line| line.contains(what)).count()
}

#[test]
fn a_knock_at_its_own_port_opens_it_once_and_never_again() {
    everywhere(|site, laptop, family| {
        let service = site.net.server.echo(PORT);
        assert_eq!(site.reach(family, PORT), Reach::Refused);
        let frame = laptop.knock(site, family, PORT);
        comes_in_once(site, family);
        // The same again, from the same address and from another.
        let opened = site.opened();
        send_frames(&site.net.client, std::slice::from_ref(&frame));
        send_frames(&site.net.other, std::slice::from_ref(&frame));
        a_good_one_opens(site, laptop, family);
        assert_eq!(site.opened(), opened + 1);
        assert_eq!(site.reach(family, PORT), Reach::Refused);
        assert_eq!(service.accepted(), 1);
        assert_eq!(count(site, "invalid knock"), 0, "{:#?}", site.daemon().lines());
    });
}

#[test]
fn a_used_number_is_used_after_a_restart_too() {
    let (mut site, laptop) = guarded(Log::Kmsg, CONFIG);
    let _service = site.net.server.echo(PORT);
    let frame = laptop.knock(&mut site, Family::V4, PORT);
    comes_in_once(&mut site, Family::V4);
    site.stop_daemon();
    let counter = fs::read_to_string(site.profile("laptop").join("counter")).unwrap();
    assert_eq!(counter, format!("{}\n", laptop.sender.get().counter));
    site.start_daemon();
    send_frames(&site.net.client, &[frame]);
    a_good_one_opens(&mut site, &laptop, Family::V4);
    assert_eq!(site.opened(), 1);
    assert_eq!(site.reach(Family::V4, PORT), Reach::Refused);
}

#[test]
fn a_thousand_lost_knocks_are_made_good_by_the_clock() {
    let (mut site, laptop) = guarded(Log::Kmsg, CONFIG);
    let _service = site.net.server.echo(PORT);
    // They were sent in the last forty seconds.
    let mut sender = laptop.sender.get();
    let began = step_now() - 4;
    (0..1000).for_each(|_| assert!(sender.next(began).is_some()));
    laptop.sender.set(sender);
    laptop.knock(&mut site, Family::V4, PORT);
    comes_in_once(&mut site, Family::V4);

    // More than the window has, in one step: the next ones are not heard,
    let step = step_now();
    (0..NUMBERS + 4).for_each(|_| assert!(laptop.number() > 0));
    laptop.send(&site, Family::V4, PORT, laptop.seal(PORT));
    site.knock(Family::V4, 2223);
    assert_eq!(site.reach(Family::V4, PORT), Reach::Refused);
    // until the clock has passed what was used.
    wait_until(3 * STEP_TIME, "the step after the next", || step_now() > step + 1);
    laptop.knock(&mut site, Family::V4, PORT);
    comes_in_once(&mut site, Family::V4);
}

#[test]
fn a_syn_that_asks_for_ecn_is_a_knock_too() {
    let (mut site, laptop) = guarded(Log::Kmsg, CONFIG);
    let _service = site.net.server.echo(PORT);
    for (family, ecn) in
        FAMILIES.into_iter().flat_map(|family| [Ecn::Asked, Ecn::Accurate].map(|ecn| (family, ecn)))
    {
        let before = site.opened();
        let to = SocketAddr::new(site.net.server.address(family), PORT);
        let from = SocketAddr::new(site.net.client.address(family), 33_001);
        let route = Route::between(&site.net.client, &site.net.server);
        let frame = make_stealth_knock(route, from, to, laptop.seal(PORT), ecn);
        send_frames(&site.net.client, &[frame]);
        wait_until(SOON, &format!("a grant for {ecn:?}"), || site.opened() > before);
        comes_in_once(&mut site, family);
    }
}

#[test]
fn a_bound_knock_is_good_from_its_own_address_alone() {
    let mut site = Site::prepare(Net::lan(), Log::Kmsg, CONFIG);
    let laptop = Laptop::new(&site, "laptop", "bind_source = true\n");
    site.start_daemon();
    let _service = site.net.server.echo(PORT);
    for family in FAMILIES {
        let bound_to = Some(site.net.client.address(family));
        let knock = laptop.keys.seal(laptop.number(), Request(PORT), bound_to);
        let unbound = laptop.keys.seal(laptop.number(), Request(PORT), None);
        let stolen = laptop.frame(&site, &site.net.other, family, PORT, knock);
        send_frames(&site.net.other, &[stolen]);
        laptop.send(&site, family, PORT, unbound);
        site.wait_for("invalid knock");
        assert_eq!(
            site.net.other.can_connect(site.net.server.address(family), PORT, SOON),
            Reach::Refused
        );
        // It was not used up by that.
        let before = site.opened();
        laptop.send(&site, family, PORT, knock);
        wait_until(SOON, "a grant", || site.opened() > before);
        comes_in_once(&mut site, family);
        assert_eq!(site.opened(), before + 1);
    }
    let told = site.wait_for("invalid knock");
    assert!(told.contains("\"laptop\"") && told.contains("10.66.1.3"), "{told}");
}

#[test]
fn a_number_that_somebody_guesses_at_is_burnt_and_no_other() {
    let (mut site, laptop) = guarded(Log::Kmsg, CONFIG);
    let held_back = laptop.seal(PORT);
    let tag = held_back.tag;
    assert!(is_expected(&site, tag));
    // Seven are not enough.
    let guess = |nth: u32| StealthFields { tag, mac: held_back.mac ^ (1 << nth) };
    for nth in 0..7 {
        laptop.send(&site, Family::V4, PORT, guess(nth));
    }
    site.knock(Family::V4, 2223);
    assert!(is_expected(&site, tag));
    laptop.send(&site, Family::V4, PORT, guess(7));
    wait_until(SOON, "the number is burnt", || !is_expected(&site, tag));
    let opened = site.opened();
    laptop.send(&site, Family::V4, PORT, held_back);
    laptop.knock(&mut site, Family::V4, 2223);
    assert_eq!(site.opened(), opened + 1);
}

#[test]
fn a_burnt_number_stays_burnt_where_somebody_elses_firewall_logs_it() {
    let (mut site, laptop) = firewalled(Log::Kmsg);
    let held_back = laptop.seal(PORT);
    for nth in 0..8 {
        let wrong = StealthFields { mac: held_back.mac ^ (1 << nth), ..held_back };
        laptop.send(&site, Family::V4, PORT, wrong);
    }
    laptop.send(&site, Family::V4, PORT, held_back);
    laptop.knock(&mut site, Family::V4, 22);
    assert_eq!(site.opened(), 1);
    let told = site.wait_for("invalid knock");
    assert!(told.contains("profile \"laptop\": 1 invalid knock from 10.66.1.2"), "{told}");
}

#[test]
fn classic_and_stealth_open_the_same_port_for_the_same_address() {
    for (log, allow) in logs().into_iter().zip(ALLOWS) {
        let (mut site, laptop) = guarded(log, &format!("{CONFIG}{allow}"));
        let phone = Laptop::new(&site, "phone", "");
        site.stop_daemon();
        site.start_daemon();
        let _service = site.net.server.echo(PORT);
        for family in FAMILIES {
            site.knock(family, PORT);
            comes_in_once(&mut site, family);
            for mine in [&laptop, &phone] {
                mine.knock(&mut site, family, PORT);
                comes_in_once(&mut site, family);
            }
            // One from each at the same time: two may come in.
            let before = site.came_in();
            site.knock(family, PORT);
            laptop.knock(&mut site, family, PORT);
            for _ in 0..2 {
                assert_eq!(site.reach(family, PORT), Reach::Connected);
            }
            wait_until(SOON, "the grant is closed", || site.came_in() > before);
            assert_eq!(site.reach(family, PORT), Reach::Refused);
        }
        for name in ["client", "laptop", "phone"] {
            assert!(count(&mut site, &format!("s (profile \"{name}\")")) > 0);
        }
    }
}

#[test]
fn a_knock_may_go_to_another_port_where_the_profile_says_so() {
    let mut site = Site::prepare(Net::lan(), Log::Kmsg, &format!("{CONFIG}allow = tcp/2222\n"));
    let laptop = Laptop::new(&site, "laptop", "knock_port = 443\nport = 2222\n");
    site.start_daemon();
    let _service = site.net.server.echo(PORT);
    for asked in [PORT, 0] {
        let before = site.opened();
        laptop.send(&site, Family::V4, 443, laptop.seal(asked));
        wait_until(SOON, "a grant", || site.opened() > before);
        comes_in_once(&mut site, Family::V4);
    }
    laptop.send(&site, Family::V4, PORT, laptop.seal(0));
    wait_until(SOON, "a grant", || site.opened() > 2);
    // What is not allowed is not opened, and the number is used up.
    let denied = laptop.send(&site, Family::V4, 443, laptop.seal(443));
    site.wait_for("refused 10.66.1.2 (profile \"laptop\"): tcp/443 is not among");
    send_frames(&site.net.client, &[denied]);
    laptop.knock(&mut site, Family::V6, PORT);
    assert_eq!(count(&mut site, "refused 10.66.1.2"), 1);
}

#[test]
fn a_flood_to_all_ports_keeps_no_knock_from_opening_and_logs_nothing() {
    const KNOCKS: usize = 20;
    let (mut site, laptop) = guarded(Log::Kmsg, CONFIG);
    let log = KernelLog::of_lines_with(&[DAEMONS]);
    let tag = site.tag();
    let lines = |log: &KernelLog| log.count(&format!("KNOCK {tag}"));
    let flood = Flood::start(&site.net.other, junk(&site));
    let began = Instant::now();
    for nth in 0..KNOCKS {
        laptop.knock(&mut site, FAMILIES[nth % 2], 22);
    }
    wait_until(SOON, "two seconds of it", || began.elapsed() > Duration::from_secs(2));
    let seconds = began.elapsed().as_secs();
    let sent = flood.stop();
    assert!(sent > 20_000, "{sent} SYNs in {seconds} s are no flood");
    // Once in two hundred runs one of them has a live tag by chance: it is logged until that is burnt.
    assert!((KNOCKS..=KNOCKS + 8).contains(&lines(&log)), "{} lines", lines(&log));
    assert_eq!(site.opened(), KNOCKS);
}

/// SYNs to all kinds of ports with all kinds of sequence numbers and options, from everywhere and in the client's name.
fn junk(site: &Site) -> Vec<Vec<u8>> {
    let route = Route::between(&site.net.other, &site.net.server);
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let half = |shift: u32| u16::try_from(random >> shift & 0xffff).unwrap();
        (u32::try_from(random >> 32).unwrap(), half(32), half(16), half(0))
    };
    let client: IpAddr = site.net.client.ipv4.into();
    (0..20_000)
        .map(|nth| {
            let ((tag, host, port, any), (mac, ..)) = (next(), next());
            let [high, low] = host.to_be_bytes();
            let source = if nth % 2 == 0 { client } else { [10, 66, high, low].into() };
            let from = SocketAddr::new(source, port | 1024);
            let port = if nth % 4 < 2 { 22 } else { any };
            let to = SocketAddr::new(site.net.server.ipv4.into(), port);
            make_stealth_knock(route, from, to, StealthFields { tag, mac }, Ecn::None)
        })
        .collect()
}

#[test]
fn where_nothing_tells_of_handshakes_stealth_is_left_out_and_the_others_work() {
    for config in ["spend = syn\n", "firewall = nftables\n"] {
        let mut site = Site::prepare(Net::lan(), Log::Kmsg, config);
        Laptop::new(&site, "laptop", "");
        site.start_daemon();
        let told = site.wait_for("a profile is left out: ");
        assert!(told.contains("laptop/config\": a grant must end with a handshake"), "{told}");
        site.wait_for("fix: spend = handshake and firewall = conntrack");
        let _service = site.net.server.echo(PORT);
        site.knock(Family::V4, PORT);
        assert_eq!(site.reach(Family::V4, PORT), Reach::Connected);
    }
}

#[test]
fn a_broken_stealth_profile_is_left_out_and_the_others_work() {
    let mut site = Site::prepare(Net::lan(), Log::Kmsg, CONFIG);
    let laptop = Laptop::new(&site, "laptop", "");
    for (name, file, content) in [
        ("cut", "secret.key", "HoCD3Bo5mY7I\n"),
        ("empty", "counter", ""),
        ("sender", "counter", "1 2 1\n"),
        ("wide", "counter", "18446744073709551616\n"),
        ("list", "config", "[main]\nlayout = stealth\nallow = ssh\n"),
    ] {
        Laptop::new(&site, name, "");
        write_private(&site.profile(name).join(file), content);
    }
    Laptop::new(&site, "gone", "");
    fs::remove_file(site.profile("gone").join("counter")).unwrap();
    site.start_daemon();
    for name in [
        "cut/secret.key",
        "empty/counter",
        "sender/counter",
        "wide/counter",
        "list/config",
        "gone/counter",
    ] {
        let left_out = |line: &str| line.contains("a profile is left out") && line.contains(name);
        site.daemon().wait_for_line(name, left_out);
    }
    assert_eq!(count(&mut site, "a profile is left out"), 6);
    assert!(!site.profile("gone").join("counter").exists());
    let _service = site.net.server.echo(PORT);
    laptop.knock(&mut site, Family::V4, PORT);
    comes_in_once(&mut site, Family::V4);
}

#[test]
fn check_names_the_layout_and_what_the_clock_means_to_it() {
    let site = Site::prepare(Net::lan(), Log::Kmsg, "allow = tcp/2222\n");
    Laptop::new(&site, "laptop", "");
    Laptop::new(&site, "phone", "knock_port = 443\n");
    let said = |site: &Site| {
        let output = site.daemon_command().arg("--check").output().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let text = said(&site);
    for line in [
        "\"client\" (classic) knocks on port 666 and can open tcp/2222\n",
        "\"laptop\" (stealth) knocks on the port that it asks for and can open tcp/2222\n",
        "\"phone\" (stealth) knocks on port 443 and can open tcp/2222\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
    assert!(
        text.contains("\nclock     synchronised\n")
            || text.contains("a stealth knock is heard by its counter alone"),
        "{text}"
    );
    let config = fs::read_to_string(site.config_dir().join("config")).unwrap();
    fs::write(site.config_dir().join("config"), config + "spend = syn\n").unwrap();
    let text = said(&site);
    assert!(
        text.contains("a profile is left out: ")
            && text.contains("a grant must end with a handshake"),
        "{text}"
    );
}
