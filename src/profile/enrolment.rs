//! A profile as one line of text, for the way from the server to its client (`docs/enrolment.md`). Pure.
//!
//! ```text
//! knockknock-profile-1,layout=stealth,port=22,secret=…,check=0123456789abcdef
//! ```
//!
//! The fields have one order and one form each, so a profile has one line. The checksum is for lines that were cut or
//! altered on their way; it keeps no secret and proves nothing.

use std::fmt::Write as _;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use thiserror::Error;
use zeroize::Zeroizing;

use super::files::is_published;
use crate::layout::keys::Layout;

/// What every line begins with, whatever its version.
const MARK: &str = "knockknock-profile-";
/// The version that this program writes and reads.
const VERSION: &str = "1";
/// Stands between the fields and their checksum.
const CHECK: &str = ",check=";
/// The checksum's length, in hexadecimal digits: the first 8 bytes of a SHA-256.
const CHECK_LEN: usize = 16;
/// The longest line, in bytes. Those that are made today have 210 at most.
const MAX_LEN: usize = 1024;

/// What a client needs to have of a profile. The keys wipe themselves; there is no `Debug`.
pub struct Enrolment {
    /// Whose keys these are.
    pub(super) layout: Layout,
    /// The config's `knock_port`.
    pub(super) knock_port: Option<u16>,
    /// The config's `bind_source`.
    pub(super) bind_source: bool,
    /// What the client asks for when nobody names a port: the first that the server's `allow` names.
    pub(super) port: Option<u16>,
    /// The bytes of each of [`Layout::key_files`], in that order.
    pub(super) keys: Vec<Zeroizing<Vec<u8>>>,
}

/// Why nothing was made of what came in. Nothing of what came in is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EnrolmentError {
    /// No line begins as a profile's does.
    #[error("no line of knock-genprofile --print came in")]
    Missing,
    /// Two lines do.
    #[error("more than one profile came in")]
    Several,
    /// It has another version.
    #[error("made by a newer knock-genprofile (format {0}; this program reads {known})", known = VERSION)]
    Newer(u32),
    /// The checksum is missing or another one, or the line is too long.
    #[error("the line was cut or altered on its way")]
    Damaged,
    /// The checksum is right, but the fields are none that there are.
    #[error("the line is none that knock-genprofile makes")]
    Malformed,
    /// The keys are those of the example that everybody can read.
    #[error("the keys of the published example, which everybody knows")]
    Published,
}

impl EnrolmentError {
    /// What to do.
    #[must_use]
    pub(crate) fn hint(self) -> &'static str {
        match self {
            Self::Missing | Self::Several => {
                "give it the one line that knock-genprofile --print NAME prints on the server"
            }
            Self::Newer(_) => "install the server's version of knock here",
            Self::Damaged => "copy the whole line, as one line",
            Self::Malformed | Self::Published => "make a new profile with knock-genprofile",
        }
    }
}

impl Enrolment {
    /// The one line of a profile in `input`, where other lines may stand: what a login shell says, a prompt.
    pub fn parse(input: &[u8]) -> Result<Self, EnrolmentError> {
        let lines = input.split(|byte| matches!(byte, b'\n' | b'\r'));
        let mut lines =
            lines.map(<[u8]>::trim_ascii).filter(|line| line.starts_with(MARK.as_bytes()));
        let line = lines.next().ok_or(EnrolmentError::Missing)?;
        if lines.next().is_some() {
            return Err(EnrolmentError::Several);
        }
        Self::parse_line(line)
    }

    fn parse_line(line: &[u8]) -> Result<Self, EnrolmentError> {
        let line = str::from_utf8(line).ok().filter(|line| line.len() <= MAX_LEN);
        let line = line.ok_or(EnrolmentError::Damaged)?;
        let rest = line.strip_prefix(MARK).ok_or(EnrolmentError::Damaged)?;
        let (version, fields) = rest.split_once(',').ok_or(EnrolmentError::Damaged)?;
        if version != VERSION {
            // Nobody knows yet where a later version has its checksum.
            let newer = number(version).filter(|number| *number > 1);
            return Err(newer.map_or(EnrolmentError::Damaged, EnrolmentError::Newer));
        }
        let (checked, check) = line.rsplit_once(CHECK).ok_or(EnrolmentError::Damaged)?;
        if check != checksum(checked) {
            return Err(EnrolmentError::Damaged);
        }
        let (fields, _) = fields.rsplit_once(CHECK).ok_or(EnrolmentError::Malformed)?;
        let read = Self::read(fields).ok_or(EnrolmentError::Malformed)?;
        if read.keys.iter().any(|key| is_published(key)) {
            return Err(EnrolmentError::Published);
        }
        Ok(read)
    }

    /// Every field that the layout has, in the order of [`Self::line`], and no other.
    fn read(fields: &str) -> Option<Self> {
        let mut fields = fields.split(',').peekable();
        let mut take = |name: &str| {
            let field =
                fields.next_if(|field| field.split_once('=').is_some_and(|(n, _)| n == name));
            field.and_then(|field| field.split_once('=')).map(|(_, value)| value)
        };
        let layout = take("layout")?;
        let (_, layout) = *Layout::NAMES.iter().find(|(name, _)| *name == layout)?;
        let knock_port = take("knock_port").map(port).map_or(Some(None), |port| port.map(Some))?;
        let bind_source = take("bind_source");
        let port = take("port").map(port).map_or(Some(None), |port| port.map(Some))?;
        let keys = layout.key_files().iter().map(|(file, len)| key(take(key_name(file))?, *len));
        let keys = keys.collect::<Option<Vec<_>>>()?;
        let is_sound = match layout {
            Layout::Classic => knock_port.is_some() && bind_source.is_none(),
            Layout::Stealth => bind_source.is_none_or(|value| value == "true"),
        };
        let is_all = fields.next().is_none();
        let bind_source = bind_source.is_some();
        (is_sound && is_all).then_some(Self { layout, knock_port, bind_source, port, keys })
    }

    /// The line, without a newline.
    #[must_use]
    pub fn line(&self) -> Zeroizing<String> {
        // Room for all of it: a text that grows leaves copies of a key behind in memory.
        let mut line = Zeroizing::new(String::with_capacity(MAX_LEN));
        line.extend([MARK, VERSION]);
        let mut field = |name: &str, value: &str| {
            line.extend([",", name, "=", value]);
        };
        field("layout", self.layout.name());
        if let Some(knock_port) = self.knock_port {
            field("knock_port", &knock_port.to_string());
        }
        if self.bind_source {
            field("bind_source", "true");
        }
        if let Some(port) = self.port {
            field("port", &port.to_string());
        }
        for ((file, _), key) in self.layout.key_files().iter().zip(&self.keys) {
            field(key_name(file), &Zeroizing::new(BASE64_URL_SAFE_NO_PAD.encode(&**key)));
        }
        let check = checksum(&line);
        line.extend([CHECK, &check]);
        line
    }

    /// Its `config`: what both sides have, and then `more` lines of the side that it is for.
    pub(super) fn config(&self, more: &str) -> String {
        let mut config = "[main]\n".to_owned();
        if let Some(knock_port) = self.knock_port {
            let _ = writeln!(config, "knock_port = {knock_port}");
        }
        if self.layout != Layout::default() {
            let _ = writeln!(config, "layout = {}", self.layout.name());
        }
        if self.bind_source {
            config.push_str("bind_source = true\n");
        }
        config + more + "\n"
    }

    /// Its key files: their names and what is in them.
    pub(super) fn key_files(&self) -> impl Iterator<Item = (&'static str, Zeroizing<String>)> {
        self.layout.key_files().iter().zip(&self.keys).map(|((name, _), key)| {
            // Four digits for three bytes, and the newline, which must not make it grow.
            let mut line = Zeroizing::new(String::with_capacity(key.len() * 2 + 8));
            BASE64_STANDARD.encode_string(&**key, &mut line);
            line.push('\n');
            (*name, line)
        })
    }
}

/// The field of a key is named as its file.
fn key_name(file: &str) -> &str {
    file.trim_end_matches(".key")
}

/// Of what stands before `,check=`.
fn checksum(checked: &str) -> String {
    let hash = Sha256::digest(checked.as_bytes());
    let digits = hash.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    digits.take(CHECK_LEN).filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

/// A decimal number in its one form.
fn number(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

fn port(text: &str) -> Option<u16> {
    number(text).and_then(|number| number.try_into().ok()).filter(|port| *port != 0)
}

/// The bytes of a key: unpadded base64url in its one form.
fn key(text: &str, len: usize) -> Option<Zeroizing<Vec<u8>>> {
    let mut key = Zeroizing::new(vec![0; text.len()]);
    let decoded = BASE64_URL_SAFE_NO_PAD.decode_slice(text, &mut key).ok()?;
    key.truncate(decoded);
    (decoded == len).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stealth() -> Enrolment {
        let keys = vec![Zeroizing::new(vec![7; 32])];
        Enrolment {
            layout: Layout::Stealth,
            knock_port: None,
            bind_source: false,
            port: Some(22),
            keys,
        }
    }

    fn classic() -> Enrolment {
        let keys = vec![Zeroizing::new(vec![1; 16]), Zeroizing::new(vec![0xff; 16])];
        let knock_port = Some(666);
        Enrolment { layout: Layout::Classic, knock_port, bind_source: false, port: Some(22), keys }
    }

    fn sealed(fields: &str) -> String {
        let line = format!("knockknock-profile-1,{fields}");
        format!("{line},check={}", checksum(&line))
    }

    fn error(line: &str) -> EnrolmentError {
        Enrolment::parse(line.as_bytes()).map(|_| ()).unwrap_err()
    }

    /// The format, digit by digit: what was printed once must be read by every later version.
    #[test]
    fn a_line_is_what_it_has_always_been() {
        assert_eq!(
            *stealth().line(),
            "knockknock-profile-1,layout=stealth,port=22,\
             secret=BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc,check=7bdbe7ba671187ea"
        );
        assert_eq!(
            *classic().line(),
            "knockknock-profile-1,layout=classic,knock_port=666,port=22,\
             cipher=AQEBAQEBAQEBAQEBAQEBAQ,mac=_____________________w,check=93f244a7a4340b03"
        );
    }

    #[test]
    fn what_is_written_is_read() {
        let mut all = vec![stealth(), classic()];
        all.push(Enrolment { port: None, bind_source: true, ..stealth() });
        all.push(Enrolment { knock_port: Some(65_535), port: Some(1), ..stealth() });
        for one in all {
            let line = one.line();
            assert!(line.len() <= 210, "{}", line.len());
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_,=".contains(&byte);
            assert!(line.bytes().all(is_plain), "no shell means anything by it: {}", *line);
            let read = Enrolment::parse(line.as_bytes()).unwrap();
            assert_eq!(*read.line(), *line);
            assert_eq!((read.layout, read.knock_port), (one.layout, one.knock_port));
            assert_eq!((read.bind_source, read.port), (one.bind_source, one.port));
            assert!(read.keys == one.keys);
        }
    }

    #[test]
    fn other_lines_around_it_are_passed_over() {
        let line = stealth().line();
        for input in [
            format!("{}\n", *line),
            format!("  {}\t\r\n", *line),
            format!("Welcome!\r\n[sudo] password for you: \r\n{}\r\nmade the profile\r\n", *line),
        ] {
            assert!(Enrolment::parse(input.as_bytes()).is_ok(), "{input:?}");
        }
        for input in ["", "\n", "knockknock", "secret=x"] {
            assert_eq!(error(input), EnrolmentError::Missing, "{input:?}");
        }
        assert_eq!(error(&format!("{0}\n{0}\n", *line)), EnrolmentError::Several);
    }

    #[test]
    fn a_line_that_was_cut_or_altered_is_told_from_a_wrong_one() {
        let line = stealth().line();
        for end in MARK.len()..line.len() {
            assert_eq!(error(&line[..end]), EnrolmentError::Damaged, "cut to {end}");
            // As a terminal breaks it.
            let broken = format!("{}\n{}", &line[..end], &line[end..]);
            assert_eq!(error(&broken), EnrolmentError::Damaged, "broken at {end}");
        }
        for at in 0..line.len() {
            let mut altered = line.as_bytes().to_vec();
            altered[at] ^= 1;
            assert!(Enrolment::parse(&altered).is_err(), "altered at {at}");
        }
        assert_eq!(error(&format!("{}x", *line)), EnrolmentError::Damaged);
        let long = format!("port=22{}", " ".repeat(MAX_LEN));
        assert_eq!(error(&sealed(&long)), EnrolmentError::Damaged);
    }

    #[test]
    fn a_later_version_is_told_as_such() {
        assert_eq!(error("knockknock-profile-2,whatever"), EnrolmentError::Newer(2));
        assert_eq!(error("knockknock-profile-4000000000,"), EnrolmentError::Newer(4_000_000_000));
        assert!(error("knockknock-profile-2,").to_string().contains("made by a newer"));
        for version in ["", "0", "01", "1x", "+2", "-2", "99999999999"] {
            let line = format!("{MARK}{version},layout=stealth");
            assert_eq!(error(&line), EnrolmentError::Damaged, "{version:?}");
        }
    }

    #[test]
    fn what_no_profile_has_is_refused_though_its_checksum_is_right() {
        let secret = "secret=BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc";
        let keys = "cipher=AQEBAQEBAQEBAQEBAQEBAQ,mac=_____________________w";
        for fields in [
            String::new(),
            "layout=stealth".into(),
            format!("{secret},layout=stealth"),
            format!("layout=other,{secret}"),
            format!("layout=stealth,{secret},{secret}"),
            format!("layout=stealth,{secret},more=1"),
            format!("layout=stealth,,{secret}"),
            format!("layout=stealth,port=0,{secret}"),
            format!("layout=stealth,port=65536,{secret}"),
            format!("layout=stealth,port=022,{secret}"),
            format!("layout=stealth,port=22,port=23,{secret}"),
            format!("layout=stealth,port=22,knock_port=666,{secret}"),
            format!("layout=stealth,bind_source=false,{secret}"),
            format!("layout=stealth,{secret}="),
            format!("layout=stealth,{}", secret.trim_end_matches('c')),
            // The last digit's unused bits.
            format!("layout=stealth,{}d", secret.trim_end_matches('c')),
            format!("layout=stealth,knock_port=666,{keys}"),
            format!("layout=classic,{keys}"),
            format!("layout=classic,knock_port=666,bind_source=true,{keys}"),
            format!("layout=classic,knock_port=666,{secret}"),
            format!("layout=classic,knock_port=666,port=22,{keys},check=0123456789abcdef"),
        ] {
            assert_eq!(error(&sealed(&fields)), EnrolmentError::Malformed, "{fields}");
        }
    }

    #[test]
    fn the_keys_that_are_published_are_refused() {
        let key = |text: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(text);
        let [cipher, mac] = [&b"example, do not "[..], b"use these keys!!"].map(key);
        let secret = key(b"example, do not use this secret!");
        for fields in [
            format!("layout=classic,knock_port=1,cipher={cipher},mac={mac}"),
            format!("layout=stealth,secret={secret}"),
        ] {
            assert_eq!(error(&sealed(&fields)), EnrolmentError::Published, "{fields}");
        }
    }
}
