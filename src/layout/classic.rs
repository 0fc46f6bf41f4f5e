//! The classic layout: the protocol of knockknock 0.8, byte for byte (`docs/protocol.md`, "classic").
//!
//! ```text
//! plaintext  (12 bytes) = request (2) || HMAC-SHA1(mac.key, request)[0..10]
//! keystream  (16 bytes) = AES-128-encrypt(cipher.key, 0^12 || counter)
//! ciphertext (12 bytes) = plaintext XOR keystream[0..12]  ->  ID (2) SEQ (4) ACK (4) WINDOW (2)
//! ```

#![forbid(unsafe_code)]

use std::fmt;

use aes::Aes128;
use aes::cipher::{KeyIvInit, StreamCipher};
use ctr::Ctr32BE;
use ctutils::CtEq;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha1::block_api::compress;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

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
/// Counters that are tried at once: as many as a processor can hash side by side, and a part of the usual window of 20.
const AT_ONCE: u32 = 4;

/// A block of SHA-1, and its state.
const SHA1_BLOCK: usize = 64;
type Sha1State = [u32; 5];
/// The state that SHA-1 begins with (FIPS 180-4, section 5.3.1).
const SHA1_BEGIN: Sha1State = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];

/// The two keys of a profile. Wiped from memory when dropped; `Debug` shows no byte of them.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Keys {
    cipher: [u8; KEY_LEN],
    mac: [u8; KEY_LEN],
    /// SHA-1 after the key's own block of the inner and of the outer hash: half of the work of a MAC, done once.
    inner: Sha1State,
    outer: Sha1State,
}

impl Keys {
    /// Keys from the bytes of `cipher.key` and `mac.key`.
    #[must_use]
    pub fn new(cipher: [u8; KEY_LEN], mac: [u8; KEY_LEN]) -> Self {
        let after_key = |pad: u8| {
            let mut block = Zeroizing::new([pad; SHA1_BLOCK]);
            block.iter_mut().zip(mac).for_each(|(byte, key)| *byte ^= key);
            let mut state = SHA1_BEGIN;
            compress(&mut state, &[*block]);
            state
        };
        Self { cipher, mac, inner: after_key(0x36), outer: after_key(0x5c) }
    }

    /// The bytes of `cipher.key` and of `mac.key`, for the one who writes them to disk.
    #[must_use]
    pub fn bytes(&self) -> (&[u8; KEY_LEN], &[u8; KEY_LEN]) {
        (&self.cipher, &self.mac)
    }

    /// The MAC of nothing yet: what a sender's one MAC is made with.
    fn hmac(&self) -> Hmac<Sha1> {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of any length (RFC 2104)")]
        <Hmac<Sha1> as KeyInit>::new_from_slice(&self.mac).expect("a key of 16 bytes")
    }

    /// The same MAC of each request, cut, for the one who tries many. Each hash (RFC 2104) has one block left: what is
    /// hashed, a bit, and the length with the key's block. Hashes of one kind do not wait for each other, so the
    /// processor works on several at once.
    fn macs<const N: usize>(&self, requests: &[[u8; REQUEST_LEN]; N]) -> [[u8; MAC_LEN]; N] {
        let inner = requests.map(|request| {
            let mut state = self.inner;
            compress(&mut state, &[last_block(&request)]);
            state
        });
        inner.map(|hash| {
            let mut bytes = [0; 20];
            let words = hash.into_iter().flat_map(u32::to_be_bytes);
            bytes.iter_mut().zip(words).for_each(|(to, byte)| *to = byte);
            let mut state = self.outer;
            compress(&mut state, &[last_block(&bytes)]);
            let mut mac = [0; MAC_LEN];
            let bytes = state.into_iter().flat_map(u32::to_be_bytes);
            mac.iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte);
            mac
        })
    }

    /// CTR blocks from `counter` on, one a counter: it is the block's last four bytes, big-endian. So the blocks of
    /// counters that follow each other are one stream, which costs much less than as many streams of a block each.
    fn keystream(&self, counter: u32) -> Ctr32BE<Aes128> {
        let mut block = [0; BLOCK_LEN];
        block[12..].copy_from_slice(&counter.to_be_bytes());
        Ctr32BE::<Aes128>::new(&self.cipher.into(), &block.into())
    }
}

/// The block that ends a hash of the key's block and of `rest`.
fn last_block<const N: usize>(rest: &[u8; N]) -> [u8; SHA1_BLOCK] {
    const { assert!(N < SHA1_BLOCK - 8, "the length must fit in too") };
    let mut block = [0; SHA1_BLOCK];
    let (begin, length) = block.split_at_mut(SHA1_BLOCK - 8);
    begin.iter_mut().zip(rest.iter().chain(&[0x80])).for_each(|(to, byte)| *to = *byte);
    length.copy_from_slice(&(8 * (SHA1_BLOCK + N) as u64).to_be_bytes());
    block
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
    // Of the MAC goes in what has room.
    let mut knock = [0; KNOCK_LEN];
    let mac = keys.hmac().chain_update(request).finalize().into_bytes();
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
    let mut first = counter;
    while first < end {
        let count = AT_ONCE.min(end - first);
        let mut stream = Zeroizing::new([[0; BLOCK_LEN]; AT_ONCE as usize]);
        keystream.apply_keystream(stream.as_flattened_mut());
        let knocks = stream.each_ref().map(|block| {
            let mut knock = ciphertext;
            knock.iter_mut().zip(block).for_each(|(byte, key)| *byte ^= key);
            knock
        });
        let macs = keys.macs(&knocks.map(|[high, low, ..]| [high, low]));
        for ((candidate, knock), mac) in (first..first + count).zip(knocks).zip(&macs) {
            let [high, low, tag @ ..] = knock;
            let request = [high, low];
            if tag.ct_eq(mac).to_bool() {
                return Ok((Request(u16::from_be_bytes(request)), candidate));
            }
        }
        first += count;
    }
    Err(OpenError::NoMatch)
}

/// Hands `each` the sequence number of every knock that asks for one of `requests` with one of `count` counters from
/// `counter` on: what a firewall can tell knocks by before they are decoded.
pub fn sequences(
    keys: &Keys,
    requests: &[Request],
    counter: u32,
    count: u32,
    mut each: impl FnMut(u32),
) {
    let macs: Vec<[u8; 4]> = requests.iter().map(|request| first_of_mac(keys, *request)).collect();
    let mut keystream = keys.keystream(counter);
    let end = counter.saturating_add(count);
    let mut first = counter;
    while first < end {
        let count = AT_ONCE.min(end - first);
        let mut stream = Zeroizing::new([[0; BLOCK_LEN]; AT_ONCE as usize]);
        keystream.apply_keystream(stream.as_flattened_mut());
        for (_, [_, _, k0, k1, k2, k3, ..]) in (0..count).zip(stream.iter()) {
            let key = u32::from_be_bytes([*k0, *k1, *k2, *k3]);
            for mac in &macs {
                each(u32::from_be_bytes(*mac) ^ key);
            }
        }
        first += count;
    }
}

/// The bytes of a request's MAC that the sequence number hides.
fn first_of_mac(keys: &Keys, Request(request): Request) -> [u8; 4] {
    let mac = keys.hmac().chain_update(request.to_be_bytes()).finalize().into_bytes();
    let mut first = [0; 4];
    first.iter_mut().zip(mac).for_each(|(place, byte)| *place = byte);
    first
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
        let zero =
            (0..1_000_000).find(|&n| seal(&keys(), Request(22), n) == Err(SealError::ZeroId));
        let zero = zero.expect("one counter in 65,536 gives a zero ID");
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
    fn the_macs_that_are_made_at_once_are_those_of_hmac() {
        let keys = keys();
        for high in 0..=u8::MAX {
            let requests =
                std::array::from_fn::<_, 8, _>(|low| [high, u8::try_from(low * 31).unwrap()]);
            let alone =
                requests.map(|request| keys.hmac().chain_update(request).finalize().into_bytes());
            for (mac, alone) in keys.macs(&requests).iter().zip(&alone) {
                assert_eq!(mac[..], alone[..MAC_LEN]);
            }
        }
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(format!("{:?}", keys()), "Keys(..)");
    }
}
