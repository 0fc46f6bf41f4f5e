//! The log is rotated under a daemon that is confined: it opens the new file, and no knock is missed. (`tests/log_source` does
//! every way of rotating to the follower alone, with a writer that never stops.)

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::connection::Reach;
use crate::kernel_log::Framing;
use crate::net::{Family, Net};
use crate::site::{Log, Site};

/// The service behind the door.
const PORT: u16 = 2222;

fn site() -> Site {
    Site::start(Net::lan(), Log::File(Framing::Traditional), "delay = 600\n")
}

/// Knocks, and gets in.
fn is_heard(site: &mut Site) {
    site.knock(Family::V4, PORT);
    assert_eq!(site.reach(Family::V4, PORT), Reach::Connected);
}

fn logrotate(site: &mut Site, how: &str) {
    let kern_log = site.rsyslog().kern_log.clone();
    let (config, state) = (site.net.path("logrotate.conf"), site.net.path("logrotate.state"));
    fs::write(&config, format!("{} {{ rotate 2\n{how}\n}}\n", kern_log.display())).unwrap();
    let rotated = std::process::Command::new("logrotate")
        .args(["--force", "--state"])
        .args([&state, &config])
        .output()
        .unwrap();
    assert!(rotated.status.success(), "{rotated:?}");
}

#[test]
fn by_rename_before_and_after_the_writer_reopens() {
    let mut site = site();
    let _service = site.net.server.echo(PORT);
    for _ in 0..3 {
        is_heard(&mut site);
        logrotate(&mut site, "create 0644 root root");
        is_heard(&mut site); // rsyslog writes to the old file still
        site.rsyslog().reopen();
        is_heard(&mut site);
    }
}

#[test]
fn by_copy_and_truncate() {
    let mut site = site();
    let _service = site.net.server.echo(PORT);
    for _ in 0..3 {
        is_heard(&mut site);
        logrotate(&mut site, "copytruncate");
        is_heard(&mut site);
    }
    site.wait_for("was truncated");
}

#[test]
fn by_removal() {
    let mut site = site();
    let _service = site.net.server.echo(PORT);
    let kern_log = site.rsyslog().kern_log.clone();
    for _ in 0..3 {
        fs::remove_file(&kern_log).unwrap();
        is_heard(&mut site);
        site.rsyslog().reopen();
        is_heard(&mut site);
    }
}

#[test]
fn with_its_whole_directory() {
    let mut site = site();
    let _service = site.net.server.echo(PORT);
    let dir = site.rsyslog().kern_log.parent().unwrap().to_owned();
    is_heard(&mut site);
    let away = dir.with_extension("away");
    fs::rename(&dir, &away).unwrap();
    // Everything that rsyslog had there is found under the old name, in a directory that is another.
    fs::create_dir(&dir).unwrap();
    for entry in fs::read_dir(&away).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "kern.log" {
            symlink(entry.path(), dir.join(entry.file_name())).unwrap();
        }
    }
    site.rsyslog().reopen();
    is_heard(&mut site);
    assert!(Path::new(&dir.join("kern.log")).exists());
}

#[test]
fn while_the_writer_is_restarted() {
    let mut site = site();
    let _service = site.net.server.echo(PORT);
    is_heard(&mut site);
    site.rsyslog().pause();
    site.send_knock(Family::V4, PORT);
    site.rsyslog().resume();
    is_heard(&mut site);
}
