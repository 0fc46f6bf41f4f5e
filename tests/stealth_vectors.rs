//! Knocks of the stealth layout that another implementation made (`vectors/stealth.py`).

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on stops")]

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use knockknock::layout::Request;
use knockknock::layout::stealth::{SECRET_LEN, StealthFields, StealthKeys};
use serde::Deserialize;

#[derive(Deserialize)]
struct Vector {
    secret: String,
    number: u64,
    request: u16,
    source: Option<IpAddr>,
    seq: u32,
    tsval: u32,
}

impl Vector {
    fn keys(&self) -> StealthKeys {
        let mut secret = [0; SECRET_LEN];
        assert_eq!(self.secret.len(), 2 * SECRET_LEN);
        for (nth, byte) in secret.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&self.secret[2 * nth..2 * nth + 2], 16).unwrap();
        }
        StealthKeys::new(&secret)
    }
}

fn vectors() -> Vec<Vector> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/stealth.json");
    let vectors: Vec<Vector> = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!(vectors.len(), 106);
    vectors
}

#[test]
fn we_seal_what_the_other_implementation_sealed() {
    for vector in vectors() {
        let fields = vector.keys().seal(vector.number, Request(vector.request), vector.source);
        assert_eq!(fields, StealthFields { tag: vector.seq, mac: vector.tsval });
    }
}

#[test]
fn we_open_what_the_other_implementation_sealed_for_its_number_alone() {
    for vector in vectors() {
        let (keys, asked) = (vector.keys(), Request(vector.request));
        let requests = [Request(vector.request.wrapping_add(1)), asked];
        assert_eq!(keys.open(vector.number, requests, vector.source, vector.tsval), Some(asked));
        assert_eq!(keys.open(vector.number + 1, requests, vector.source, vector.tsval), None);
    }
}
