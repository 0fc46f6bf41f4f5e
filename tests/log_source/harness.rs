//! What the tests of the file source share: numbered lines, and waiting for a condition (never for a time).

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Much longer than anything takes on a machine that is busy with other things; only a failure waits so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until the condition holds.
#[track_caller]
pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A directory that goes when dropped, and the path of a log in it.
pub(crate) fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("kern.log");
    (directory, log)
}

/// How many lines are written between two happenings: a fiftieth of a second's, or a tenth's where `KNOCKKNOCK_ALL_CASES`
/// is set, as scripts/test.sh sets it.
pub(crate) fn some_lines() -> u64 {
    if std::env::var_os("KNOCKKNOCK_ALL_CASES").is_some() { 1000 } else { 200 }
}

/// A line with a number, about as long as the kernel's lines, that the source finds worth handing on.
pub(crate) fn line(number: u64) -> String {
    format!(
        "Nov 20 09:39:15 server kernel: [{:5}.{:06}] REJECT IN=eth0 OUT= SRC=192.0.2.7 DST=198.51.100.1 LEN=60 \
         PROTO=TCP SPT=1024 DPT=666 SEQ={number} ACK=0 WINDOW=1024 RES=0x00 SYN URGP=0 OPT (020405B4) \n",
        number / 1_000_000,
        number % 1_000_000
    )
}

/// The number of such a line, if it is one and whole.
pub(crate) fn number(text: &[u8]) -> Option<u64> {
    let text = str::from_utf8(text).ok()?;
    let number = text.split_once(" SEQ=")?.1.split_once(' ')?.0.parse().ok()?;
    (text == line(number).trim_end_matches('\n')).then_some(number)
}

/// The numbers of the lines in a file.
pub(crate) fn numbers_in(path: &Path) -> Vec<u64> {
    let content = std::fs::read(path).unwrap_or_default();
    content.split(|byte| *byte == b'\n').filter_map(|text| number(without_nuls(text))).collect()
}

fn without_nuls(text: &[u8]) -> &[u8] {
    &text[text.iter().take_while(|byte| **byte == 0).count()..]
}

/// The numbers from 0 up to, not including, the given one.
pub(crate) fn all(count: u64) -> Vec<u64> {
    (0..count).collect()
}

/// Compares long lists of numbers without printing them.
#[track_caller]
pub(crate) fn assert_same(seen: &[u64], expected: &[u64]) {
    let at = seen.iter().zip(expected).position(|(seen, expected)| seen != expected);
    let at = at.or((seen.len() != expected.len()).then_some(seen.len().min(expected.len())));
    if let Some(at) = at {
        let around = |numbers: &[u64]| {
            let from = at.saturating_sub(3).min(numbers.len());
            numbers[from..(at + 5).min(numbers.len())].to_vec()
        };
        panic!(
            "{} lines read, {} expected; they differ at the {at}th: read {:?}, expected {:?}",
            seen.len(),
            expected.len(),
            around(seen),
            around(expected)
        );
    }
}

/// A tool is missing: nothing is tested with it by a plain `cargo test`, and `scripts/test.sh`, which installs it, fails.
#[track_caller]
pub(crate) fn cannot_test(why: &str) {
    if cfg!(feature = "e2e") {
        panic!("{why}");
    } else {
        eprintln!("{why}: nothing is tested with it");
    }
}

/// Sets a flag when a test is over, also when it fails.
pub(crate) struct SetOnDrop<'flag>(pub(crate) &'flag AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
