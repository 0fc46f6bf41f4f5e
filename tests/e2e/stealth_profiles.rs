//! Profiles of the stealth layout beside others, broken ones, and many of them.

use std::fs;

use crate::connection::Reach;
use crate::cost::Memory;
use crate::laptop::{ALLOWS, CONFIG, Laptop, PORT, comes_in_once, count, guarded};
use crate::net::{FAMILIES, Family, Net};
use crate::process::{SOON, wait_until};
use crate::site::{Log, Site, logs, write_private};
use crate::wire::send_frames;

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
fn a_profile_whose_directory_is_deleted_opens_nothing_from_then_on() {
    let (mut site, laptop) = guarded(Log::Kmsg, CONFIG);
    let _service = site.net.server.echo(PORT);
    laptop.knock(&mut site, Family::V4, PORT);
    comes_in_once(&mut site, Family::V4);
    fs::remove_dir_all(site.profile("laptop")).unwrap();
    for nth in 1..=2 {
        laptop.send(&site, Family::V4, PORT, laptop.seal(PORT));
        let refused = "opened nothing for 10.66.1.2 (profile \"laptop\"): ";
        wait_until(SOON, refused, || count(&mut site, refused) == nth);
    }
    assert_eq!(site.reach(Family::V4, PORT), Reach::Refused);
    assert_eq!(count(&mut site, "opened tcp"), 1);
    site.knock(Family::V4, PORT);
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

#[test]
fn ten_thousand_stealth_profiles_have_fewer_numbers_each_and_a_few_more_are_refused() {
    const COUNT: usize = 10_000;
    const MOST: usize = 11_111;
    let mut site = Site::prepare(Net::lan(), Log::Kmsg, &format!("{CONFIG}allow = tcp/2222\n"));
    let laptops: Vec<_> =
        (0..COUNT).map(|nth| Laptop::new(&site, &format!("laptop-{nth}"), "")).collect();
    site.start_daemon_within(6 * SOON);
    site.wait_for("stealth ones are heard up to 16 numbers ahead, not 256, and with 2 minutes between the clocks, not 30");
    let memory = Memory::of(site.daemon().pid()).rss;
    assert!(memory < 96 * 1024, "{memory} KiB for {COUNT} profiles");
    let _service = site.net.server.echo(PORT);
    for laptop in [0, COUNT / 2, COUNT - 1] {
        laptops[laptop].knock(&mut site, Family::V4, PORT);
        comes_in_once(&mut site, Family::V4);
        site.wait_for(&format!("(profile \"laptop-{laptop}\")"));
    }
    site.knock(Family::V6, PORT);
    comes_in_once(&mut site, Family::V6);
    site.stop_daemon();

    (COUNT..=MOST).for_each(|nth| drop(Laptop::new(&site, &format!("laptop-{nth}"), "")));
    let output = site.daemon_command().output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let says = "11112 stealth profiles are more than the kernel's set has room for";
    assert!(output.status.code() == Some(1) && said.contains(says), "{said}");
    let output = site.daemon_command().arg("--check").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains(&format!("PROBLEM: {says}")), "{said}");
}
