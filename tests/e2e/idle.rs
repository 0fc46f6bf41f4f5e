//! A daemon that costs nothing while nothing happens, and no more for ten thousand profiles.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::cost::{Memory, Processes};
use crate::net::{Family, Net};
use crate::site::{Log, Site, logs};
use crate::talk::Reach;

/// As long as neither process may run, and how long such a time is looked for: other tests write to the kernel's log,
/// which `/dev/kmsg` wakes the daemon for, and make directories beside its log file.
const IDLE: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_secs(600);

#[test]
fn without_a_line_in_the_log_neither_process_runs() {
    for log in logs() {
        let mut site = Site::start(Net::lan(), log, "");
        // Once through everything, so that nothing is left to be done for the first time.
        site.knock(Family::V4, 22);
        let processes = Processes::of(site.daemon().pid());
        let began = Instant::now();
        loop {
            let before = processes.context_switches();
            thread::sleep(IDLE);
            let switches = processes.context_switches() - before;
            if switches == 0 {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{log:?}: {switches} context switches in {IDLE:?}");
        }
        assert!(site.daemon().is_running());
    }
}

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
