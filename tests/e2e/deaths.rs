//! Whatever ends or hangs, no door stays open: each death happens while a port is open, to the real processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::connection::{Reach, is_alive};
use crate::net::{FAMILIES, Family, Net};
use crate::process::{SOON, wait_until};
use crate::site::{KNOCK_PORT, Log, Site};
use crate::wire::{Tap, send_frames};

/// The service behind the door.
const PORT: u16 = 2222;
/// How long a grant lasts here.
const DELAY: Duration = Duration::from_secs(3);
/// How much later than that a door may be found open.
const GRACE: Duration = Duration::from_secs(1);

/// The daemon that does on demand what its sandbox forbids; `scripts/test.sh` builds it.
fn misbehaving_daemon() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/misbehave/knock-daemon");
    assert!(path.exists(), "{path:?} is missing: run sudo scripts/test.sh, which builds it");
    path
}

fn helper_of(daemon: Pid) -> Pid {
    let children = fs::read_to_string(format!("/proc/{daemon}/task/{daemon}/children")).unwrap();
    Pid::from_raw(children.trim().parse().expect("one child, the helper"))
}

fn field(status: &str, name: &str) -> String {
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_once(':').unwrap().1.trim().to_owned()
}

/// Opens a port with a daemon of this site, lets `death` happen, and sees to what must follow.
fn survives(mut death: impl FnMut(&mut Site, Pid, Pid)) {
    let mut site = Site::start(Net::lan(), Log::Kmsg, "delay = 3\n");
    let _service = site.net.server.echo(PORT);
    let mut tap = Tap::on(&site.net.server);
    let server = site.net.server.address(Family::V4);
    site.knock(Family::V4, PORT);
    let established = site.net.client.connect(server, PORT, SOON).unwrap();
    let knock = tap.wait_for_syn(KNOCK_PORT);

    for family in FAMILIES {
        site.knock(family, PORT);
    }
    let opened = Instant::now();
    let daemon = site.daemon().pid();
    let helper = helper_of(daemon);
    death(&mut site, daemon, helper);
    site.wait_until_shut((DELAY + GRACE).saturating_sub(opened.elapsed()));
    for family in FAMILIES {
        assert_eq!(site.reach(family, PORT), Reach::Refused);
    }
    assert!(is_alive(&established), "a connection that stands lives on");

    // Those who were stopped are ended now, as a service manager would do it.
    for process in [daemon, helper] {
        let _ = kill(process, Signal::SIGKILL);
    }
    site.daemon().wait_for_end();
    wait_until(SOON, "the helper's end", || !Path::new(&format!("/proc/{helper}")).exists());
    let ruleset = site.net.server.run(&["nft", "list", "ruleset"]);
    assert!(!ruleset.contains("table inet knockknock {"), "nothing of ours is left: {ruleset}");

    // It starts again, and does not fall for a knock that it has seen in its former life.
    site.start_daemon();
    send_frames(&site.net.client, std::slice::from_ref(&knock.frame));
    site.wait_for("1 invalid knock (1 replayed)");
    site.knock(Family::V6, PORT);
    assert_eq!(site.grants().len(), 1);
    assert_eq!(site.reach(Family::V4, PORT), Reach::Refused);
    assert_eq!(site.reach(Family::V6, PORT), Reach::Connected);
}

#[test]
fn the_helper_is_killed() {
    survives(|site, _, helper| {
        kill(helper, Signal::SIGKILL).unwrap();
        assert_eq!(site.daemon().wait_for_end().code(), Some(1), "the daemon ends too");
        site.wait_for("the helper has ended (killed by SIGKILL)");
    });
}

#[test]
fn the_daemon_is_killed() {
    survives(|site, daemon, helper| {
        kill(daemon, Signal::SIGKILL).unwrap();
        site.wait_for("helper: the daemon is gone: all grants revoked");
        // A zombie, where nobody reaps it, has ended as well.
        let gone = || {
            fs::read_to_string(format!("/proc/{helper}/status"))
                .map_or(true, |status| status.contains("State:\tZ"))
        };
        wait_until(SOON, "the helper ends too", gone);
    });
}

#[test]
fn both_are_killed() {
    survives(|_, daemon, helper| {
        kill(helper, Signal::SIGSTOP).unwrap();
        kill(daemon, Signal::SIGKILL).unwrap();
        kill(helper, Signal::SIGKILL).unwrap();
    });
}

#[test]
fn the_daemon_is_stopped() {
    survives(|_, daemon, _| kill(daemon, Signal::SIGSTOP).unwrap());
}

#[test]
fn the_helper_is_stopped() {
    survives(|_, _, helper| kill(helper, Signal::SIGSTOP).unwrap());
}

#[test]
fn a_helper_that_does_not_reply_is_ended_and_the_daemon_says_so() {
    let mut site = Site::start(Net::lan(), Log::Kmsg, "");
    let helper = helper_of(site.daemon().pid());
    kill(helper, Signal::SIGSTOP).unwrap();
    site.send_knock(Family::V4, PORT);
    site.wait_for("the helper did not reply in 5 seconds");
    assert_eq!(site.daemon().wait_for_end().code(), Some(1));
    assert!(!Path::new(&format!("/proc/{helper}")).exists(), "the helper was killed and reaped");
    assert_eq!(site.grants(), Vec::<String>::new());
}

#[test]
fn the_daemon_is_told_to_stop() {
    survives(|site, daemon, _| {
        kill(daemon, Signal::SIGTERM).unwrap();
        assert!(site.daemon().wait_for_end().success());
        assert_eq!(site.grants(), Vec::<String>::new(), "what was open is taken back at once");
    });
}

#[test]
fn a_signal_to_all_of_them_is_an_orderly_end() {
    survives(|site, daemon, helper| {
        kill(helper, Signal::SIGTERM).unwrap();
        kill(daemon, Signal::SIGTERM).unwrap();
        assert!(site.daemon().wait_for_end().success());
    });
}

/// What `systemctl reload` or an old habit sends.
#[test]
fn a_sighup_ends_nothing_and_is_answered() {
    let mut site = Site::prepare(Net::lan(), Log::Kmsg, "delay = 600\n");
    // Also where these tests were started with nohup.
    let command = site.daemon_command();
    let mut env = Command::new("env");
    env.arg("--default-signal=HUP").arg(command.get_program()).args(command.get_args());
    site.start_as(env);
    let _service = site.net.server.echo(PORT);
    site.knock(Family::V4, PORT);
    let answer = "SIGHUP: profiles and config are read at start";
    for times in 1..=2 {
        kill(site.daemon().pid(), Signal::SIGHUP).unwrap();
        wait_until(SOON, "an answer", || {
            site.daemon().lines().iter().filter(|line| line.contains(answer)).count() == times
        });
    }
    site.wait_for("fix: restart to change them");
    assert_eq!(site.grants().len(), 1, "what is open stays open");
    site.knock(Family::V6, PORT);
    assert_eq!(site.reach(Family::V4, PORT), Reach::Connected);
    assert_eq!(site.reach(Family::V6, PORT), Reach::Connected);
    site.stop_daemon();
}

/// As it is started by hand, over ssh, from a login that then ends.
#[test]
fn a_daemon_that_was_started_with_nohup_outlives_its_terminal() {
    let mut site = Site::prepare(Net::lan(), Log::Kmsg, "");
    let command = site.daemon_command();
    let mut nohup = Command::new("nohup");
    nohup.arg(command.get_program()).args(command.get_args());
    site.start_as(nohup);
    let daemon = site.daemon().pid();
    kill(daemon, Signal::SIGHUP).unwrap();
    site.knock(Family::V4, PORT);
    assert_eq!(site.grants().len(), 1, "it goes on");
    site.stop_daemon();
}

/// How long a process may make a file: now, and at most.
fn longest_file(process: Pid) -> [u64; 2] {
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max file size")).unwrap();
    let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    numbers.try_into().unwrap()
}

#[test]
fn events_that_go_to_a_file_have_room_there() {
    let site = Site::prepare(Net::lan(), Log::Kmsg, "");
    let path = site.net.path("events");
    fs::write(&path, "what was said before\n").unwrap();
    let events = fs::File::options().append(true).open(&path).unwrap();
    let mut daemon = site.daemon_command().stderr(events).spawn().unwrap();
    wait_until(SOON, "ready", || fs::read_to_string(&path).unwrap().ends_with("\nready\n"));
    let pid = Pid::from_raw(daemon.id().try_into().unwrap());
    assert_eq!(longest_file(pid), [(1 << 30) + 21; 2]);
    kill(pid, Signal::SIGTERM).unwrap();
    assert!(daemon.wait().unwrap().success());
}

#[test]
fn both_processes_have_what_they_need_and_nothing_else() {
    let mut site = Site::start(Net::lan(), Log::Kmsg, "");
    let daemon = site.daemon().pid();
    let helper = helper_of(daemon);
    let no_capability = "0000000000000000";
    let net_admin = "0000000000001000";
    for (process, capabilities) in [(daemon, no_capability), (helper, net_admin)] {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        for (name, value) in [
            ("Uid", "65534\t65534\t65534\t65534"),
            ("Gid", "65534\t65534\t65534\t65534"),
            ("Groups", ""),
            ("CapInh", no_capability),
            ("CapPrm", capabilities),
            ("CapEff", capabilities),
            ("CapBnd", no_capability),
            ("CapAmb", no_capability),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
        ] {
            assert_eq!(field(&status, name), value, "{name} of {process}: {status}");
        }
    }
    for process in [daemon, helper] {
        assert_eq!(longest_file(process), [65_536; 2], "nothing that either writes is longer");
    }
    let descriptors = |process: Pid| {
        let listed = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
        let mut all: Vec<_> = listed
            .map(|one| fs::read_link(one.unwrap().path()).unwrap().to_string_lossy().into_owned())
            .collect();
        all.sort();
        all
    };
    let of_helper = descriptors(helper);
    assert_eq!(of_helper.len(), 5, "{of_helper:?}");
    assert_eq!(of_helper.iter().filter(|one| one.starts_with("socket:")).count(), 2, "netlink");
    assert_eq!(
        of_helper.iter().filter(|one| one.starts_with("pipe:")).count(),
        3,
        "two pipes, stderr"
    );
    let of_daemon = descriptors(daemon);
    assert!(!of_daemon.iter().any(|one| one.starts_with("socket:")), "{of_daemon:?}");
}

/// A daemon that was taken over tries `port`'s misdeed; both processes must be gone and every door shut: at once, where the
/// helper ends by itself, else when the kernel's time is over.
fn is_stopped_at(port: u16, says: &str) {
    let killed = (64001..=64004).contains(&port);
    let delay = if killed { DELAY.as_secs() } else { 600 };
    let mut site = Site::prepare(Net::lan(), Log::Kmsg, &format!("delay = {delay}\n"));
    let command = site.command_of(&misbehaving_daemon());
    site.start_as(command);
    let _service = site.net.server.echo(PORT);
    site.knock(Family::V4, PORT);
    let helper = helper_of(site.daemon().pid());
    site.send_knock(Family::V4, port);
    let status = site.daemon().wait_for_end();
    assert!(!status.success(), "port {port}: {status:?}");
    let said = format!("{status:?} {}", site.daemon().lines().join("\n"));
    assert!(said.contains(says), "port {port}: {said}");
    wait_until(SOON, "the helper's end", || !Path::new(&format!("/proc/{helper}")).exists());
    if killed {
        site.wait_until_shut(DELAY + GRACE);
    }
    assert_eq!(site.grants(), Vec::<String>::new());
    assert_eq!(site.reach(Family::V4, PORT), Reach::Refused);
}

#[test]
fn a_daemon_that_was_taken_over_is_killed_at_its_first_forbidden_step() {
    // exec, open, create, socket, ptrace, a signal to a stranger, one to a stranger's thread: SIGSYS, number 31.
    for port in [64011, 64012, 64013, 64014, 64015, 64016, 64019] {
        is_stopped_at(port, "unix_wait_status(31)");
    }
    assert!(!Path::new("/tmp/made-by-knock-daemon").exists());
}

#[test]
fn a_daemon_that_was_taken_over_makes_no_file_longer_and_writes_nothing_into_the_lock() {
    // The lock, which was opened first, then the counters.
    is_stopped_at(64020, "far into each file: [Err(EBADF), Err(EFBIG)]");
}

#[test]
fn a_panic_of_the_daemon_shuts_every_door() {
    is_stopped_at(64017, "asked to");
}

#[test]
fn a_daemon_that_asks_for_too_much_gives_itself_away() {
    is_stopped_at(64018, "ALARM: the daemon asked for what the config does not allow");
}

#[test]
fn a_helper_that_was_taken_over_is_killed_at_its_first_forbidden_step() {
    for port in 64001..=64004 {
        is_stopped_at(port, "the helper has ended (killed for a forbidden system call)");
    }
}

#[test]
fn a_panic_of_the_helper_shuts_every_door() {
    is_stopped_at(64005, "the helper has ended");
}
