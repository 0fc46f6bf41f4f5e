//! The properties of `tests/properties/boundary`, for libFuzzer.

#![forbid(unsafe_code)]

#[path = "../../tests/properties/boundary/mod.rs"]
mod boundary;

/// Panics if a property of the boundary does not hold for `input`.
pub fn check(name: &str, input: &[u8]) {
    let (_, holds) = boundary::ALL.iter().find(|boundary| boundary.0 == name).expect("a boundary");
    holds(input);
}
