#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| knockknock_fuzz::check("steps", input));
