//! Knocks that the original knockknock 0.8 made, both ways: what we seal is what it sent, and we open what it sent.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::format_collect,
    reason = "a test that cannot go on stops"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use knockknock::layout::Request;
use knockknock::layout::classic::{self, Keys, OpenError, SPENT};
use knockknock::profile::Profile;
use knockknock::syn::SynFields;
use serde::Deserialize;

#[derive(Deserialize)]
struct Vector {
    cipher_key_hex: String,
    mac_key_hex: String,
    counter: u32,
    counter_after: u32,
    knock_port: u16,
    port: u16,
    packet: Packet,
    profile_files: ProfileFiles,
}

#[derive(Deserialize)]
struct Packet {
    ip_id: u16,
    tcp_seq: u32,
    tcp_ack: u32,
    tcp_window: u16,
}

#[derive(Deserialize)]
struct ProfileFiles {
    #[serde(rename = "cipher.key")]
    cipher_key: String,
    #[serde(rename = "mac.key")]
    mac_key: String,
    config: String,
}

impl Vector {
    fn fields(&self) -> SynFields {
        let Packet { ip_id: id, tcp_seq: seq, tcp_ack: ack, tcp_window: window } = self.packet;
        SynFields { id, seq, ack, window }
    }

    fn keys(&self) -> Keys {
        self.profile().keys.classic().unwrap().clone()
    }

    /// The profile as the original's files give it.
    fn profile(&self) -> Profile {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &str| {
            let path = dir.path().join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        };
        write("cipher.key", &self.profile_files.cipher_key);
        write("mac.key", &self.profile_files.mac_key);
        write("config", &self.profile_files.config);
        write("counter", &format!("{}\n", self.counter));
        let (profile, counter) = Profile::load(dir.path()).unwrap();
        assert_eq!(counter.read::<u32>().unwrap(), self.counter);
        profile
    }
}

fn vectors() -> Vec<Vector> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/classic.json");
    let vectors: Vec<Vector> = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!(vectors.len(), 24);
    vectors
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_original_s_profile_files_give_its_keys_and_knock_port() {
    for vector in vectors() {
        let profile = vector.profile();
        let keys = vector.keys();
        assert_eq!(hex(keys.bytes().0), vector.cipher_key_hex);
        assert_eq!(hex(keys.bytes().1), vector.mac_key_hex);
        assert_eq!(profile.config.knock_port, Some(vector.knock_port));
    }
}

#[test]
fn we_seal_what_the_original_sent() {
    for vector in vectors() {
        let keys = vector.keys();
        assert_eq!(classic::seal(&keys, Request(vector.port), vector.counter), Ok(vector.fields()));
    }
}

#[test]
fn we_open_what_the_original_sent_and_end_at_its_next_counter() {
    for vector in vectors() {
        let keys = vector.keys();
        for behind in [0, 1, 19] {
            let Some(counter) = vector.counter.checked_sub(behind) else { continue };
            let (request, used) = classic::open(&keys, counter, 20, &vector.fields()).unwrap();
            assert_eq!((request, used + 1), (Request(vector.port), vector.counter_after));
        }
    }
}

#[test]
fn the_original_s_knocks_open_once_and_only_within_the_window() {
    for vector in vectors() {
        let keys = vector.keys();
        let again =
            if vector.counter_after == SPENT { OpenError::Spent } else { OpenError::NoMatch };
        assert_eq!(
            classic::open(&keys, vector.counter_after, 20, &vector.fields()),
            Err(again),
            "a replay"
        );
        if let Some(counter) = vector.counter.checked_sub(20) {
            let beyond = classic::open(&keys, counter, 20, &vector.fields());
            assert_eq!(beyond, Err(OpenError::NoMatch), "the first beyond the window");
        }
    }
}
