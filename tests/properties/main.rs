//! A short run of the fuzz targets with an ordinary toolchain: every property of `boundary` on the seeds, on the corpus
//! that is kept in `fuzz/corpus`, and on mutations of both that are the same in each run. The long runs are libFuzzer's
//! (`docs/fuzzing.md`).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]
#![allow(clippy::indexing_slicing, clippy::format_collect, reason = "as above; and short texts")]

mod boundary;
mod mutate;
mod seeds;

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use boundary::{ALL, Boundary};
use mutate::Mutator;

fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = fuzz_dir().join("corpus").join(name);
    let mut files: Vec<PathBuf> =
        fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{dir:?} is empty");
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

fn check((name, holds): Boundary, input: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| holds(input))).unwrap_or_else(|_| {
        panic!("what is said above was found by {name:?} with b\"{}\"", input.escape_ascii())
    })
}

/// Each input as it is, then mutations: a tenth of them, or all where `KNOCKKNOCK_ALL_CASES` is set, as scripts/test.sh
/// sets it. Some have to be taken and some refused: else nothing was checked.
fn short_run(name: &str, mutations: usize) {
    let all = std::env::var_os("KNOCKKNOCK_ALL_CASES").is_some();
    let mutations = if all { mutations } else { mutations / 10 };
    let boundary = *ALL.iter().find(|boundary| boundary.0 == name).unwrap();
    let mut inputs = seeds::of(name);
    inputs.extend(corpus(name));
    for input in &inputs {
        check(boundary, input);
    }
    let mut mutator = Mutator::new(&inputs);
    let taken = (0..mutations).filter(|_| check(boundary, mutator.next())).count();
    assert!(taken > mutations / 100 && taken < mutations, "{taken} of {mutations} were taken");
}

#[test]
fn a_log_line_tells_of_the_refused_packet_alone() {
    short_run("line", 100_000);
}

#[test]
fn the_search_for_wanted_lines_loses_none_and_adds_none() {
    short_run("chunk", 100_000);
}

#[test]
fn a_servers_config_is_within_bounds_or_refused() {
    short_run("config", 30_000);
}

#[test]
fn a_profile_is_whole_or_refused() {
    short_run("profile", 5_000);
}

#[test]
fn a_profile_is_imported_of_its_one_line_or_not_at_all() {
    short_run("import", 50_000);
}

#[test]
fn only_the_knock_that_the_keys_make_opens() {
    short_run("classic", 3_000);
}

#[test]
fn no_counter_opens_twice_in_whatever_order_knocks_come() {
    short_run("sequence", 1_000);
}

#[test]
fn no_message_is_granted_outside_the_limits() {
    short_run("message", 100_000);
}

#[test]
fn a_socks_request_is_read_to_its_last_byte_and_no_further() {
    short_run("socks", 50_000);
}

#[test]
fn only_the_one_line_of_the_auth_file_is_let_in() {
    short_run("auth", 30_000);
}

#[test]
fn the_kernels_answer_counts_for_what_it_says_and_no_more() {
    short_run("answers", 100_000);
}

#[test]
fn no_number_opens_twice_whatever_the_clocks_say() {
    short_run("steps", 20_000);
}

#[test]
fn a_packet_is_found_by_its_tag_and_proved_by_its_mac() {
    short_run("tags", 5_000);
}

#[test]
fn every_boundary_has_its_fuzz_target_and_no_target_is_without_properties() {
    let names = |dir: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(fuzz_dir().join(dir)).unwrap();
        entries
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect()
    };
    let boundaries = ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("fuzz_targets"), boundaries);
    assert_eq!(names("corpus"), boundaries);
}
