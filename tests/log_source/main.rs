//! A log file that is followed while all that can happen to a log file happens to it, with a writer that never stops:
//! every line is read exactly once, and in order.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::similar_names,
    reason = "clippy does not see that a harness for tests is a test: what cannot go on stops"
)]

mod follower;
mod harness;
mod logrotate;
mod rsyslog;
mod writer;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use follower::{Follower, expect_all, followed, read_turn};
use harness::{all, assert_same, line, number, place, some_lines, wait_until};
use knockknock::daemon::log_source::error::{Report, SourceError};
use knockknock::daemon::log_source::{LogChoice, LogSource, OpenedLog};
use writer::{Mode, Writer, append};

#[test]
fn no_line_is_lost_when_the_log_is_renamed_and_created_anew() {
    let (_directory, log, follower, writer) = followed(Mode::Append);
    for rotation in 0..8 {
        writer.wait_for_more(some_lines());
        fs::rename(&log, log.with_extension(format!("log.{rotation}"))).unwrap();
        // The writer goes on in the old file, before there is a new one and after.
        writer.wait_for_more(some_lines() / 2);
        append(&log, "");
        writer.wait_for_more(some_lines() / 2);
        writer.reopen();
        follower.catch_up(&writer);
    }
    expect_all(writer, &follower);
    assert!(follower.reports().contains(&Report::NewFile(log)));
}

#[test]
fn no_line_is_lost_when_the_log_is_copied_and_cut_between_two_lines() {
    for mode in [Mode::Append, Mode::Positioned] {
        let (_directory, log, follower, writer) = followed(mode);
        for copy in 0..8 {
            writer.wait_for_more(some_lines());
            // The follower has no say in when: what it had not read is in the copy alone.
            writer.between_lines(|| {
                fs::copy(&log, log.with_extension(format!("log.{copy}"))).unwrap();
                fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(0).unwrap();
            });
            follower.catch_up(&writer);
        }
        expect_all(writer, &follower);
    }
}

#[test]
fn no_line_is_lost_when_the_log_is_deleted_and_created_anew() {
    let (_directory, log, follower, writer) = followed(Mode::Append);
    for _ in 0..8 {
        writer.wait_for_more(some_lines());
        fs::remove_file(&log).unwrap();
        // The writer goes on in the file that has no name any more.
        writer.wait_for_more(some_lines());
        writer.reopen();
        follower.catch_up(&writer);
    }
    expect_all(writer, &follower);
}

#[test]
fn no_line_is_lost_when_the_path_is_a_link_that_moves() {
    let (directory, log) = place();
    let day = |day: u32| directory.path().join("days").join(format!("{day}.log"));
    fs::create_dir(directory.path().join("days")).unwrap();
    append(&day(0), "");
    symlink("days/0.log", &log).unwrap();
    let follower = Follower::start(&log);
    let writer = Writer::start(&log, Mode::Append);
    for next in 1..8 {
        writer.wait_for_more(some_lines());
        let link = directory.path().join("link");
        // Relative and absolute ones by turns.
        let target =
            if next % 2 == 0 { PathBuf::from(format!("days/{next}.log")) } else { day(next) };
        symlink(target, &link).unwrap();
        fs::rename(&link, &log).unwrap();
        writer.wait_for_more(some_lines());
        writer.reopen();
        follower.catch_up(&writer);
    }
    expect_all(writer, &follower);
}

#[test]
fn no_line_is_lost_when_a_link_on_the_way_moves() {
    let (directory, _) = place();
    let today = directory.path().join("today");
    for day in 0..6 {
        fs::create_dir(directory.path().join(format!("{day}"))).unwrap();
    }
    symlink("0", &today).unwrap();
    let log = today.join("kern.log");
    append(&log, "");
    let follower = Follower::start(&log);
    let writer = Writer::start(&log, Mode::Append);
    for day in 1..6 {
        writer.wait_for_more(some_lines());
        fs::remove_file(&today).unwrap();
        symlink(format!("{day}"), &today).unwrap();
        writer.wait_for_more(some_lines());
        writer.reopen();
        follower.catch_up(&writer);
    }
    expect_all(writer, &follower);
}

#[test]
fn a_log_that_does_not_exist_yet_is_waited_for() {
    let (directory, _) = place();
    let log = directory.path().join("var/log/kern.log");
    let follower = Follower::start(&log);
    follower.wait_for_report(&Report::Missing(log.clone()));
    fs::create_dir(directory.path().join("var")).unwrap();
    fs::create_dir(directory.path().join("var/log")).unwrap();
    let writer = Writer::start(&log, Mode::Append);
    writer.wait_for_more(some_lines());
    expect_all(writer, &follower);
    assert_eq!(follower.reports(), [Report::Missing(log.clone()), Report::NewFile(log)]);
}

#[test]
fn no_line_is_lost_when_the_directory_is_replaced() {
    let (directory, _) = place();
    let (var, away) = (directory.path().join("var"), directory.path().join("away"));
    let log = var.join("log/kern.log");
    fs::create_dir_all(var.join("log")).unwrap();
    append(&log, "");
    let follower = Follower::start(&log);
    let writer = Writer::start(&log, Mode::Append);
    for time in 0..8 {
        writer.wait_for_more(some_lines());
        if time % 2 == 0 {
            fs::rename(&var, away.with_extension(format!("{time}"))).unwrap();
        } else {
            fs::remove_dir_all(&var).unwrap();
        }
        writer.wait_for_more(some_lines() / 2);
        fs::create_dir_all(var.join("log")).unwrap();
        writer.wait_for_more(some_lines() / 2);
        writer.reopen();
        follower.catch_up(&writer);
    }
    expect_all(writer, &follower);
}

#[test]
fn no_line_is_lost_when_the_old_log_is_moved_to_another_directory() {
    let (directory, log) = place();
    let archive = directory.path().join("archive");
    fs::create_dir(&archive).unwrap();
    append(&log, "");
    let follower = Follower::start(&log);
    let writer = Writer::start(&log, Mode::Append);
    for time in 0..6 {
        writer.wait_for_more(some_lines());
        fs::rename(&log, archive.join(format!("{time}"))).unwrap();
        append(&log, "");
        // In no directory that is watched: only the open file tells of these.
        writer.wait_for_more(some_lines());
        follower.wait_for(writer.written() - 1);
        writer.reopen();
        follower.catch_up(&writer);
    }
    expect_all(writer, &follower);
}

#[test]
fn a_flood_of_other_writes_beside_the_log_keeps_no_new_log_from_being_followed() {
    let (directory, log) = place();
    append(&log, "");
    let follower = Follower::start(&log);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = harness::SetOnDrop(&stop);
        for flood in 0..3 {
            let names = [0, 1].map(|file| directory.path().join(format!("other-{flood}-{file}")));
            let stop = &stop;
            scope.spawn(move || {
                let files = names.map(|name| writer::open(&name, Mode::Positioned));
                // Two by turns: the kernel tells of the same thing twice in a row only once.
                while !stop.load(Ordering::Relaxed) {
                    for file in &files {
                        std::os::unix::fs::FileExt::write_at(file, b"x", 0).unwrap();
                    }
                }
            });
        }
        for number in 0..20 {
            append(&log, line(number));
            follower.wait_for(number);
            fs::rename(&log, log.with_extension("old")).unwrap();
            append(&log, "");
        }
    });
    assert_eq!(follower.seen(), all(20));
}

#[test]
fn nothing_is_repeated_when_the_writer_stops_and_starts() {
    let (_directory, log) = place();
    append(&log, "");
    let follower = Follower::start(&log);
    let mut expected = Vec::new();
    for _ in 0..4 {
        let writer = Writer::start(&log, Mode::Append);
        writer.wait_for_more(some_lines());
        let count = writer.stop();
        expected.extend(all(count));
        wait_until("all lines are read", || follower.seen().len() == expected.len());
    }
    assert_same(&follower.seen(), &expected);
    assert_eq!(follower.reports(), []);
}

#[test]
fn nothing_is_repeated_when_the_old_log_comes_back() {
    let (_directory, log, follower, writer) = followed(Mode::Append);
    writer.wait_for_more(some_lines());
    fs::rename(&log, log.with_extension("away")).unwrap();
    follower.wait_for_report(&Report::Missing(log.clone()));
    writer.wait_for_more(some_lines());
    fs::rename(log.with_extension("away"), &log).unwrap();
    follower.wait_for_report(&Report::Back(log));
    writer.wait_for_more(some_lines());
    expect_all(writer, &follower);
}

#[test]
fn only_lines_that_begin_after_the_start_count() {
    let (_directory, log) = place();
    append(&log, line(0));
    append(&log, &line(1)[..50]);
    let follower = Follower::start(&log);
    append(&log, &line(1)[50..]);
    append(&log, line(2));
    follower.wait_for(2);
    assert_eq!(follower.seen(), [2]);
}

#[test]
fn a_line_is_read_once_it_is_finished() {
    let (_directory, log) = place();
    append(&log, "");
    let follower = Follower::start(&log);
    for (at, byte) in line(0).bytes().enumerate() {
        assert_eq!(follower.last(), None, "after {at} bytes");
        append(&log, [byte]);
    }
    follower.wait_for(0);
    // The first half is the last thing in the old file, and the second comes when there is a new one already.
    append(&log, line(1));
    append(&log, &line(2)[..50]);
    fs::rename(&log, log.with_extension("old")).unwrap();
    append(&log, "");
    follower.wait_for_report(&Report::NewFile(log.clone()));
    append(&log.with_extension("old"), &line(2)[50..]);
    append(&log, line(3));
    follower.wait_for(3);
    assert_eq!(follower.seen(), [0, 1, 2, 3]);
}

#[test]
fn a_line_longer_than_the_buffer_is_refused_and_the_next_is_fine() {
    let (_directory, log) = place();
    append(&log, "");
    let follower = Follower::start(&log);
    let long = |length: usize| {
        let mut text = line(99);
        text.insert_str(text.len() - 1, &"x".repeat(length - line(99).len()));
        text
    };
    append(&log, line(0));
    append(&log, long(10_000_000));
    append(&log, line(1));
    append(&log, long(64 * 1024 + 1));
    append(&log, line(2));
    follower.wait_for(2);
    assert_eq!(follower.seen(), [0, 1, 2]);
    assert_eq!(follower.lines().len(), 3);
    let too_long = Report::LineTooLong(log.clone(), 64 * 1024);
    assert_eq!(follower.reports(), [too_long.clone(), too_long]);
    // The longest that is let through.
    append(&log, long(64 * 1024));
    append(&log, line(3));
    follower.wait_for(3);
    assert_eq!(follower.lines().len(), 5);
    assert_eq!(follower.reports().len(), 2);
}

#[test]
fn binary_bytes_spoil_no_line_but_their_own() {
    let (_directory, log) = place();
    append(&log, "");
    let follower = Follower::start(&log);
    let bytes: Vec<u8> = (0..=u8::MAX).collect();
    append(&log, line(0));
    append(&log, &bytes);
    append(&log, "\n\r\n\n");
    append(&log, [0; 300]);
    append(&log, line(1));
    append(&log, "x\0");
    append(&log, line(7));
    append(&log, vec![0; 200_000]);
    append(&log, line(2));
    follower.wait_for(2);
    // The line after NULs in its middle is handed on as it is: the parser refuses it.
    assert_eq!(follower.seen(), [0, 1, 2]);
    assert_eq!(follower.lines().len(), 4);
    assert_eq!(follower.reports(), []);
}

#[test]
fn a_log_that_may_not_be_read_any_more_is_reported_and_read_when_it_may_be() {
    let (directory, log) = place();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    append(&log, "");
    fs::set_permissions(&log, fs::Permissions::from_mode(0o644)).unwrap();
    let follower = Follower::start_unprivileged(&log);
    append(&log, line(0));
    follower.wait_for(0);
    let new = log.with_extension("new");
    append(&new, line(1));
    fs::set_permissions(&new, fs::Permissions::from_mode(0o000)).unwrap();
    fs::rename(&log, log.with_extension("old")).unwrap();
    fs::rename(&new, &log).unwrap();
    wait_until("the loss is reported", || {
        follower
            .reports()
            .iter()
            .any(|report| matches!(report, Report::NoAccess(path, _) if *path == log))
    });
    // The old one is still read meanwhile.
    append(&log.with_extension("old"), line(2));
    follower.wait_for(2);
    fs::set_permissions(&log, fs::Permissions::from_mode(0o644)).unwrap();
    wait_until("both files are read", || follower.seen() == [0, 2, 1]);
    let told = |report: &Report| matches!(report, Report::NoAccess(..));
    assert_eq!(follower.reports().iter().filter(|report| told(report)).count(), 1);
}

#[test]
fn what_is_no_regular_file_is_refused_without_waiting_for_it() {
    let (_directory, log) = place();
    nix::unistd::mkfifo(&log, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let opened = OpenedLog::open(&LogChoice::File(log.clone()));
    assert!(matches!(opened, Err(SourceError::NotAFile(path)) if path == log));
    fs::remove_file(&log).unwrap();

    append(&log, "");
    let follower = Follower::start(&log);
    append(&log, line(0));
    follower.wait_for(0);
    fs::remove_file(&log).unwrap();
    nix::unistd::mkfifo(&log, nix::sys::stat::Mode::S_IRWXU).unwrap();
    follower.wait_for_report(&Report::NotAFile(log.clone()));
    fs::remove_file(&log).unwrap();
    append(&log, line(1));
    follower.wait_for(1);
    assert_eq!(follower.seen(), [0, 1]);
}

/// Reads what there is now, on this thread.
fn read_all(source: &mut LogSource) -> (Vec<u64>, Vec<Report>) {
    let (mut numbers, mut reports) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        let turn = read_turn(source);
        numbers.extend(turn.lines.iter().filter_map(|line| number(line)));
        reports.extend(turn.reports);
    }
    (numbers, reports)
}

fn source(log: &Path) -> LogSource {
    OpenedLog::open(&LogChoice::File(log.to_owned())).unwrap().watch().unwrap()
}

fn lines(numbers: std::ops::Range<u64>) -> String {
    numbers.map(line).collect()
}

#[test]
fn a_log_that_was_cut_and_is_longer_than_before_is_read_from_its_beginning() {
    let (_directory, log) = place();
    append(&log, "");
    let mut source = source(&log);
    append(&log, lines(0..10));
    assert_eq!(read_all(&mut source).0, all(10));
    // The same file, and not looked at until it is longer than it was. Its lines have the same length.
    fs::write(&log, lines(10..1000)).unwrap();
    let (numbers, reports) = read_all(&mut source);
    assert_same(&numbers, &(10..1000).collect::<Vec<_>>());
    assert_eq!(reports, [Report::Truncated { path: log, from_copy: false }]);
}

#[test]
fn what_was_cut_before_it_was_read_is_read_from_the_copy() {
    for copy_name in ["kern.log.1", "kern.log-20261120", "kern.1.log"] {
        let (directory, log) = place();
        append(&log, lines(0..5));
        let mut source = source(&log);
        append(&log, lines(5..10));
        assert_eq!(read_all(&mut source).0, [5, 6, 7, 8, 9]);
        append(&log, lines(10..20));
        fs::copy(&log, directory.path().join(copy_name)).unwrap();
        // An older copy, a file that is none, and one that is longer but not the same.
        fs::write(directory.path().join("kern.log.2"), lines(0..12)).unwrap();
        fs::write(directory.path().join("kern.log.3.gz"), [7; 5000]).unwrap();
        fs::write(directory.path().join("kern.log.4"), lines(100..200)).unwrap();
        fs::write(&log, lines(20..30)).unwrap();
        let (numbers, reports) = read_all(&mut source);
        assert_eq!(numbers, (10..30).collect::<Vec<_>>());
        assert_eq!(reports, [Report::Truncated { path: log, from_copy: true }]);
    }
}

#[test]
fn the_copy_is_found_among_two_years_of_older_ones() {
    let (directory, log) = place();
    for day in 0..730 {
        fs::write(directory.path().join(format!("kern.log-{day}.gz")), [7; 50]).unwrap();
    }
    append(&log, lines(0..5));
    let mut source = source(&log);
    append(&log, lines(5..10));
    assert_eq!(read_all(&mut source).0, [5, 6, 7, 8, 9]);
    append(&log, lines(10..20));
    fs::copy(&log, directory.path().join("kern.log-20261120")).unwrap();
    fs::write(&log, lines(20..30)).unwrap();
    let (numbers, reports) = read_all(&mut source);
    assert_eq!(numbers, (10..30).collect::<Vec<_>>());
    assert_eq!(reports, [Report::Truncated { path: log, from_copy: true }]);
}

#[test]
fn the_hole_that_a_truncation_leaves_is_skipped() {
    let (_directory, log) = place();
    append(&log, "");
    let mut source = source(&log);
    append(&log, lines(0..10));
    assert_eq!(read_all(&mut source).0, all(10));
    let file = fs::OpenOptions::new().write(true).open(&log).unwrap();
    file.set_len(0).unwrap();
    // Larger than could be read through in any time, were the hole read.
    std::os::unix::fs::FileExt::write_all_at(&file, lines(10..20).as_bytes(), 1 << 42).unwrap();
    assert_eq!(read_all(&mut source).0, (10..20).collect::<Vec<_>>());
}

#[test]
fn one_turn_reads_a_bounded_piece_and_the_descriptor_stays_ready_for_the_rest() {
    let (_directory, log) = place();
    append(&log, "");
    let mut source = source(&log);
    let count = 100_000;
    append(&log, lines(0..count));
    let mut numbers = Vec::new();
    let mut turns = 0;
    while numbers.len() < usize::try_from(count).unwrap() {
        let mut ready = [nix::poll::PollFd::new(source.fd(), nix::poll::PollFlags::POLLIN)];
        assert_eq!(nix::poll::poll(&mut ready, nix::poll::PollTimeout::from(60_000_u16)), Ok(1));
        let before = numbers.len();
        numbers.extend(read_turn(&mut source).lines.iter().filter_map(|line| number(line)));
        assert!((numbers.len() - before) * line(0).len() <= 2 << 20);
        turns += 1;
    }
    assert!(turns >= 10);
    assert_same(&numbers, &all(count));
}

#[test]
fn a_missing_or_unreadable_source_is_said_by_name() {
    let (directory, log) = place();
    append(&log, "");
    let below_a_file = log.join("kern.log");
    assert!(OpenedLog::open(&LogChoice::File(below_a_file)).is_ok());
    let error = OpenedLog::open(&LogChoice::File(directory.path().to_owned())).unwrap_err();
    assert!(error.to_string().contains(directory.path().to_str().unwrap()), "{error}");
}

#[test]
fn a_choice_of_log_is_a_word_or_a_path() {
    assert_eq!("auto".parse(), Ok(LogChoice::Auto));
    assert_eq!("kmsg".parse(), Ok(LogChoice::Kmsg));
    assert_eq!("/dev/kmsg".parse(), Ok(LogChoice::File("/dev/kmsg".into())));
    assert_eq!("./auto".parse(), Ok(LogChoice::File("./auto".into())));
}
