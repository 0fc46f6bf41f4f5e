//! Junk from another host as fast as this machine makes it, while somebody knocks.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::connection::Reach;
use crate::cost::{Memory, Processes};
use crate::net::{FAMILIES, Family, Net};
use crate::process::{SOON, wait_until};
use crate::site::{KNOCK_PORT, LOGGED_A_SECOND, LOGGED_AT_ONCE, Log, Site, logs};
use crate::wire::{Flood, Route, make_syn};

/// The service behind the door.
const PORT: u16 = 2222;
/// How often `knock -W` knocks before it gives up.
const TRIES: usize = 3;
/// More than any line of a SYN without options has, in bytes.
const LONGEST_LINE: u64 = 400;
/// What memory may move by where nothing keeps anything, in KiB: a few pages.
const FLAT: u64 = 128;

#[test]
fn a_knock_gets_in_through_a_flood_and_memory_log_and_reports_stay_small() {
    for log in logs() {
        let mut site = Site::start(Net::lan(), log, "delay = 600\n");
        let _service = site.net.server.echo(PORT);
        let daemon = Processes::of(site.daemon().pid()).daemon;
        let began = Instant::now();

        let flood = Flood::start(&site.net.other, junk(&site));
        site.wait_for("invalid knock");
        for family in FAMILIES {
            assert!(knocks_until_open(&mut site, family) <= TRIES);
            assert_eq!(site.reach(family, PORT), Reach::Connected);
        }
        // Every kind of line has been read by now: whatever comes next is more of the same.
        let before = Memory::of(daemon).rss;
        let heard = Instant::now();
        wait_until(SOON, "two more seconds of it", || heard.elapsed() > Duration::from_secs(2));
        let after = Memory::of(daemon).rss;
        let sent = flood.stop();
        let seconds = began.elapsed().as_secs() + 1;
        assert!(sent > 20_000, "{sent} SYNs are no flood");
        assert!(after <= before + FLAT, "{log:?}: {before} KiB, {after} KiB after {sent} SYNs");

        let other = site.net.other.ipv4.to_string();
        let lines = site.daemon().lines();
        let told: Vec<_> = lines.iter().filter(|line| line.contains("invalid knock")).collect();
        assert!(told[0].contains("\"client\"") && told[0].contains(&other), "{told:#?}");
        let most = 1 + seconds / 60;
        assert!(told.len() <= usize::try_from(most).unwrap(), "in {seconds} s: {told:#?}");

        if let Log::File(_) = log {
            let size = fs::metadata(&site.rsyslog().kern_log).unwrap().len();
            // The flood's source and the client; each family is limited by itself.
            let most = 4 * (LOGGED_AT_ONCE + seconds * LOGGED_A_SECOND) * LONGEST_LINE;
            assert!(size <= most, "{size} bytes of log for {sent} SYNs in {seconds} s");
        }
    }
}

/// SYNs to the knock port and to ports where nothing listens, from the other host's own address.
fn junk(site: &Site) -> Vec<Vec<u8>> {
    let route = Route::between(&site.net.other, &site.net.server);
    let mut frames = Vec::new();
    for nth in 0..1000_u16 {
        let from = SocketAddr::new(site.net.other.ipv4.into(), 40_000 + nth);
        for port in [KNOCK_PORT, 10_000 + nth] {
            let to = SocketAddr::new(site.net.server.ipv4.into(), port);
            frames.push(make_syn(route, from, to, 1 + u32::from(nth)));
        }
    }
    frames
}

/// Knocks as `knock -W` does, which knocks again when nothing has opened for a second. How many it took.
fn knocks_until_open(site: &mut Site, family: Family) -> usize {
    let before = site.opened();
    for nth in 1..=TRIES {
        site.send_knock(family, PORT);
        let sent = Instant::now();
        while sent.elapsed() < Duration::from_secs(1) || nth == TRIES && sent.elapsed() < SOON {
            if site.opened() > before {
                return nth;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    panic!("{family:?}: nothing opened after {TRIES} knocks; {:#?}", site.daemon().lines());
}
