//! A daemon that follows ten thousand profiles as it follows one.

use std::fs;
use std::process::Command;

use crate::connection::Reach;
use crate::cost::Memory;
use crate::net::{Family, Net};
use crate::site::{Log, Site};

#[test]
fn ten_thousand_profiles_are_followed_and_the_last_one_opens() {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 9_998;
    let mut site = Site::prepare(Net::lan(), Log::Kmsg, "");
    // Before there are so many: the script reads one file after another.
    site.minimal_firewall(&["--knock-port", &(FIRST + COUNT - 1).to_string()]);
    site.add_profiles(FIRST, COUNT);
    site.start_daemon();
    let memory = Memory::of(site.daemon().pid()).rss;
    assert!(memory < 32 * 1024, "{memory} KiB for {COUNT} profiles");
    let _service = site.net.server.echo(2222);

    let last = format!("guest-{}", FIRST + COUNT - 1);
    let home = site.profiles("guest");
    fs::create_dir(&home).unwrap();
    let copy = home.join(site.net.server.ipv4.to_string());
    let copied = Command::new("cp").arg("-rp").args([&site.profile(&last), &copy]).status();
    assert!(copied.unwrap().success());
    let mut knock = site.net.client.command(env!("CARGO_BIN_EXE_knock"));
    knock.args(["-p", "2222", "--profiles"]).arg(&home).arg(copy.file_name().unwrap());
    assert!(knock.status().unwrap().success());
    site.wait_for(&format!("opened tcp/2222 to 10.66.1.2 for 15 s (profile {last:?})"));
    assert_eq!(site.reach(Family::V4, 2222), Reach::Connected);
    // And the first ones, as ever.
    site.knock(Family::V6, 2222);
    assert_eq!(site.reach(Family::V6, 2222), Reach::Connected);
}
