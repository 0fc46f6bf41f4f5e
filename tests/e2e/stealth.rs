//! Knocks of the stealth layout, at the server: to the very port that they ask for, once, and from whom they are bound to.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use knockknock::layout::Request;
use knockknock::layout::stealth::StealthFields;
use knockknock::layout::steps::{NUMBERS, STEP};

use crate::connection::Reach;
use crate::kernel_log::{DAEMONS, KernelLog};
use crate::laptop::{
    CONFIG, Laptop, PORT, comes_in_once, count, everywhere, firewalled, guarded, step_now,
};
use crate::net::{FAMILIES, Family, Net};
use crate::process::{SOON, wait_until};
use crate::site::{Log, Site};
use crate::wire::{Ecn, Flood, Route, make_stealth_knock, send_frames};

/// A step of the clock.
const STEP_TIME: Duration = Duration::from_secs(STEP);

/// Whether the kernel logs SYNs with this sequence number.
fn is_expected(site: &Site, number: u32) -> bool {
    let set = site.net.server.run(&["nft", "list", "set", "inet", "knockknock", "expected"]);
    set.split([' ', ',', '\n', '\t']).any(|word| word == number.to_string())
}

/// Sends a knock that opens, and so shows that what was sent before it has been read.
#[track_caller]
fn a_good_one_opens(site: &mut Site, laptop: &Laptop, family: Family) {
    laptop.knock(site, family, 22);
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
