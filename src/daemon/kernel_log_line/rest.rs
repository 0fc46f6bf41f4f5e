//! The part of a line that has not been parsed, and the parsers of its words: numbers, addresses and names as the
//! kernel and the log programs write them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The part of the line that has not been parsed yet.
pub(super) struct Rest<'l>(pub(super) &'l [u8]);

impl<'l> Rest<'l> {
    /// `KEY=word ` -> the word, which may be empty.
    pub(super) fn named(&mut self, key: &[u8]) -> Option<&'l [u8]> {
        if self.skip(key) { self.word() } else { None }
    }

    /// `KEY=word ` where each byte of the word is of the given kind, and there is one. Takes nothing otherwise.
    pub(super) fn hex(&mut self, key: &[u8], kind: fn(&u8) -> bool) -> Option<&'l [u8]> {
        let mut rest = Rest(self.0);
        let word = rest.named(key).filter(|word| !word.is_empty() && word.iter().all(kind))?;
        self.0 = rest.0;
        Some(word)
    }

    /// `KEY=n ` -> the number, if it is written as the kernel writes one and fits. Takes nothing otherwise.
    pub(super) fn number<N: TryFrom<u64>>(&mut self, key: &[u8]) -> Option<N> {
        let mut rest = Rest(self.0);
        let mut word = Rest(rest.named(key)?);
        let number = word
            .decimal()
            .filter(|_| word.0.is_empty())
            .and_then(|number| N::try_from(number).ok())?;
        self.0 = rest.0;
        Some(number)
    }

    /// `KEY=address `, in the one way in which the kernel prints it: dotted decimal, or eight groups of four digits.
    pub(super) fn address(&mut self, key: &[u8]) -> Option<IpAddr> {
        let word = self.named(key)?;
        if word.contains(&b':') {
            return ipv6_address(word).map(IpAddr::V6);
        }
        // The standard library's reader is as strict: four parts, no leading zeros, nothing around them.
        std::str::from_utf8(word).ok()?.parse().ok().map(|address: Ipv4Addr| IpAddr::V4(address))
    }

    /// Digits without leading zeros, at most 19 of them.
    pub(super) fn decimal(&mut self) -> Option<u64> {
        let length = self.0.iter().take(20).take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = self.0.split_at_checked(length)?;
        if digits.is_empty()
            || digits.len() > 19
            || (digits.len() > 1 && digits.first() == Some(&b'0'))
        {
            return None;
        }
        self.0 = rest;
        Some(digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
    }

    /// Up to the next blank, which is taken too, or to the end.
    pub(super) fn word(&mut self) -> Option<&'l [u8]> {
        let end = memchr::memchr(b' ', self.0);
        let (word, rest) = self.0.split_at_checked(end.unwrap_or(self.0.len()))?;
        self.0 = rest.strip_prefix(b" ").unwrap_or(rest);
        Some(word)
    }

    /// Up to the next such byte, which is taken too.
    pub(super) fn until(&mut self, byte: u8) -> Option<&'l [u8]> {
        let (before, rest) = self.0.split_at_checked(memchr::memchr(byte, self.0)?)?;
        self.0 = rest.get(1..)?;
        Some(before)
    }

    pub(super) fn skip(&mut self, literal: &[u8]) -> bool {
        match self.0.strip_prefix(literal) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }
}

/// `fd99:0000:0000:0000:0000:0000:0000:0002`: the kernel compresses nothing here and writes small letters.
fn ipv6_address(word: &[u8]) -> Option<Ipv6Addr> {
    if word.len() != 39 {
        return None;
    }
    let mut address = 0_u128;
    for (at, byte) in word.iter().enumerate() {
        let digit = match byte {
            b':' if at % 5 == 4 => continue,
            b'0'..=b'9' if at % 5 != 4 => byte - b'0',
            b'a'..=b'f' if at % 5 != 4 => byte - b'a' + 10,
            _ => return None,
        };
        address = address * 16 + u128::from(digit);
    }
    Some(Ipv6Addr::from_bits(address))
}
