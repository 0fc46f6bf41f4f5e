//! Knocks that were lost lock nobody out, and what gets a client back in lets nobody else in.

use std::fs;

use knockknock::layout::Request;
use knockknock::layout::classic::seal;
use knockknock::layout::receiver::FAR;
use knockknock::profile::Profile;
use knockknock::syn::SynFields;

use crate::connection::Reach;
use crate::net::{Family, Host, Net};
use crate::process::{SOON, wait_until};
use crate::site::{HOST, KNOCK_PORT, Log, Site, everywhere, write_private};
use crate::wire::{Route, SynFrame, Tap, make_knock, send_frames};

const PORT: u16 = 2222;
const CONFIG: &str = "delay = 600\n";

/// Makes the client spend counters on knocks that the daemon never hears of.
fn lose(site: &Site, knocks: u32) {
    let counter = site.profiles("client").join(HOST).join("counter");
    let spent: u32 = fs::read_to_string(&counter).unwrap().trim().parse().unwrap();
    write_private(&counter, format!("{}\n", spent + knocks));
}

/// Knocks as the client, and keeps the frame.
fn captured(site: &Site, tap: &mut Tap) -> SynFrame {
    site.send_knock(Family::V4, PORT);
    tap.wait_for_syn(KNOCK_PORT)
}

/// Sends a knock out of `host` with a source of its choice.
fn forge(site: &Site, host: &Host, source: [u8; 4], fields: SynFields) {
    let route = Route::between(host, &site.net.server);
    let frame = make_knock(route, source.into(), site.net.server.ipv4.into(), KNOCK_PORT, fields);
    send_frames(host, &[frame]);
}

fn count(site: &mut Site, what: &str) -> usize {
    site.daemon().lines().iter().filter(|line| line.contains(what)).count()
}

#[test]
fn after_an_outage_the_second_knock_opens() {
    let mut site = Site::start(Net::lan(), Log::Kmsg, CONFIG);
    let _service = site.net.server.echo(PORT);
    site.stop_daemon();
    for _ in 0..40 {
        site.send_knock(Family::V4, PORT);
    }
    site.start_daemon();
    site.send_knock(Family::V4, PORT);
    site.wait_for("profile \"client\": right keys, 40 ahead: the next knock will be believed");
    assert_eq!(site.reach(Family::V4, PORT), Reach::Refused);
    assert_eq!(site.counters("client")[0], "0", "nothing has moved");
    site.knock(Family::V4, PORT);
    assert_eq!(site.reach(Family::V4, PORT), Reach::Connected);
    assert_eq!(site.counters("client"), ["42", "42"]);
    // And from here on as ever.
    site.knock(Family::V6, PORT);
    assert_eq!(count(&mut site, "invalid knock"), 0);
}

#[test]
fn five_hundred_lost_knocks_then_two_good_ones_are_in() {
    everywhere(CONFIG, |site, family| {
        let _service = site.net.server.echo(PORT);
        lose(site, 500);
        site.send_knock(family, PORT);
        site.wait_for("ahead: the next knock will be believed");
        // Up to nineteen more may be lost between the two.
        lose(site, 18);
        site.knock(family, PORT);
        assert_eq!(site.reach(family, PORT), Reach::Connected);
    });
}

#[test]
fn beyond_the_far_look_no_knock_is_believed() {
    let mut site = Site::start(Net::lan(), Log::Kmsg, CONFIG);
    lose(&site, FAR);
    site.send_knock(Family::V4, PORT);
    site.wait_for(
        "1 invalid knock from 10.66.1.2: no key matches (another profile, or altered in transit)",
    );
    site.send_knock(Family::V4, PORT);
    lose_back(&site);
    site.knock(Family::V4, PORT);
    assert_eq!((site.opened(), count(&mut site, "believed")), (1, 0));
}

/// The client's counter as the server has it.
fn lose_back(site: &Site) {
    let [server, _] = site.counters("client");
    write_private(&site.profiles("client").join(HOST).join("counter"), format!("{server}\n"));
}

#[test]
fn replays_and_two_knocks_in_the_wrong_order_open_nothing() {
    let mut site = Site::start(Net::lan(), Log::Kmsg, CONFIG);
    site.stop_daemon();
    lose(&site, 100);
    let mut tap = Tap::on(&site.net.server);
    let [first, second, third] = [0; 3].map(|_| captured(&site, &mut tap));
    site.start_daemon();
    // A thief who has them all: the later one, then the earlier one, each again and again.
    for frame in [&third, &second, &third, &second, &third] {
        send_frames(&site.net.other, std::slice::from_ref(&frame.frame));
    }
    site.wait_for("right keys, 102 ahead");
    site.wait_for("right keys, 101 ahead");
    // The client goes on, and is believed.
    site.knock(Family::V4, PORT);
    assert_eq!(site.counters("client"), ["104", "104"]);
    // Nothing of before opens any more, in any order.
    for frame in [&first, &second, &third, &first] {
        send_frames(&site.net.other, std::slice::from_ref(&frame.frame));
    }
    site.knock(Family::V6, PORT);
    assert_eq!(site.opened(), 2, "{:#?}", site.daemon().lines());
}

#[test]
fn a_knock_that_comes_again_is_no_wrong_knock_and_a_replay_is_one() {
    let mut site = Site::start(Net::lan(), Log::Kmsg, CONFIG);
    let mut tap = Tap::on(&site.net.server);
    let knock = captured(&site, &mut tap);
    site.wait_for(": opened ");
    // The client sends the same packet again, before and after the door has opened.
    let again = vec![knock.frame.clone(); 5];
    send_frames(&site.net.client, &again);
    site.knock(Family::V6, PORT);
    assert_eq!(count(&mut site, "invalid knock"), 0, "{:#?}", site.daemon().lines());

    // From another address it is what it is.
    let at_other = Profile::load(&site.profiles("client").join(HOST)).unwrap().0;
    let fields = seal(at_other.keys.classic().unwrap(), Request(PORT), 0).unwrap();
    forge(&site, &site.net.other, [10, 66, 1, 3], fields);
    site.wait_for("1 invalid knock (1 replayed) from 10.66.1.3");
    assert_eq!(site.opened(), 2);
}

#[test]
fn two_profiles_share_a_knock_port_and_the_mac_says_which() {
    let mut site = Site::prepare(Net::lan(), Log::Kmsg, CONFIG);
    write_private(
        &site.profile("other").join("config"),
        format!("[main]\nknock_port = {KNOCK_PORT}\n"),
    );
    site.start_daemon();
    let _service = site.net.server.echo(PORT);
    site.knock(Family::V4, PORT);
    assert_eq!(site.reach(Family::V4, PORT), Reach::Connected);

    let other = site.profiles("other").join(HOST);
    write_private(
        &other.join("config"),
        format!("[main]\nknock_port = {KNOCK_PORT}\naddress = \"{}\"\n", site.net.server.ipv4),
    );
    let mut command = site.net.other.command(env!("CARGO_BIN_EXE_knock"));
    command.args(["-p", &PORT.to_string(), "--profiles"]).arg(site.profiles("other")).arg(HOST);
    assert!(command.status().unwrap().success());
    site.wait_for("to 10.66.1.3 for 600 s (profile \"other\")");
    let reached = site.net.other.can_connect(site.net.server.ipv4.into(), PORT, SOON);
    assert_eq!(reached, Reach::Connected);
    assert_eq!(
        (site.counters("client")[0].as_str(), site.counters("other")[0].as_str()),
        ("1", "1")
    );
}

#[test]
fn one_profile_cannot_use_up_what_all_have() {
    let config =
        format!("{CONFIG}max_open = 8\nmax_open_per_source = 8\nmax_open_per_profile = 3\n");
    let mut site = Site::start(Net::lan(), Log::Kmsg, &config);
    let keys = Profile::load(&site.profiles("client").join(HOST)).unwrap().0.keys;
    for counter in 0..5 {
        let fields = seal(keys.classic().unwrap(), Request(PORT), counter).unwrap();
        let source = [10, 66, 1, 100 + u8::try_from(counter).unwrap()];
        forge(&site, &site.net.other, source, fields);
    }
    let full = "(profile \"client\"): the profile has as many grants open as `max_open_per_profile` allows";
    wait_until(SOON, "two refusals", || count(&mut site, full) == 2);
    assert_eq!(site.opened(), 3);
    let config = site.profiles("other").join(HOST).join("config");
    let address = site.net.server.ipv4;
    write_private(&config, format!("[main]\nknock_port = 667\naddress = \"{address}\"\n"));
    let mut command = site.net.other.command(env!("CARGO_BIN_EXE_knock"));
    command.args(["-p", &PORT.to_string(), "--profiles"]).arg(site.profiles("other")).arg(HOST);
    assert!(command.status().unwrap().success());
    site.wait_for("(profile \"other\")");
    assert_eq!(site.opened(), 4);
}
