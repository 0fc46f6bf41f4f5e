//! Broken things: each gets a clear line, the door stays shut, nothing is lost.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::connection::Reach;
use crate::net::{Family, Net};
use crate::process::{Running, SOON, wait_until};
use crate::site::{HOST, KNOCK_PORT, Log, OTHER_KNOCK_PORT, Site, write_private};
use crate::wire::Tap;

/// The service behind the door.
const PORT: u16 = 2222;

/// Somebody who is not root.
const NOBODY: u32 = 65_534;

/// What the daemon says when it does not start. It must end with 1, and leave no table.
#[track_caller]
fn refuses_to_start(site: &Site) -> String {
    let mut daemon = Running::start(&mut site.daemon_command());
    assert_eq!(daemon.wait_for_end().code(), Some(1), "{:#?}", daemon.lines());
    let tables = site.net.server.run(&["nft", "list", "tables"]);
    assert!(!tables.lines().any(|line| line.ends_with(" knockknock")), "{tables}");
    assert!(!daemon.lines().iter().any(|line| line == "ready"));
    daemon.lines().join("\n")
}

/// What `--check` says, which has to find something.
#[track_caller]
fn check_finds(site: &Site) -> String {
    let Output { status, stdout, stderr } = site.daemon_command().arg("--check").output().unwrap();
    assert_eq!(status.code(), Some(1));
    String::from_utf8([stdout, stderr].concat()).unwrap()
}

#[track_caller]
fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

/// A site whose only profile is the client's.
fn with_one_profile() -> Site {
    let site = Site::prepare(Net::lan(), Log::Kmsg, "");
    fs::remove_dir_all(site.profile("other")).unwrap();
    site
}

#[test]
fn a_cut_key_a_garbled_counter_and_a_wrong_config_are_named() {
    let site = with_one_profile();
    let dir = site.profile("client");
    for (file, content, says) in [
        ("cipher.key", "HoCD3Bo5mY7I\n", "not a key"),
        ("mac.key", "", "not a key"),
        ("counter", "", "empty"),
        ("counter", "twelve\n", "one decimal number"),
        ("counter", "99999999999\n", "larger than"),
        ("config", "[main]\nknock_port = 666\nknok = 1\n", "knok"),
        ("config", "[main]\nknock_port = 0\n", "knock_port is 0"),
        ("config", "[main]\nknock_port = 666\nallow = [\"ssh\"]\n", "\"ssh\\\" is not a service"),
    ] {
        let path = dir.join(file);
        let good = fs::read(&path).unwrap();
        write_private(&path, content);
        let says = says.trim_start_matches('"').replace("\\\"", "\"");
        let file_name = format!("client/{file}");
        assert_says(&refuses_to_start(&site), &[&file_name, &says, "no profile to open for"]);
        assert_says(&check_finds(&site), &[&file_name, &says]);
        assert_eq!(fs::read_to_string(&path).unwrap(), content, "left as it was found");
        write_private(&path, good);
    }
}

#[test]
fn a_broken_profile_does_not_lock_the_others_out() {
    let mut site = Site::prepare(Net::lan(), Log::Kmsg, "");
    write_private(&site.profile("other").join("mac.key"), "cut");
    site.start_daemon();
    site.wait_for("a profile is left out");
    let _service = site.net.server.echo(PORT);
    site.knock(Family::V4, PORT);
    assert_eq!(site.reach(Family::V4, PORT), Reach::Connected);
}

#[test]
fn knock_genprofile_gives_each_profile_a_knock_port_of_its_own() {
    let site = Site::prepare(Net::lan(), Log::Kmsg, "");
    let refused = site.genprofile("third", KNOCK_PORT);
    assert_eq!(refused.status.code(), Some(1));
    assert!(!site.profile("third").exists());
}

#[test]
fn a_wrong_config_of_the_server_is_refused_by_key_and_by_owner() {
    let site = with_one_profile();
    let config = site.config_dir().join("config");
    for (content, says) in [
        ("[main]\nerror_widow = 20\n", "error_widow"),
        ("[main]\ndelay = 0\n", "delay is 0"),
        ("[main]\nallow = [\"tcp/0\"]\n", "tcp/0"),
        ("[main]\ndelay = 15 seconds\n", "line 2"),
        ("[main]\nalow = tcp/22\n", "did you mean `allow`?"),
    ] {
        fs::write(&config, content).unwrap();
        assert_says(&refuses_to_start(&site), &["knockknock.d/config", says]);
    }
}

#[test]
fn a_config_directory_that_is_not_roots_alone_is_refused_with_the_way_to_mend_it() {
    let site = with_one_profile();
    let dir = site.config_dir();
    for path in [dir.clone(), dir.join("profiles"), dir.join("config")] {
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        for bit in [0o020, 0o002] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode | bit)).unwrap();
            let mend = format!("chmod go-w {path:?}");
            assert_says(&refuses_to_start(&site), &[&mend]);
            assert_says(&check_finds(&site), &[&mend]);
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        chown(&path, Some(NOBODY), None).unwrap();
        let mend = format!("chown root:root {path:?}");
        assert_says(&refuses_to_start(&site), &[&mend]);
        assert_says(&check_finds(&site), &[&mend]);
        chown(&path, Some(0), None).unwrap();
    }
    let checked = site.daemon_command().arg("--check").output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
}

#[test]
fn a_profile_that_is_not_roots_alone_is_left_out_and_the_others_work() {
    let mut site = Site::prepare(Net::lan(), Log::Kmsg, "");
    let other = site.profile("other");
    let _service = site.net.server.echo(PORT);
    for (what, mend) in [
        ("", "chmod go-w"),
        ("config", "chmod go-w"),
        ("counter", "chmod go-w"),
        ("", "chown root:root"),
        ("cipher.key", "chown root:root"),
        ("counter", "chown root:root"),
    ] {
        let path = if what.is_empty() { other.clone() } else { other.join(what) };
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        if mend == "chmod go-w" {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode | 0o020)).unwrap();
        } else {
            chown(&path, Some(NOBODY), None).unwrap();
        }
        let mend = format!("{mend} {path:?}");
        assert_says(&check_finds(&site), &["a profile is left out", &mend]);
        site.start_daemon();
        site.wait_for("a profile is left out");
        site.wait_for(&mend);
        site.knock(Family::V4, PORT);
        assert_eq!(site.reach(Family::V4, PORT), Reach::Connected, "{mend}");
        site.stop_daemon();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        chown(&path, Some(0), None).unwrap();
    }
    // A link that others could turn elsewhere, and one that they could not.
    let elsewhere = site.net.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::rename(&other, elsewhere.join("other")).unwrap();
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o777)).unwrap();
    symlink(elsewhere.join("other"), &other).unwrap();
    assert_says(
        &check_finds(&site),
        &["a profile is left out", &format!("chmod go-w {elsewhere:?}")],
    );
}

#[test]
fn a_config_without_allow_is_told_of_with_the_profiles_that_may_ask_for_anything() {
    let mut site = Site::prepare(Net::lan(), Log::Kmsg, "");
    let says = "config names no `allow`";
    for (other, said) in [
        ("", "any TCP port can be asked for (profiles \"client\", \"other\")"),
        ("allow = tcp/22\n", "by the profiles without their own (\"client\")"),
    ] {
        let config = format!("[main]\nknock_port = {OTHER_KNOCK_PORT}\n{other}");
        write_private(&site.profile("other").join("config"), config);
        site.start_daemon();
        assert_says(&site.wait_for(says), &[said]);
        site.stop_daemon();
    }
    fs::remove_file(site.config_dir().join("config")).unwrap();
    site.start_daemon();
    assert_says(&site.wait_for(says), &["\"client\""]);
    site.stop_daemon();
    fs::write(site.config_dir().join("config"), "[main]\nallow = tcp/22\n").unwrap();
    site.start_daemon();
    assert!(!site.daemon().lines().iter().any(|line| line.contains(says)));
}

#[test]
fn a_log_that_is_missing_is_waited_for_and_one_that_is_no_file_is_refused() {
    let mut site = Site::prepare(Net::lan(), Log::File(crate::kernel_log::Framing::Iso), "");
    let kern_log = site.rsyslog().kern_log.clone();
    fs::remove_file(&kern_log).unwrap();
    assert_says(&check_finds(&site), &["log       PROBLEM: there is no", "rsyslog/kern.log"]);
    site.start_daemon();
    site.wait_for("waiting for one");
    site.rsyslog().reopen();
    let _service = site.net.server.echo(PORT);
    // The knock's own line makes the file.
    site.knock(Family::V4, PORT);
    assert!(kern_log.exists());
    assert_eq!(site.reach(Family::V4, PORT), Reach::Connected);
    site.stop_daemon();

    let mut command = site.net.server.command(env!("CARGO_BIN_EXE_knock-daemon"));
    command.arg("--config-dir").arg(site.config_dir()).args(["--user", "nobody", "--log", "/tmp"]);
    let mut daemon = Running::start(&mut command);
    daemon.wait_for_line("the reason", |line| line.contains("\"/tmp\" is not a regular file"));
    assert_eq!(daemon.wait_for_end().code(), Some(1));
}

#[test]
fn a_log_that_may_not_be_read_after_rotation_is_told_of() {
    let mut site = Site::start(Net::lan(), Log::File(crate::kernel_log::Framing::Traditional), "");
    let kern_log = site.rsyslog().kern_log.clone();
    fs::rename(&kern_log, kern_log.with_extension("log.1")).unwrap();
    fs::write(&kern_log, "").unwrap();
    fs::set_permissions(&kern_log, fs::Permissions::from_mode(0o600)).unwrap();
    site.wait_for("kern.log\" may not be read");
    site.wait_for("fix: restart the daemon");
    // It is not given up: once it may be read again, knocks are heard.
    fs::set_permissions(&kern_log, fs::Permissions::from_mode(0o644)).unwrap();
    site.rsyslog().reopen();
    site.knock(Family::V6, PORT);
}

#[test]
fn a_log_whose_directories_come_later_or_are_others_is_read_or_told_of() {
    let mut site = Site::prepare(Net::lan(), Log::Kmsg, "");
    let here = site.net.path("logs");
    fs::create_dir(&here).unwrap();
    for (nth, (log, leads_to)) in
        [("a/b/kern.log", "a/b/kern.log"), ("linked/kern.log", "elsewhere/deep/kern.log")]
            .into_iter()
            .enumerate()
    {
        let (log, leads_to) = (here.join(log), here.join(leads_to));
        if log != leads_to {
            fs::create_dir_all(log.parent().unwrap()).unwrap();
            fs::create_dir_all(leads_to.parent().unwrap()).unwrap();
            symlink(&leads_to, &log).unwrap();
        }
        let mut daemon = site.net.server.command(env!("CARGO_BIN_EXE_knock-daemon"));
        daemon.arg("--config-dir").arg(site.config_dir()).args(["--user", "nobody", "--log"]);
        daemon.arg(&log);
        site.start_as(daemon);
        site.wait_for("waiting for one");
        fs::create_dir_all(leads_to.parent().unwrap()).unwrap();
        fs::write(&leads_to, "").unwrap();
        site.wait_for("is a new file");
        if nth == 0 {
            // More of the way than the daemon may look below is another: no line can be read, so one must be said.
            fs::remove_dir_all(&here).unwrap();
            fs::create_dir_all(leads_to.parent().unwrap()).unwrap();
            fs::write(&leads_to, "").unwrap();
            let said = site.wait_for("is in a directory that the daemon may not read");
            assert_says(&said, &["logs/a/b/kern.log"]);
            site.wait_for("fix: restart the daemon");
        }
        site.stop_daemon();
    }
}

#[test]
fn no_nft_is_needed_to_open() {
    let mut site = Site::prepare(Net::lan(), Log::Kmsg, "");
    let daemon = site.daemon_command();
    let mut without = site.net.server.command("sh");
    let hide = "mount --bind /dev/null /usr/sbin/nft && exec \"$0\" \"$@\"";
    // `ip netns exec` has a mount namespace of its own, so nobody else misses nft.
    without.args(["-c", hide]).args(daemon.get_args().skip_while(|arg| !is_program(arg)));
    site.start_as(without);
    let _service = site.net.server.echo(PORT);
    site.knock(Family::V4, PORT);
    assert_eq!(site.reach(Family::V4, PORT), Reach::Connected);
}

fn is_program(argument: &std::ffi::OsStr) -> bool {
    Path::new(argument) == Path::new(env!("CARGO_BIN_EXE_knock-daemon"))
}

/// A small disk, unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf) -> Self {
        fs::create_dir_all(&at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256k,mode=755", "tmpfs"])
            .arg(&at)
            .status();
        assert!(mounted.unwrap().success());
        Self(at)
    }

    fn fill(&self) {
        let full = fs::write(self.0.join("ballast"), vec![1; 512 * 1024]);
        assert_eq!(full.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    }

    fn remount_read_only(&self) {
        let mounted = Command::new("mount").args(["-o", "remount,ro"]).arg(&self.0).status();
        assert!(mounted.unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_locks_nobody_out_and_makes_no_half_profile() {
    let net = Net::lan();
    let disk = Disk::mount(net.path("knockknock.d"));
    let mut site = Site::start(net, Log::Kmsg, "");
    let disk = disk; // dropped before the site, which removes the directory
    disk.fill();
    let _service = site.net.server.echo(PORT);
    site.knock(Family::V4, PORT);
    assert_eq!(site.reach(Family::V4, PORT), Reach::Connected);
    assert_eq!(
        site.counters("client"),
        ["1", "1"],
        "the counter has its place on the disk already"
    );

    let refused = site.genprofile("third", 777);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert_says(&String::from_utf8(refused.stderr).unwrap(), &["No space left"]);
    let mut left: Vec<_> = fs::read_dir(site.config_dir().join("profiles"))
        .unwrap()
        .map(|one| one.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["client", "other"]);
    site.stop_daemon();
}

#[test]
fn a_counter_that_cannot_be_written_opens_nothing_and_does_not_move() {
    let mut site = Site::prepare(Net::lan(), Log::Kmsg, "");
    let daemon = site.daemon_command();
    // A limit of 0 on the size of files makes every write to one fail, as a copy-on-write file system does when full.
    let mut limited = site.net.server.command("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\""]);
    limited.args(daemon.get_args().skip_while(|arg| !is_program(arg)));
    site.start_as(limited);
    let _service = site.net.server.echo(PORT);
    site.send_knock(Family::V4, PORT);
    let said = site.wait_for("cannot make the counter durable");
    assert_says(&said, &["opened nothing", "client/counter"]);
    assert_eq!(site.reach(Family::V4, PORT), Reach::Refused);
    assert_eq!(site.grants(), Vec::<String>::new());
    assert_eq!(site.counters("client"), ["0", "1"]);

    // Nothing is lost: when writing works again, the next knock is fine.
    site.stop_daemon();
    site.start_daemon();
    site.knock(Family::V4, PORT);
    assert_eq!(site.reach(Family::V4, PORT), Reach::Connected);
}

#[test]
fn a_profile_that_is_removed_opens_nothing_from_then_on() {
    let mut site = Site::start(Net::lan(), Log::Kmsg, "");
    let _service = site.net.server.echo(PORT);
    fs::remove_dir_all(site.profile("client")).unwrap();
    site.send_knock(Family::V4, PORT);
    let said = site.wait_for("removed or replaced");
    assert_says(&said, &["opened nothing", "client/counter"]);
    assert_eq!(site.reach(Family::V4, PORT), Reach::Refused);
    assert_eq!(site.grants(), Vec::<String>::new());
}

#[test]
fn a_client_that_cannot_keep_its_counter_sends_nothing() {
    let net = Net::lan();
    let disk = Disk::mount(net.path("home-client"));
    let site = Site::prepare(net, Log::Kmsg, "");
    let disk = disk; // dropped before the site, which removes the directory
    let mut knock = site.knock_command(&site.net.client, "client", Family::V4, PORT);
    disk.remount_read_only();
    let mut tap = Tap::on(&site.net.server);
    let output = knock.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_says(&String::from_utf8(output.stderr).unwrap(), &["Read-only file system", "counter"]);
    assert_eq!(tap.syns_to(KNOCK_PORT, Duration::from_millis(100)).len(), 0);
    assert_eq!(site.counters("client"), ["0", "0"]);
}

#[test]
fn a_client_without_a_way_to_the_server_spends_nothing_and_claims_nothing() {
    let site = Site::prepare(Net::lan(), Log::Kmsg, "");
    let config = site.profiles("client").join(HOST).join("config");
    let mut knock = site.knock_command(&site.net.client, "client", Family::V4, PORT);
    fs::write(config, "[main]\nknock_port = 666\naddress = \"192.0.2.1\"\n").unwrap();
    let output = knock.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_says(
        &String::from_utf8(output.stderr).unwrap(),
        &["no route to 192.0.2.1", "nothing was sent"],
    );
    assert_eq!(site.counters("client"), ["0", "0"]);
}

#[test]
fn a_second_daemon_on_the_same_profiles_is_refused() {
    let mut site = Site::start(Net::lan(), Log::Kmsg, "");
    let mut second = Running::start(&mut site.daemon_command());
    assert_eq!(second.wait_for_end().code(), Some(1));
    assert_says(&second.lines().join("\n"), &["another knock-daemon runs with"]);
    let _service = site.net.server.echo(PORT);
    site.knock(Family::V4, PORT);
    assert_eq!(site.reach(Family::V4, PORT), Reach::Connected, "the first goes on");
    site.daemon().signal(Signal::SIGTERM);
    assert!(site.daemon().wait_for_end().success());
}

/// Who may make a user namespace has a firewall of his own there, and so the kernel's pen.
#[test]
fn check_warns_where_any_namespace_writes_to_the_kernels_log() {
    let site = Site::prepare(Net::lan(), Log::Kmsg, "");
    let checks = |value: &str| {
        // The setting is the host's; a namespace has none. Here it gets one, in the mount namespace that `ip netns exec` makes.
        let script = format!(
            "mount -t tmpfs none /proc/sys/net/netfilter && \
             echo {value} >/proc/sys/net/netfilter/nf_log_all_netns && exec \"$0\" \"$@\" --check"
        );
        let daemon = site.daemon_command();
        let mut check = site.net.server.command("sh");
        check.args(["-c", &script]).args(daemon.get_args().skip_while(|arg| !is_program(arg)));
        let output = check.output().unwrap();
        assert!(output.status.success(), "a warning is no problem: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let warning = "WARNING: net.netfilter.nf_log_all_netns is 1";
    assert_says(&checks("1"), &[warning]);
    assert!(!checks("0").contains(warning));
}

#[test]
fn check_finds_a_log_that_nobody_writes_to_any_more() {
    let mut site = Site::prepare(Net::lan(), Log::File(crate::kernel_log::Framing::Iso), "");
    site.rsyslog().pause();
    let log = fs::File::options().append(true).open(&site.rsyslog().kern_log).unwrap();
    log.set_modified(std::time::UNIX_EPOCH).unwrap();
    let said = check_finds(&site);
    assert_says(&said, &["PROBLEM: nobody has written to", "knock-daemon: 1 problem found"]);
}

#[test]
fn check_warns_of_a_log_that_every_user_can_write_to() {
    let mut site = Site::prepare(Net::lan(), Log::File(crate::kernel_log::Framing::Iso), "");
    let dev = site.net.path("dev");
    fs::create_dir(&dev).unwrap();
    let checks = |site: &mut Site, mode: &str| {
        // A /dev of its own, in the mount namespace that `ip netns exec` makes.
        let script = format!(
            "mkdir -p {dev} && mount -t tmpfs none {dev} && touch {dev}/null {dev}/log && chmod {mode} {dev}/log && \
             mount --bind /dev/null {dev}/null && mount --bind {dev} /dev && exec \"$0\" \"$@\" --check",
            dev = dev.display()
        );
        let daemon = site.daemon_command();
        let mut check = site.net.server.command("sh");
        check.args(["-c", &script]).args(daemon.get_args().skip_while(|arg| !is_program(arg)));
        let output = check.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let warning = "every user of this host can write lines to that file";
    assert_says(&checks(&mut site, "666"), &[warning]);
    assert!(!checks(&mut site, "660").contains(warning));
}

#[test]
fn a_log_whose_lines_are_none_of_those_that_are_read_is_told_of_once() {
    for (line, says) in [
        (
            "{\"time\":\"2026-11-20T09:39:15+00:00\",\"msg\":\"IN=",
            "does not begin as lines of this log do",
        ),
        ("2026-11-20T09:39:15+00:00 host kernel: [UFW BLOCK] IN=", "begin with `log_prefix`"),
    ] {
        let log = Log::File(crate::kernel_log::Framing::Iso);
        let mut site = Site::prepare(Net::lan(), log, "log_rule = firewall\n");
        site.rsyslog().pause();
        site.start_daemon();
        let lines = format!("{line} DPT={KNOCK_PORT} \n").repeat(3);
        fs::write(&site.rsyslog().kern_log, lines).unwrap();
        site.wait_for(says);
        site.rsyslog().resume();
        site.knock(Family::V4, PORT);
        let times = site.daemon().lines().iter().filter(|line| line.contains(says)).count();
        assert_eq!(times, 1);
    }
}

#[test]
fn a_log_in_which_nothing_is_understood_is_told_of_once() {
    let mut site = Site::prepare(Net::lan(), Log::File(crate::kernel_log::Framing::Iso), "");
    site.rsyslog().pause();
    site.start_daemon();
    let line = format!("2026-11-20T09:39:15+00:00 host su: IN= DPT={KNOCK_PORT} \n");
    fs::write(&site.rsyslog().kern_log, line.repeat(30)).unwrap();
    let says = "none of the first 10 lines about a knock port could be read";
    assert_says(&site.wait_for(says), &["the line is not the kernel's"]);
    site.rsyslog().resume();
    site.knock(Family::V4, PORT);
    let times = site.daemon().lines().iter().filter(|line| line.contains(says)).count();
    assert_eq!(times, 1);
}

#[test]
fn nobody_who_stops_reading_stderr_keeps_a_knock_or_the_end_waiting() {
    let mut site = Site::prepare(Net::lan(), Log::File(crate::kernel_log::Framing::Iso), "");
    let mut daemon = site.daemon_command().arg("-v").stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(daemon.stderr.take().unwrap());
    let mut line = String::new();
    while line != "ready\n" {
        line.clear();
        assert_ne!(said.read_line(&mut line).unwrap(), 0, "the daemon did not start");
    }
    // More than a pipe holds, of what only -v tells.
    let junk = format!("2026-11-20T09:39:15+00:00 host kernel: OTHER DPT={KNOCK_PORT} \n");
    let log = site.rsyslog().kern_log.clone();
    let mut log = fs::OpenOptions::new().append(true).open(log).unwrap();
    log.write_all(junk.repeat(5000).as_bytes()).unwrap();
    site.send_knock(Family::V4, PORT);
    wait_until(SOON, "a knock that is heard", || site.counters("client") == ["1", "1"]);
    let pid = Pid::from_raw(daemon.id().try_into().unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    wait_until(SOON, "the end", || daemon.try_wait().unwrap().is_some());
}

#[test]
fn a_log_rule_that_leaves_the_sequence_out_is_told_of_once() {
    let mut site = Site::prepare(Net::lan(), Log::Kmsg, "log_rule = firewall\n");
    site.net.server.run(&["nft", "flush", "ruleset"]);
    site.net.server.nft(&format!(
        "table inet plain {{ chain in {{ type filter hook input priority filter; tcp dport {KNOCK_PORT} \
         log prefix \"{}\" reject with tcp reset; }}; }}",
        site.net.prefix
    ));
    site.start_daemon();
    for _ in 0..3 {
        site.send_knock(Family::V4, PORT);
    }
    site.wait_for("no SEQ= and ACK=");
    assert_says(&site.wait_for("--log-tcp-sequence"), &["fix: ", "flags tcp sequence"]);
    // The next line that is well-formed comes after all of those.
    site.minimal_firewall(&[]);
    site.net.server.run(&["nft", "delete", "table", "inet", "plain"]);
    site.knock(Family::V4, PORT);
    let times =
        site.daemon().lines().iter().filter(|line| line.contains("no SEQ= and ACK=")).count();
    assert_eq!(times, 1);
}

/// Whoever may look into the config directory (the original made it so) must not be able to hold the daemon's lock.
#[test]
fn a_user_who_locks_the_config_directory_keeps_no_daemon_from_starting() {
    let mut site = with_one_profile();
    fs::set_permissions(site.config_dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let dir = site.config_dir().display().to_string();
    let script = format!("flock {dir} sh -c 'echo locked; exec sleep 60'");
    let mut user = Running::start(Command::new("setpriv").args([
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "sh",
        "-c",
        &script,
    ]));
    user.wait_for_line("locked", |line| line == "locked");
    site.start_daemon();
    let lock = fs::metadata(site.config_dir().join("lock")).unwrap();
    assert_eq!(lock.permissions().mode() & 0o777, 0o600, "nobody else can open it");
    let mut second = Running::start(&mut site.daemon_command());
    assert_eq!(second.wait_for_end().code(), Some(1));
    second.wait_for_line("the lock", |line| line.contains("another knock-daemon runs with"));
}
