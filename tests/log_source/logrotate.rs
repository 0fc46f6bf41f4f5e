//! The real logrotate, with the words that distributions give it, and a real rsyslog.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use knockknock::daemon::log_source::error::Report;
use tempfile::TempDir;

use crate::follower::{Follower, expect_all, followed};
use crate::harness::{all, assert_same, cannot_test, numbers_in, place, some_lines};
use crate::rsyslog;
use crate::writer::{Mode, Writer};

/// Runs the real logrotate on the log, with these words in its configuration. `None` where it is not installed.
fn logrotate(log: &Path, words: &str) -> Option<()> {
    let directory = log.parent()?;
    let program = ["/usr/sbin/logrotate", "/usr/bin/logrotate"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    let Some(program) = program else {
        cannot_test("logrotate is not installed");
        return None;
    };
    let configuration: PathBuf = directory.join("logrotate.conf");
    fs::write(&configuration, format!("{} {{\n rotate 20\n {words}\n}}\n", log.display())).unwrap();
    let mut command = Command::new(program);
    command
        .arg("--force")
        .arg("--state")
        .arg(directory.join("logrotate.state"))
        .arg(&configuration);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(())
}

/// A log that was rotated while it was written.
struct Rotated {
    // Dropped in this order.
    writer: Writer,
    follower: Follower,
    log: PathBuf,
    directory: TempDir,
}

/// Has logrotate rotate a log that is written all the time, so many times, and does `then` after each. `None` where
/// logrotate is not installed.
fn rotated(times: usize, words: &str, then: impl Fn(&Rotated)) -> Option<Rotated> {
    let (directory, log, follower, writer) = followed(Mode::Append);
    let rotated = Rotated { writer, follower, log, directory };
    for _ in 0..times {
        rotated.writer.wait_for_more(some_lines());
        logrotate(&rotated.log, words)?;
        then(&rotated);
        rotated.follower.catch_up(&rotated.writer);
    }
    Some(rotated)
}

#[test]
fn no_line_is_lost_when_logrotate_renames_the_log() {
    let rotated = rotated(8, "create", |rotated| {
        rotated.writer.wait_for_more(some_lines());
        rotated.writer.reopen();
    });
    if let Some(Rotated { writer, follower, .. }) = rotated {
        expect_all(writer, &follower);
    }
}

#[test]
fn no_line_is_lost_when_logrotate_compresses_the_old_log_at_once() {
    let rotated = rotated(4, "create", |Rotated { writer, directory, .. }| {
        // The writer is told before the old file is compressed, as `postrotate` does it.
        writer.reopen();
        let old = directory.path().join("kern.log.1");
        fs::write(directory.path().join("kern.log.1.gz"), fs::read(&old).unwrap()).unwrap();
        fs::remove_file(&old).unwrap();
    });
    if let Some(Rotated { writer, follower, .. }) = rotated {
        expect_all(writer, &follower);
    }
}

#[test]
fn no_line_is_lost_when_logrotate_leaves_no_new_log() {
    let rotated = rotated(4, "nocreate", |Rotated { writer, follower, log, .. }| {
        follower.wait_for_report(&Report::Missing(log.clone()));
        writer.wait_for_more(some_lines());
        writer.reopen();
    });
    if let Some(Rotated { writer, follower, .. }) = rotated {
        expect_all(writer, &follower);
    }
}

#[test]
fn a_line_that_copytruncate_leaves_anywhere_is_read_once() {
    let rotations = 8;
    let Some(Rotated { writer, follower, log, directory }) =
        rotated(rotations, "copytruncate", |_| {})
    else {
        return;
    };
    let count = writer.stop();
    follower.wait_for(count - 1);

    let mut kept: Vec<u64> = (1..=rotations)
        .rev()
        .flat_map(|copy| numbers_in(&directory.path().join(format!("kern.log.{copy}"))))
        .collect();
    kept.extend(numbers_in(&log));
    // What was written between copying and cutting is in neither, as logrotate's manual says. It may have been read.
    let seen = follower.seen();
    assert!(
        seen.is_sorted_by(|one, next| one < next),
        "a line was read twice, or before an earlier one"
    );
    let of_those_kept: Vec<u64> =
        seen.into_iter().filter(|number| kept.binary_search(number).is_ok()).collect();
    assert_same(&of_those_kept, &kept);
}

#[test]
fn no_line_of_a_real_rsyslog_is_lost_when_it_is_rotated_and_restarted() {
    let (_directory, log) = place();
    let follower = Follower::start(&log);
    let Some(mut rsyslog) = rsyslog::Rsyslog::start(&log) else { return };
    let hup = format!(
        "create\n delaycompress\n compress\n postrotate\n kill -HUP $(cat {})\n endscript",
        rsyslog.pid_file().display()
    );
    let mut sent = 0;
    for round in 0..6 {
        rsyslog.send(sent..sent + some_lines());
        sent += some_lines();
        if logrotate(&log, &hup).is_none() {
            return;
        }
        rsyslog.send(sent..sent + some_lines());
        sent += some_lines();
        follower.wait_for(sent - 1);
        if round % 2 == 1 {
            // What is in its socket when it stops is lost to it, so all has been read by now.
            rsyslog.restart();
        }
    }
    assert_same(&follower.seen(), &all(sent));
}
