//! The door shuts behind the first connection that stands, and nobody who can only send packets in the client's name can
//! shut it before.

use std::net::{SocketAddr, TcpStream};

use crate::connection::{Reach, is_alive};
use crate::kernel_log::{DAEMONS, KernelLog};
use crate::net::{FAMILIES, Family, Net};
use crate::process::{SOON, wait_until};
use crate::site::{HOST, KNOCK_PORT, Log, OTHER_KNOCK_PORT, Site, logs, write_private};
use crate::wire::{Flood, Route, make_knock, make_syn, send_frames};

const PORT: u16 = 2222;
/// Second connections that are tried after each first one; `KNOCKKNOCK_ROUNDS` for a figure.
const SECONDS_TRIED: u32 = 20;

fn rounds(usual: u32) -> u32 {
    std::env::var("KNOCKKNOCK_ROUNDS").map_or(usual, |text| text.parse().unwrap())
}

/// The lines of this site's daemon's own table.
fn of_tag(site: &Site, log: &KernelLog) -> Vec<String> {
    let tag = site.tag();
    log.lines().into_iter().filter(|line| line.contains(&tag)).collect()
}

/// Knocks, connects, and waits until the grant is closed behind that connection, which it returns.
#[track_caller]
fn knock_and_connect(site: &mut Site, family: Family) -> TcpStream {
    let before = site.came_in();
    site.knock(family, PORT);
    let server = site.net.server.address(family);
    let connection = site.net.client.connect(server, PORT, SOON).unwrap();
    wait_until(SOON, "the grant is closed", || site.came_in() > before);
    connection
}

/// Closed by the guard alone, beside no firewall: not a line of ours in anybody's configuration.
fn guarded(log: Log, config: &str) -> Site {
    let mut site = Site::prepare(Net::lan(), log, &format!("allow = tcp/{PORT}\n{config}"));
    site.net.server.run(&["nft", "flush", "ruleset"]);
    site.script(&["--only", &format!("tcp/{PORT}")]);
    site.start_daemon();
    site
}

#[test]
fn the_door_shuts_behind_the_first_connection_that_stands() {
    for log in logs() {
        let mut site = guarded(log, "delay = 600\n");
        let service = site.net.server.echo(PORT);
        for family in FAMILIES {
            assert_eq!(site.reach(family, PORT), Reach::Refused);
            let first = knock_and_connect(&mut site, family);
            for _ in 0..rounds(SECONDS_TRIED) {
                assert_eq!(site.reach(family, PORT), Reach::Refused);
            }
            assert!(is_alive(&first) && site.grants().is_empty());
        }
        assert_eq!(service.accepted(), 2);
        site.wait_for(": closed behind it");
        site.wait_for("(profile \"client\")");
    }
}

#[test]
fn blind_packets_in_the_clients_name_do_not_use_the_grant_up() {
    for family in FAMILIES {
        let mut site = guarded(Log::Kmsg, "delay = 600\n");
        let _service = site.net.server.echo(PORT);
        let (client, server) = (site.net.client.address(family), site.net.server.address(family));
        let route = Route::between(&site.net.other, &site.net.server);
        let frames = (0..2000_u16)
            .map(|nth| {
                let from = SocketAddr::new(client, 1024 + nth);
                make_syn(route, from, SocketAddr::new(server, PORT), 7 * u32::from(nth))
            })
            .collect();
        let flood = Flood::start(&site.net.other, frames);
        for _ in 0..5 {
            knock_and_connect(&mut site, family);
        }
        assert!(flood.stop() > 1000);
        assert_eq!(site.reach(family, PORT), Reach::Refused);
    }
}

#[test]
fn a_grant_for_one_syn_admits_exactly_that_and_a_blind_one_uses_it_up() {
    let mut site = guarded(Log::Kmsg, "delay = 600\nspend = syn\n");
    let _service = site.net.server.echo(PORT);
    site.knock(Family::V4, PORT);
    assert_eq!(site.reach(Family::V4, PORT), Reach::Connected);
    assert_eq!(site.reach(Family::V4, PORT), Reach::Refused);
    site.wait_for("came in at tcp/2222");

    site.knock(Family::V4, PORT);
    let route = Route::between(&site.net.other, &site.net.server);
    let from = SocketAddr::new(site.net.client.ipv4.into(), 5555);
    let to = SocketAddr::new(site.net.server.ipv4.into(), PORT);
    send_frames(&site.net.other, &[make_syn(route, from, to, 99)]);
    wait_until(SOON, "it is used up", || site.grants().is_empty());
    assert_eq!(site.reach(Family::V4, PORT), Reach::Refused);
}

#[test]
fn a_grant_that_nobody_uses_is_told_of() {
    let mut site = guarded(Log::Kmsg, "delay = 1\n");
    site.knock(Family::V4, PORT);
    site.wait_for("tcp/2222 for 10.66.1.2 (profile \"client\"): not used");
}

#[test]
fn as_many_get_in_as_knocked_from_one_address() {
    const PARALLEL: usize = 20;
    let mut site = guarded(Log::Kmsg, "delay = 600\nmax_open_per_source = 64\n");
    let service = site.net.server.echo(PORT);
    let server = site.net.server.ipv4.to_string();
    let config = site.profiles("client").join(HOST).join("config");
    write_private(&config, format!("[main]\nknock_port = {KNOCK_PORT}\naddress = {server}\n"));
    let line = format!(
        "{} -q -p {PORT} --profiles {} {HOST} && nc -z {server} {PORT}",
        env!("CARGO_BIN_EXE_knock"),
        site.profiles("client").display()
    );
    let mut all: Vec<_> = (0..PARALLEL)
        .map(|_| site.net.client.command("sh").args(["-c", &line]).spawn().unwrap())
        .collect();
    let inside =
        all.iter_mut().filter_map(|one| one.wait().unwrap().success().then_some(())).count();
    assert_eq!(inside, PARALLEL, "{:#?}", site.daemon().lines());
    wait_until(SOON, "all of them", || service.accepted() == PARALLEL);
    wait_until(SOON, "the door is shut", || site.grants().is_empty());
    assert_eq!(site.reach(Family::V4, PORT), Reach::Refused);
}

#[test]
fn knocks_are_heard_through_any_flood_and_nothing_else_is_logged() {
    for family in FAMILIES {
        let mut site = guarded(Log::Kmsg, "delay = 600\n");
        let _service = site.net.server.echo(PORT);
        let (client, server) = (site.net.client.address(family), site.net.server.address(family));
        let route = Route::between(&site.net.other, &site.net.server);
        // To the knock port, the service and elsewhere; from anybody and from the client itself.
        let mut frames = Vec::new();
        for nth in 0..3000_u32 {
            let port = [KNOCK_PORT, PORT, OTHER_KNOCK_PORT][nth as usize % 3];
            let source = if nth % 2 == 0 { client } else { site.net.other.address(family) };
            let from = SocketAddr::new(source, 1024 + u16::try_from(nth).unwrap());
            frames.push(make_syn(
                route,
                from,
                SocketAddr::new(server, port),
                nth.wrapping_mul(0x9e37_79b1),
            ));
        }
        let log = KernelLog::of_lines_with(&[DAEMONS]);
        let flood = Flood::start(&site.net.other, frames);
        for _ in 0..5 {
            knock_and_connect(&mut site, family);
        }
        let sent = flood.stop();
        assert!(sent > 1000, "{sent} SYNs are no flood");
        let lines = of_tag(&site, &log);
        // Five knocks and five connections; a flood's number is an expected one by chance only.
        assert!((10..=12).contains(&lines.len()), "{lines:#?}");
        assert!(!site.daemon().lines().iter().any(|line| line.contains("invalid knock")));
    }
}

#[test]
fn a_number_that_is_logged_again_and_again_for_nothing_is_dropped() {
    let mut site = guarded(Log::Kmsg, "delay = 600\n");
    let profile =
        knockknock::profile::Profile::load(&site.profiles("client").join(HOST)).unwrap().0;
    let request = knockknock::layout::Request(PORT);
    let knock =
        knockknock::layout::classic::seal(profile.keys.classic().unwrap(), request, 3).unwrap();
    let route = Route::between(&site.net.other, &site.net.server);
    let addresses = (site.net.other.ipv4.into(), site.net.server.ipv4.into());
    // Its sequence number is a knock's; the rest is altered, each time in another way.
    let frames: Vec<_> = (0..8)
        .map(|nth| {
            let fields = knockknock::syn::SynFields { ack: knock.ack ^ (1 + nth), ..knock };
            make_knock(route, addresses.0, addresses.1, KNOCK_PORT, fields)
        })
        .collect();
    let is_expected = |site: &Site| {
        let set = site.net.server.run(&["nft", "list", "set", "inet", "knockknock", "expected"]);
        set.contains(&knock.seq.to_string())
    };
    assert!(is_expected(&site));
    let log = KernelLog::of_lines_with(&[DAEMONS]);
    send_frames(&site.net.other, &frames);
    wait_until(SOON, "it is dropped", || !is_expected(&site));
    assert!(of_tag(&site, &log).len() <= 8);
    // The client's next knocks are not touched by it.
    site.knock(Family::V4, PORT);
    assert_eq!(site.opened(), 1);
}

#[test]
fn who_silences_the_original_cannot_have_a_copy_read_first() {
    // The thief floods the knock port in the client's name so that a limit would drop its knock, and sends its copy.
    let mut site = guarded(Log::Kmsg, "delay = 600\n");
    let route = Route::between(&site.net.other, &site.net.server);
    let (client, server) = (site.net.client.ipv4, site.net.server.ipv4);
    let to = SocketAddr::new(server.into(), KNOCK_PORT);
    let frames = (0..2000_u16)
        .map(|nth| make_syn(route, SocketAddr::new(client.into(), 1024 + nth), to, u32::from(nth)))
        .collect();
    let flood = Flood::start(&site.net.other, frames);
    let profile =
        knockknock::profile::Profile::load(&site.profiles("client").join(HOST)).unwrap().0;
    for counter in 0..5 {
        site.knock(Family::V4, PORT);
        let fields = knockknock::layout::classic::seal(
            profile.keys.classic().unwrap(),
            knockknock::layout::Request(PORT),
            counter,
        );
        let copy = make_knock(
            route,
            site.net.other.ipv4.into(),
            server.into(),
            KNOCK_PORT,
            fields.unwrap(),
        );
        send_frames(&site.net.other, &[copy]);
    }
    flood.stop();
    assert!(
        !site.daemon().lines().iter().any(|line| line.contains("opened tcp/2222 to 10.66.1.3"))
    );
    assert_eq!(site.opened(), 5);
}

#[test]
fn with_somebody_elses_log_rule_nothing_of_ours_logs_knocks() {
    let mut site =
        Site::start(Net::lan(), Log::Kmsg, "delay = 600\nallow = tcp/2222\nlog_rule = firewall\n");
    let _service = site.net.server.echo(PORT);
    let log = KernelLog::of_lines_with(&[DAEMONS]);
    site.knock(Family::V4, PORT);
    assert_eq!(site.reach(Family::V4, PORT), Reach::Connected);
    wait_until(SOON, "the door is shut", || site.came_in() == 1);
    let lines = of_tag(&site, &log);
    assert_eq!(lines.len(), 1, "the connection alone: {lines:#?}");
}
