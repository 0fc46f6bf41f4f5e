//! What `knock --import` reads on standard input: the line of a profile, whatever else came with it.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use knockknock::profile::enrolment::Enrolment;
use sha2::{Digest as _, Sha256};

use super::can_be_shown;

const BEGIN: &str = "knockknock-profile-";
/// The bytes as what came in; then as the fields of a line whose checksum is right, which chance would not find.
pub(crate) fn holds(bytes: &[u8]) -> bool {
    let as_it_is = input(bytes);
    let fields = [BEGIN.as_bytes(), b"1,", bytes].concat();
    let sealed = [&fields[..], checksum(&fields).as_bytes()].concat();
    let as_fields = input(&sealed);
    as_it_is || as_fields
}

fn input(bytes: &[u8]) -> bool {
    let Some(line) = by_the_book(bytes) else {
        let error =
            Enrolment::parse(bytes).map(|_| ()).expect_err("what is no such line is refused");
        can_be_shown(&error.to_string());
        return false;
    };
    let read = Enrolment::parse(bytes).expect("one line, sound in each field");
    assert_eq!(*read.line(), line, "its only form");
    assert!(line.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_,=".contains(&byte)));
    let refused = |text: &[u8]| assert!(Enrolment::parse(text).is_err(), "{}", text.escape_ascii());
    // Somewhere in it: every place comes, with another line.
    let place: usize = Sha256::digest(&line).iter().map(|byte| usize::from(*byte)).sum();
    let at = 1 + place % (line.len() - 1);
    let (before, after) = line.as_bytes().split_at(at);
    refused(before);
    refused(after.get(1..).unwrap_or_default());
    refused(&[before, b"\n", after].concat());
    refused(&[before, &after[1..]].concat());
    refused(&[before, &[after[0] ^ 1], &after[1..]].concat());
    refused(&[line.as_bytes(), b"\n", line.as_bytes()].concat());
    let around = [b"Welcome!\r\n  ", line.as_bytes(), b"\t\r\nmade the profile\n"].concat();
    assert_eq!(
        *Enrolment::parse(&around).expect("what stands around it is passed over").line(),
        line
    );
    true
}

/// The line, if there is exactly one and it is what is written for the values that it has.
fn by_the_book(bytes: &[u8]) -> Option<String> {
    let bytes: Vec<u8> =
        bytes.iter().map(|byte| if *byte == b'\r' { b'\n' } else { *byte }).collect();
    let lines = bytes.split(|byte| *byte == b'\n').map(|line| {
        let is_blank = |byte: &&u8| matches!(byte, b' ' | b'\t' | b'\x0c');
        let begin = line.iter().take_while(is_blank).count();
        let end = line.iter().rev().take_while(is_blank).count();
        line.get(begin..line.len() - end).unwrap_or_default()
    });
    let lines: Vec<_> = lines.filter(|line| line.starts_with(BEGIN.as_bytes())).collect();
    let [line] = lines[..] else { return None };
    let line = str::from_utf8(line).ok().filter(|line| line.is_ascii() && line.len() <= 1024)?;
    let fields: Vec<(&str, &str)> =
        line.split(',').filter_map(|field| field.split_once('=')).collect();
    let value = |name: &str| fields.iter().find(|field| field.0 == name).map(|field| field.1);
    let key = |name: &str, len: usize| {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(value(name)?).ok()?;
        let published: [&[u8]; 3] =
            [b"example, do not ", b"use these keys!!", b"example, do not use this secret!"];
        let is_key = bytes.len() == len && !published.contains(&&*bytes);
        is_key.then(|| format!(",{name}={}", BASE64_URL_SAFE_NO_PAD.encode(bytes)))
    };
    let number = |name: &str| match value(name).map(str::parse::<u16>) {
        Some(Ok(number)) if number > 0 => format!(",{name}={number}"),
        _ => String::new(),
    };
    let (knock_port, port) = (number("knock_port"), number("port"));
    let written = match value("layout")? {
        "classic" if !knock_port.is_empty() => {
            let keys = key("cipher", 16)? + &key("mac", 16)?;
            format!("{BEGIN}1,layout=classic{knock_port}{port}{keys}")
        }
        "stealth" => {
            let bound = if value("bind_source").is_some() { ",bind_source=true" } else { "" };
            format!("{BEGIN}1,layout=stealth{knock_port}{bound}{port}{}", key("secret", 32)?)
        }
        _ => return None,
    };
    let written = format!("{written}{}", checksum(written.as_bytes()));
    (written == line).then_some(written)
}

/// The last field, of those before it.
fn checksum(before: &[u8]) -> String {
    let hash = Sha256::digest(before);
    let digits: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!(",check={digits}")
}
