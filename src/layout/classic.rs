//! The classic layout: the protocol of knockknock 0.8, byte for byte (`docs/protocol.md`, "classic").
//!
//! ```text
//! plaintext  (12 bytes) = request (2) || HMAC-SHA1(mac.key, request)[0..10]
//! keystream  (16 bytes) = AES-128-encrypt(cipher.key, 0^12 || counter)
//! ciphertext (12 bytes) = plaintext XOR keystream[0..12]  ->  ID (2) SEQ (4) ACK (4) WINDOW (2)
//! ```

use std::fmt;

use aes::Aes128Enc;
use aes::cipher::{InnerIvInit, StreamCipher};
use ctr::{Ctr32BE, CtrCore};
use ctutils::CtEq;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use zeroize::Zeroizing;

use super::Request;
use crate::syn::SynFields;

/// Length of `cipher.key` and of `mac.key`, in bytes.
pub const KEY_LEN: usize = 16;

/// A counter with this value is spent: it is never used, nothing can follow it.
pub const SPENT: u32 = u32::MAX;

const REQUEST_LEN: usize = 2;
/// Of the 20 bytes of HMAC-SHA1.
const MAC_LEN: usize = 10;
const KNOCK_LEN: usize = REQUEST_LEN + MAC_LEN;
/// Of AES: a counter uses the first 12 bytes of its block.
const BLOCK_LEN: usize = 16;
/// Counters whose key streams are made at once: as many as a processor can encrypt side by side.
const AT_ONCE: usize = 8;
/// What SHA-1 hashes at once, in bytes.
const SHA1_BLOCK: usize = 64;

/// The two keys of a profile. Wiped from memory when dropped; `Debug` shows no byte of them.
#[derive(Clone)]
pub struct Keys {
    cipher: Zeroizing<[u8; KEY_LEN]>,
    mac: Zeroizing<[u8; KEY_LEN]>,
    /// The same, ready to be used: each wipes itself.
    aes: Aes128Enc,
    hmac: Hmac<Sha1>,
    /// Of each request's MAC the first byte; empty until that is worth its room.
    first_bytes: Zeroizing<Vec<u8>>,
}

impl Keys {
    /// Keys from the bytes of `cipher.key` and `mac.key`.
    #[must_use]
    pub fn new(cipher: [u8; KEY_LEN], mac: [u8; KEY_LEN]) -> Self {
        // HMAC pads a short key with zeros to a block (RFC 2104).
        let mut block = Zeroizing::new([0; SHA1_BLOCK]);
        block.iter_mut().zip(mac).for_each(|(to, byte)| *to = byte);
        Self {
            aes: Aes128Enc::new(&cipher.into()),
            hmac: <Hmac<Sha1> as KeyInit>::new(&(*block).into()),
            cipher: cipher.into(),
            mac: mac.into(),
            first_bytes: Zeroizing::default(),
        }
    }

    /// Works out the first byte of every request's MAC, which takes some 10 ms and 64 KiB. From then on [`open`] hashes
    /// only where that byte fits: once in 256 counters that it tries, for a SYN that is no knock.
    ///
    /// Whether a byte fits shows in the time that [`open`] takes. Nobody who could use that sees the time: a knock is
    /// answered by the kernel before it is decoded.
    pub fn prepare(&mut self) {
        let first_byte = |request: u16| {
            let [first, ..] = self.mac(request.to_be_bytes());
            first
        };
        self.first_bytes = Zeroizing::new((0..=u16::MAX).map(first_byte).collect());
    }

    /// Whether [`Keys::prepare`] has been called.
    #[must_use]
    pub(crate) fn are_prepared(&self) -> bool {
        !self.first_bytes.is_empty()
    }

    /// The bytes of `cipher.key` and of `mac.key`, for the one who writes them to disk.
    #[must_use]
    pub fn bytes(&self) -> (&[u8; KEY_LEN], &[u8; KEY_LEN]) {
        (&self.cipher, &self.mac)
    }

    /// A request's MAC, cut.
    fn mac(&self, request: [u8; REQUEST_LEN]) -> [u8; MAC_LEN] {
        let whole = self.hmac.clone().chain_update(request).finalize().into_bytes();
        let mut mac = [0; MAC_LEN];
        mac.iter_mut().zip(whole).for_each(|(to, byte)| *to = byte);
        mac
    }

    /// Whether `mac` may be `request`'s: `false` is certain.
    fn may_be(&self, request: [u8; REQUEST_LEN], mac: &[u8; MAC_LEN]) -> bool {
        let [first, ..] = mac;
        let request = usize::from(u16::from_be_bytes(request));
        self.first_bytes.get(request).is_none_or(|it| it == first)
    }

    /// CTR blocks from `counter` on, one a counter: it is the block's last four bytes, big-endian. So the blocks of
    /// counters that follow each other are one stream, which costs much less than as many streams of a block each.
    fn keystream(&self, counter: u32) -> Ctr32BE<Aes128Enc> {
        let mut block = [0; BLOCK_LEN];
        block[12..].copy_from_slice(&counter.to_be_bytes());
        Ctr32BE::from_core(CtrCore::inner_iv_init(self.aes.clone(), &block.into()))
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

/// Why [`seal`] made no knock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealError {
    /// The counter is [`SPENT`]: this profile can send no more knocks.
    Spent,
    /// This counter would give an ID of 0, which Linux replaces on a raw socket. Spend it and use the next.
    ZeroId,
}

/// Why [`open`] found no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// No counter of the window gives a valid MAC: a forgery, a replay, or a counter too far ahead.
    NoMatch,
    /// The server's counter is [`SPENT`]: this profile accepts no more knocks.
    Spent,
}

/// The knock that asks for `request` with `counter`.
///
/// Deterministic: the caller makes `counter + 1` durable first and never calls twice with one counter.
pub fn seal(keys: &Keys, request: Request, counter: u32) -> Result<SynFields, SealError> {
    if counter == SPENT {
        return Err(SealError::Spent);
    }
    let request = request.0.to_be_bytes();
    let mut knock = [0; KNOCK_LEN];
    let mac = keys.mac(request);
    for (place, byte) in knock.iter_mut().zip(request.into_iter().chain(mac)) {
        *place = byte;
    }
    keys.keystream(counter).apply_keystream(&mut knock);

    let fields = from_bytes(knock);
    if fields.id == 0 { Err(SealError::ZeroId) } else { Ok(fields) }
}

/// The request in `fields` and the counter that it was sealed with, which is one of
/// `counter .. counter + window`. The caller makes the found counter + 1 durable before it acts.
///
/// The MAC is compared in constant time. Fields from the network never panic.
pub fn open(
    keys: &Keys,
    counter: u32,
    window: u32,
    fields: &SynFields,
) -> Result<(Request, u32), OpenError> {
    if counter == SPENT {
        return Err(OpenError::Spent);
    }
    let ciphertext = to_bytes(fields);
    let mut keystream = keys.keystream(counter);
    // The range's end is excluded, so `SPENT` itself is never tried.
    let end = counter.saturating_add(window);
    for first in (counter..end).step_by(AT_ONCE) {
        let mut stream = Zeroizing::new([[0; BLOCK_LEN]; AT_ONCE]);
        keystream.apply_keystream(stream.as_flattened_mut());
        for (candidate, block) in (first..end).zip(stream.iter()) {
            let mut knock = ciphertext;
            knock.iter_mut().zip(block).for_each(|(byte, key)| *byte ^= key);
            let [high, low, mac @ ..] = knock;
            let request = [high, low];
            if keys.may_be(request, &mac) && mac.ct_eq(&keys.mac(request)).to_bool() {
                return Ok((Request(u16::from_be_bytes(request)), candidate));
            }
        }
    }
    Err(OpenError::NoMatch)
}

/// Hands `each` the sequence number of every knock that asks for one of `requests` with one of `count` counters from
/// `counter` on: what a firewall can tell knocks by before they are decoded.
pub(crate) fn sequences(
    keys: &Keys,
    requests: &[Request],
    counter: u32,
    count: u32,
    mut each: impl FnMut(u32),
) {
    let macs: Vec<_> = requests.iter().map(|request| keys.mac(request.0.to_be_bytes())).collect();
    let mut keystream = keys.keystream(counter);
    let end = counter.saturating_add(count);
    for first in (counter..end).step_by(AT_ONCE) {
        let mut stream = Zeroizing::new([[0; BLOCK_LEN]; AT_ONCE]);
        keystream.apply_keystream(stream.as_flattened_mut());
        for (_, [_, _, k0, k1, k2, k3, ..]) in (first..end).zip(stream.iter()) {
            let key = u32::from_be_bytes([*k0, *k1, *k2, *k3]);
            for [m0, m1, m2, m3, ..] in &macs {
                each(u32::from_be_bytes([*m0, *m1, *m2, *m3]) ^ key);
            }
        }
    }
}

fn from_bytes([i0, i1, s0, s1, s2, s3, a0, a1, a2, a3, w0, w1]: [u8; KNOCK_LEN]) -> SynFields {
    SynFields {
        id: u16::from_be_bytes([i0, i1]),
        seq: u32::from_be_bytes([s0, s1, s2, s3]),
        ack: u32::from_be_bytes([a0, a1, a2, a3]),
        window: u16::from_be_bytes([w0, w1]),
    }
}

fn to_bytes(fields: &SynFields) -> [u8; KNOCK_LEN] {
    let mut bytes = [0; KNOCK_LEN];
    bytes[0..2].copy_from_slice(&fields.id.to_be_bytes());
    bytes[2..6].copy_from_slice(&fields.seq.to_be_bytes());
    bytes[6..10].copy_from_slice(&fields.ack.to_be_bytes());
    bytes[10..12].copy_from_slice(&fields.window.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys::new([7; KEY_LEN], [9; KEY_LEN])
    }

    #[test]
    fn what_was_sealed_opens_with_its_counter_anywhere_in_the_window() {
        for ahead in 0..20 {
            let fields = seal(&keys(), Request(22), 100 + ahead).unwrap();
            assert_eq!(open(&keys(), 100, 20, &fields), Ok((Request(22), 100 + ahead)));
        }
    }

    #[test]
    fn a_counter_behind_or_beyond_the_window_does_not_open() {
        let behind = seal(&keys(), Request(22), 99).unwrap();
        let beyond = seal(&keys(), Request(22), 120).unwrap();
        assert_eq!(open(&keys(), 100, 20, &behind), Err(OpenError::NoMatch));
        assert_eq!(open(&keys(), 100, 20, &beyond), Err(OpenError::NoMatch));
    }

    #[test]
    fn every_single_flipped_bit_is_refused() {
        let good = seal(&keys(), Request(22), 5).unwrap();
        for bit in 0..KNOCK_LEN * 8 {
            let mut bytes = to_bytes(&good);
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                open(&keys(), 5, 1, &from_bytes(bytes)),
                Err(OpenError::NoMatch),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn the_last_counter_is_the_one_before_spent() {
        let last = seal(&keys(), Request(22), SPENT - 1).unwrap();
        assert_eq!(open(&keys(), SPENT - 1, 20, &last), Ok((Request(22), SPENT - 1)));
        assert_eq!(seal(&keys(), Request(22), SPENT), Err(SealError::Spent));
        assert_eq!(open(&keys(), SPENT, 20, &last), Err(OpenError::Spent));
    }

    #[test]
    fn a_counter_that_would_give_a_zero_id_is_reported_as_such() {
        // One counter in 65,536 does; for these keys, this is the first.
        let zero = 23_409;
        assert_eq!(seal(&keys(), Request(22), zero), Err(SealError::ZeroId));
        assert!(seal(&keys(), Request(22), zero + 1).is_ok());
    }

    #[test]
    fn the_sequence_numbers_are_those_of_the_sealed_knocks() {
        let requests = [Request(22), Request(443), Request(0)];
        let mut listed = Vec::new();
        sequences(&keys(), &requests, SPENT - 30, 40, |seq| listed.push(seq));
        let sealed = (SPENT - 30..SPENT).flat_map(|counter| {
            requests.map(|request| seal(&keys(), request, counter).unwrap().seq)
        });
        assert_eq!(listed, sealed.collect::<Vec<_>>());
    }

    #[test]
    fn prepared_keys_open_the_same_knocks_and_no_others() {
        let mut prepared = keys();
        prepared.prepare();
        for request in (0..=u16::MAX).step_by(251) {
            let good = seal(&keys(), Request(request), 105).unwrap();
            assert_eq!(open(&prepared, 100, 20, &good), Ok((Request(request), 105)));
            assert_eq!(open(&prepared, 106, 20, &good), Err(OpenError::NoMatch));
        }
        let good = to_bytes(&seal(&keys(), Request(22), 105).unwrap());
        for bit in 0..KNOCK_LEN * 8 {
            let mut bytes = good;
            bytes[bit / 8] ^= 1 << (bit % 8);
            let found = open(&prepared, 100, 20, &from_bytes(bytes));
            assert_eq!(found, Err(OpenError::NoMatch), "bit {bit}");
        }
    }

    #[test]
    fn keys_are_prepared_once_that_was_asked_for_and_then_rule_out_255_of_256_macs() {
        let mut keys = keys();
        let possible = |keys: &Keys| {
            let begins = |first| keys.may_be([0, 22], &[first; MAC_LEN]);
            (0..=u8::MAX).filter(|first| begins(*first)).count()
        };
        assert!(!keys.are_prepared());
        assert_eq!(possible(&keys), 256);
        keys.prepare();
        assert!(keys.are_prepared());
        assert_eq!(possible(&keys), 1);
    }

    #[test]
    fn the_bytes_of_the_keys_are_those_they_were_made_from() {
        assert_eq!(keys().bytes(), (&[7; KEY_LEN], &[9; KEY_LEN]));
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(format!("{:?}", keys()), "Keys(..)");
    }
}
