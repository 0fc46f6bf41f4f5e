//! The boundaries at which bytes come in, and what has to hold at each whatever the bytes are.
//!
//! One file a boundary. Its `holds` takes any bytes, panics where a property does not hold, and says whether the bytes
//! were taken for something, so that a run in which nothing was ever taken does not pass for a check. The limits and
//! grammars are stated here a second time, by other means than in `src`: the two are to be compared, not shared.
//!
//! `tests/properties/main.rs` runs them on seeds, corpus and mutations; `fuzz/` gives them to libFuzzer.

pub(crate) mod answers;
pub(crate) mod auth;
pub(crate) mod chunk;
pub(crate) mod classic;
pub(crate) mod config;
pub(crate) mod import;
pub(crate) mod ini;
pub(crate) mod input;
pub(crate) mod line;
pub(crate) mod message;
pub(crate) mod profile;
pub(crate) mod sequence;
pub(crate) mod socks;
pub(crate) mod steps;
pub(crate) mod tags;

/// A boundary: the name of its fuzz target and corpus, and its properties.
pub(crate) type Boundary = (&'static str, fn(&[u8]) -> bool);

/// All of them.
pub(crate) const ALL: [Boundary; 13] = [
    ("answers", answers::holds),
    ("auth", auth::holds),
    ("chunk", chunk::holds),
    ("classic", classic::holds),
    ("config", config::holds),
    ("import", import::holds),
    ("line", line::holds),
    ("message", message::holds),
    ("profile", profile::holds),
    ("sequence", sequence::holds),
    ("socks", socks::holds),
    ("steps", steps::holds),
    ("tags", tags::holds),
];

/// What is wrong is told in one line that no terminal takes for anything else, whatever was in the file.
pub(crate) fn can_be_shown(error: &str) {
    // The hint is on a line of its own.
    let text = error.replacen("\nfix: ", " ", 1);
    assert!(!text.is_empty() && !text.chars().any(char::is_control), "{error:?}");
}
