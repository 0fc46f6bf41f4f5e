//! One SYN opens one port for one connection: the whole path, both families, both kinds of log.

use std::time::Duration;

use crate::connection::{Reach, is_alive};
use crate::net::{FAMILIES, Family, Net};
use crate::process::{SOON, wait_until};
use crate::site::{HOST, KNOCK_PORT, Log, Site, everywhere, logs, write_private};
use crate::wire::{Tap, send_frames};

/// The service behind the door.
const PORT: u16 = 2222;

#[test]
fn a_knock_lets_one_connection_in_and_no_second() {
    everywhere("delay = 600\n", |site, family| {
        let service = site.net.server.echo(PORT);
        assert_eq!(site.reach(family, PORT), Reach::Refused, "closed before");
        site.knock(family, PORT);
        let server = site.net.server.address(family);
        let before = site.came_in();
        let first = site.net.client.connect(server, PORT, SOON).expect("open after one knock");
        wait_until(SOON, "the door is shut behind it", || site.came_in() > before);
        assert!(is_alive(&first));
        assert_eq!(site.reach(family, PORT), Reach::Refused, "a second connection");
        assert!(is_alive(&first), "the first connection goes on");
        assert_eq!(service.accepted(), 1);
        let [on_server, on_client] = site.counters("client");
        assert_eq!(on_server, on_client);
    });
}

#[test]
fn the_port_closes_by_itself_after_the_delay() {
    for log in logs() {
        let mut site = Site::start(Net::lan(), log, "delay = 2\n");
        let _service = site.net.server.echo(PORT);
        for family in FAMILIES {
            site.knock(family, PORT);
            assert_eq!(site.grants().len(), 1);
            site.wait_until_shut(Duration::from_secs(3));
            assert_eq!(site.reach(family, PORT), Reach::Refused);
        }
    }
}

#[test]
fn the_same_packet_sent_again_opens_nothing() {
    everywhere("delay = 600\n", |site, family| {
        let _service = site.net.server.echo(PORT);
        let mut tap = Tap::on(&site.net.server);
        site.knock(family, PORT);
        let knock = tap.wait_for_syn(KNOCK_PORT);
        assert_eq!(tap.syns_to(KNOCK_PORT, Duration::from_millis(50)).len(), 0, "exactly one SYN");
        let before = site.came_in();
        assert_eq!(site.reach(family, PORT), Reach::Connected);
        wait_until(SOON, "the door is shut behind it", || site.came_in() > before);

        let counters = site.counters("client");
        let opened = site.opened();
        send_frames(&site.net.client, std::slice::from_ref(&knock.frame));
        // A knock that comes after the replay has been read after it, too.
        site.knock(family, PORT + 1);
        assert_eq!(site.opened(), opened + 1, "only the fresh knock opened something");
        assert_eq!(site.reach(family, PORT), Reach::Refused);
        assert_ne!(site.counters("client"), counters);
        assert_eq!(site.reach(family, PORT + 1), Reach::Refused, "nobody listens there");
    });
}

#[test]
fn a_knock_from_one_address_opens_nothing_for_another() {
    everywhere("delay = 600\n", |site, family| {
        let _service = site.net.server.echo(PORT);
        site.knock(family, PORT);
        let server = site.net.server.address(family);
        assert_eq!(site.net.other.can_connect(server, PORT, SOON), Reach::Refused);
        assert_eq!(site.reach(family, PORT), Reach::Connected, "the grant is still the client's");
    });
}

#[test]
fn two_people_knock_at_once_and_each_gets_in() {
    everywhere("delay = 600\n", |site, family| {
        let _service = site.net.server.echo(PORT);
        let before = site.opened();
        let mut both = [("client", &site.net.client), ("other", &site.net.other)]
            .map(|(name, host)| site.knock_command(host, name, family, PORT).spawn().unwrap());
        assert!(both.iter_mut().all(|knock| knock.wait().unwrap().success()));
        wait_until(SOON, "two grants", || site.opened() == before + 2);
        let server = site.net.server.address(family);
        assert_eq!(site.net.other.can_connect(server, PORT, SOON), Reach::Connected);
        assert_eq!(site.reach(family, PORT), Reach::Connected);
    });
}

#[test]
fn lost_knocks_within_the_window_do_no_harm_and_beyond_it_the_second_one_opens() {
    for (lost, gets_in) in [(19, true), (25, false)] {
        let mut site = Site::start(Net::lan(), Log::Kmsg, "delay = 600\n");
        let _service = site.net.server.echo(PORT);
        site.net.server.nft(
            "table inet loss { chain in { type filter hook prerouting priority -400; tcp dport 666 drop; }; }",
        );
        let mut tap = Tap::on(&site.net.server);
        for _ in 0..lost {
            site.send_knock(Family::V4, PORT);
        }
        assert_eq!(tap.syns_to(KNOCK_PORT, Duration::from_millis(100)).len(), lost);
        site.net.server.run(&["nft", "delete", "table", "inet", "loss"]);
        assert_eq!(site.counters("client"), ["0".to_owned(), lost.to_string()]);

        if gets_in {
            site.knock(Family::V4, PORT);
            assert_eq!(site.reach(Family::V4, PORT), Reach::Connected);
            assert_eq!(site.counters("client"), ["20", "20"]);
        } else {
            site.send_knock(Family::V4, PORT);
            site.wait_for("right keys, 25 ahead: the next knock will be believed");
            assert_eq!(site.reach(Family::V4, PORT), Reach::Refused);
            assert_eq!(
                site.counters("client"),
                ["0", "26"],
                "nothing moves by a knock beyond the window"
            );

            // The way out takes nobody's hand.
            site.knock(Family::V4, PORT);
            assert_eq!(site.reach(Family::V4, PORT), Reach::Connected);
        }
    }
}

#[test]
fn a_scan_of_every_port_does_not_silence_a_knock() {
    everywhere("delay = 600\n", |site, family| {
        let _service = site.net.server.echo(PORT);
        let server = site.net.server.address(family).to_string();
        let mut scan =
            vec!["-n", "-Pn", "-sS", "-p1-65535", "--min-rate", "20000", "--max-retries", "0"];
        if family == Family::V6 {
            scan.push("-6");
        }
        scan.push(&server);
        let mut tap = Tap::on(&site.net.server);
        let mut scan = site
            .net
            .other
            .command("nmap")
            .args(scan)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // One of those that it takes first.
        tap.wait_for_syn(80);
        site.knock(family, PORT);
        assert_eq!(site.reach(family, PORT), Reach::Connected);
        assert!(scan.try_wait().unwrap().is_none(), "the scan was over before");
        scan.kill().unwrap();
        scan.wait().unwrap();
    });
}

#[test]
fn no_socket_of_ours_is_seen_on_the_server() {
    let mut site = Site::start(Net::lan(), Log::Kmsg, "delay = 600\n");
    site.knock(Family::V4, PORT);
    for what in ["-lntup", "-0np", "-wnp"] {
        let listed = site.net.server.run(&["ss", "-H", what]);
        assert_eq!(listed.trim(), "", "ss {what}");
    }
}

#[test]
fn the_original_s_profile_opens_the_door_on_both_ends() {
    let vectors =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/classic.json");
    let vectors: serde_json::Value =
        serde_json::from_slice(&std::fs::read(vectors).unwrap()).unwrap();
    let vector = vectors.as_array().unwrap().iter().find(|one| one["counter"] == 929).unwrap();
    let files = vector["profile_files"].as_object().unwrap();
    let mut site = Site::prepare(Net::lan(), Log::Kmsg, "");
    for dir in [site.profile("client"), site.profiles("client").join(HOST)] {
        for (name, content) in files {
            write_private(&dir.join(name), content.as_str().unwrap());
        }
        write_private(&dir.join("counter"), format!("{}\n", vector["counter"]));
    }
    let knock_port = vector["knock_port"].as_u64().unwrap();
    site.minimal_firewall(&[]);
    site.start_daemon();
    let _service = site.net.server.echo(PORT);

    // The client's config is the original's too, so its host is found by another way: a hosts file of its own would
    // be the machine's, so the profile is called by the server's address.
    let address = site.net.server.ipv4.to_string();
    let here = site.profiles("client");
    std::fs::rename(here.join(HOST), here.join(&address)).unwrap();
    let mut knock = site.net.client.command(env!("CARGO_BIN_EXE_knock"));
    let mut tap = Tap::on(&site.net.server);
    let output = knock
        .args(["-p", &PORT.to_string(), "--profiles"])
        .arg(&here)
        .arg(&address)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    tap.wait_for_syn(knock_port.try_into().unwrap());
    site.wait_for(": opened tcp/2222");
    assert_eq!(site.reach(Family::V4, PORT), Reach::Connected);
    let counter = |dir: std::path::PathBuf| std::fs::read_to_string(dir.join("counter")).unwrap();
    assert_eq!(counter(site.profile("client")), "930\n");
    assert_eq!(counter(here.join(&address)), "930\n");
}
