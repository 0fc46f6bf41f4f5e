//! The stealth layout: a knock is a SYN that this host's own kernel could have sent (`docs/protocol.md`, "stealth").
//!
//! ```text
//! Kt, Km    = HKDF-SHA256(secret.key, salt "knock stealth 1", info "tag" and "mac")
//! tag (4)   = HMAC-SHA256(Kt, n)[0..4]                          ->  SEQ
//! mac (4)   = HMAC-SHA256(Km, n || request || binding)[0..4]    ->  TSval
//! ```
//!
//! This file has the keys and the two fields; `super::steps` says which `n` is sent and which are accepted.

use std::fmt;
use std::net::IpAddr;

use ctutils::CtEq;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::Request;

/// Length of `secret.key`, in bytes.
pub const SECRET_LEN: usize = 32;

const SALT: &[u8] = b"knock stealth 1";

/// The two keys that are made of a profile's secret. They wipe themselves when dropped; `Debug` shows no byte of them.
#[derive(Clone)]
pub struct StealthKeys {
    tag: Hmac<Sha256>,
    mac: Hmac<Sha256>,
}

/// The fields of a knock. Host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StealthFields {
    /// TCP sequence number: which number the knock has, to those who hold the profile.
    pub tag: u32,
    /// The timestamp option's first value (`TSval`, RFC 7323): what proves it.
    pub mac: u32,
}

impl StealthKeys {
    /// The keys of the bytes of `secret.key`.
    #[must_use]
    pub fn new(secret: &[u8; SECRET_LEN]) -> Self {
        let extracted = Hkdf::<Sha256>::new(Some(SALT), secret);
        let key = |info: &[u8]| {
            let mut key = Zeroizing::new([0; 32]);
            // RFC 5869 refuses more than 255 hashes' length; this is one. An empty key would be found by any test.
            let _ = extracted.expand(info, key.as_mut());
            <Hmac<Sha256> as KeyInit>::new(&padded(&key).into())
        };
        Self { tag: key(b"tag"), mac: key(b"mac") }
    }

    /// What a knock with the number `n` has as its sequence number.
    #[must_use]
    pub fn tag(&self, n: u64) -> u32 {
        first(self.tag.clone().chain_update(n.to_be_bytes()))
    }

    /// The knock that asks for `request` with the number `n`. `bound_to`: the address that it is good from, as the server
    /// sees it; without one, any.
    ///
    /// Deterministic: the caller makes `n + 1` durable first. A number is sealed twice only where a sender's clock was ahead and
    /// was set back (`docs/protocol.md`); a receiver takes it once.
    #[must_use]
    pub fn seal(&self, n: u64, request: Request, bound_to: Option<IpAddr>) -> StealthFields {
        StealthFields { tag: self.tag(n), mac: self.mac(n, request, bound_to) }
    }

    /// Which of `requests` a knock with the number `n` asks for. Compares in constant time, and tries each.
    #[must_use]
    pub fn open(
        &self,
        n: u64,
        requests: impl IntoIterator<Item = Request>,
        bound_to: Option<IpAddr>,
        mac: u32,
    ) -> Option<Request> {
        let fits = |request: &Request| self.mac(n, *request, bound_to).ct_eq(&mac).to_bool();
        requests.into_iter().filter(fits).last()
    }

    fn mac(&self, n: u64, Request(request): Request, bound_to: Option<IpAddr>) -> u32 {
        let mac =
            self.mac.clone().chain_update(n.to_be_bytes()).chain_update(request.to_be_bytes());
        first(match bound_to {
            None => mac,
            Some(IpAddr::V4(v4)) => mac.chain_update([4]).chain_update(v4.octets()),
            Some(IpAddr::V6(v6)) => mac.chain_update([6]).chain_update(v6.octets()),
        })
    }
}

/// A key as HMAC pads it to a block (RFC 2104).
fn padded(key: &[u8; 32]) -> [u8; 64] {
    let mut block = [0; 64];
    block.iter_mut().zip(key).for_each(|(to, byte)| *to = *byte);
    block
}

fn first(mac: Hmac<Sha256>) -> u32 {
    let whole: [u8; 32] = mac.finalize().into_bytes().into();
    let [a, b, c, d, ..] = whole;
    u32::from_be_bytes([a, b, c, d])
}

impl fmt::Debug for StealthKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StealthKeys(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: u64 = 256 * 179_000_000;

    fn keys() -> StealthKeys {
        StealthKeys::new(&[7; SECRET_LEN])
    }

    #[test]
    fn a_knock_asks_for_what_it_was_sealed_with_and_for_nothing_else() {
        let knock = keys().seal(N, Request(22), None);
        let open = |requests: &[u16]| {
            keys().open(N, requests.iter().copied().map(Request), None, knock.mac)
        };
        assert_eq!(open(&[22]), Some(Request(22)));
        assert_eq!(open(&[0, 443, 22, 80]), Some(Request(22)));
        assert_eq!(open(&[0, 443, 80]), None);
        assert_eq!(open(&[]), None);
    }

    #[test]
    fn a_mac_is_for_one_number_and_every_bit_of_it_counts() {
        let knock = keys().seal(N, Request(22), None);
        assert_eq!(keys().open(N + 1, [Request(22)], None, knock.mac), None);
        for bit in 0..32 {
            assert_eq!(keys().open(N, [Request(22)], None, knock.mac ^ (1 << bit)), None);
        }
    }

    #[test]
    fn a_bound_knock_is_good_from_its_address_alone() {
        let [v4, other, v6] =
            ["192.0.2.7", "192.0.2.8", "2001:db8::7"].map(|text| text.parse().unwrap());
        let opens = |made_for, seen_from| {
            let knock = keys().seal(N, Request(22), made_for);
            keys().open(N, [Request(22)], seen_from, knock.mac).is_some()
        };
        assert!(opens(Some(v4), Some(v4)) && opens(Some(v6), Some(v6)));
        assert!(!opens(Some(v4), Some(other)) && !opens(Some(v6), Some(v4)));
        assert!(!opens(None, Some(v4)) && !opens(Some(v4), None));
    }

    /// One of `tests/vectors/stealth.json`, which another implementation made.
    #[test]
    fn the_fields_are_made_with_both_keys_of_the_secret() {
        let secret: [u8; SECRET_LEN] = std::array::from_fn(|nth| u8::try_from(nth).unwrap());
        let knock = StealthKeys::new(&secret).seal(1, Request(22), None);
        assert_eq!(knock, StealthFields { tag: 4_246_531_429, mac: 650_194_300 });
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(format!("{:?}", keys()), "StealthKeys(..)");
    }
}
