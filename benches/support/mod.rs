//! What the benchmarks share. Each uses its part.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark that cannot go on stops, and printing is what it is for"
)]

pub(crate) mod lines;
pub(crate) mod measure;
