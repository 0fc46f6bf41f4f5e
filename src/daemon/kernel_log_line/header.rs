//! What stands before the kernel's message in a line: one grammar for each program that writes such lines.
//!
//! ```text
//! <time> <host> kernel: <text>                        rsyslog, syslog-ng; `kernel[0]: ` and `kernel:[` too
//! <time> <host> kern.<level> kernel: <text>           busybox syslogd
//! <time> [<host> ][kernel] <text>                     metalog
//! <weekday> <time> <year> kern.<level> kernel: <text> OpenWrt's logread
//! <<n>>1 <time> <host> kernel - - - <text>            RFC 5424; without the `<n>1 ` too
//! ```
//!
//! The name of the sender counts only where the logger writes it: a program's message follows that program's name. A
//! facility, where there is one, must be the kernel's.

use super::not_a_syn::NotASyn;
use super::rest::Rest;

/// The message in a line of a log file.
pub(super) fn syslog_message(line: &[u8]) -> Result<&[u8], NotASyn> {
    let mut rest = Rest(line);
    let mut is_rfc5424 = false;
    if rest.skip(b"<") {
        let priority = rest.decimal().filter(|_| rest.skip(b">")).ok_or(NotASyn::Framing)?;
        if priority >> 3 != 0 {
            return Err(NotASyn::NotKernel);
        }
        is_rfc5424 = rest.skip(b"1 ");
    }
    if rest.0.first().is_some_and(u8::is_ascii_digit) {
        rest.iso_time().ok_or(NotASyn::Framing)?;
        rest.tag_after_host(is_rfc5424, true)?;
    } else if is_rfc5424 {
        return Err(NotASyn::Framing);
    } else if rest.openwrt_time().is_some() {
        if !(rest.kernel_facility() && rest.tag()) {
            return Err(NotASyn::NotKernel);
        }
    } else {
        rest.traditional_time().ok_or(NotASyn::Framing)?;
        rest.tag_after_host(false, false)?;
    }
    rest.boot_time();
    Ok(rest.0)
}

/// `<priority>,<sequence>,<microseconds>,<flags>[,…];<text>[\n<dictionary>]` -> the text.
///
/// A process that writes to `/dev/kmsg` never gets facility 0: the kernel raises it to 1. Fragments of a line (flag
/// `c`) are not packet lines.
pub(super) fn kmsg_message(record: &[u8]) -> Result<&[u8], NotASyn> {
    let mut rest = Rest(record);
    let priority = rest.decimal().filter(|_| rest.skip(b",")).ok_or(NotASyn::Framing)?;
    if priority >> 3 != 0 {
        return Err(NotASyn::NotKernel);
    }
    rest.decimal().filter(|_| rest.skip(b",")).ok_or(NotASyn::Framing)?;
    rest.decimal().filter(|_| rest.skip(b",")).ok_or(NotASyn::Framing)?;
    if !rest.skip(b"-") {
        return Err(NotASyn::Framing);
    }
    if !rest.skip(b";") {
        // Newer kernels may put more fields here, such as `caller=T123`.
        let more =
            rest.until(b';').filter(|more| more.first() == Some(&b',') && !more.contains(&b'\n'));
        more.ok_or(NotASyn::Framing)?;
    }
    Ok(rest.0.split(|&byte| byte == b'\n').next().unwrap_or_default())
}

/// The sequence number of a `/dev/kmsg` record: consecutive records have consecutive numbers.
#[must_use]
pub fn kmsg_sequence(record: &[u8]) -> Option<u64> {
    let mut rest = Rest(record);
    rest.decimal().filter(|_| rest.skip(b","))?;
    rest.decimal().filter(|_| rest.skip(b","))
}

/// What busybox and `OpenWrt` write behind the facility.
const LEVELS: [&[u8]; 12] = [
    b"debug ",
    b"info ",
    b"notice ",
    b"warn ",
    b"warning ",
    b"err ",
    b"error ",
    b"crit ",
    b"alert ",
    b"emerg ",
    b"emergency ",
    b"panic ",
];

impl Rest<'_> {
    /// `<host> ` and the sender, which must be the kernel. An RFC 5424 header is recognized by its ISO time.
    fn tag_after_host(&mut self, is_rfc5424: bool, has_iso_time: bool) -> Result<(), NotASyn> {
        let host = self.word().filter(|host| !host.is_empty()).ok_or(NotASyn::Framing)?;
        // Without a host name, this word is the sender, and its message follows.
        if host.ends_with(b":") || host.starts_with(b"[") {
            let is_kernel = !has_iso_time && host == b"[kernel]";
            return if is_kernel { Ok(()) } else { Err(NotASyn::NotKernel) };
        }
        let is_kernel = if is_rfc5424 {
            self.rfc5424_tag()
        } else if self.tag() {
            true
        } else if self.kernel_facility() {
            self.tag()
        } else {
            self.skip(b"[kernel] ") || has_iso_time && self.rfc5424_tag()
        };
        if is_kernel { Ok(()) } else { Err(NotASyn::NotKernel) }
    }

    /// `kernel: `, `kernel[0]: `; or `kernel:` before the bracket of a time since boot, which stays.
    fn tag(&mut self) -> bool {
        if self.skip(b"kernel: ") || self.skip(b"kernel[0]: ") {
            return true;
        }
        let mut rest = Rest(self.0);
        if !rest.skip(b"kernel:") {
            return false;
        }
        let tagged = rest.0;
        rest.boot_time();
        let is_timed = rest.0.len() < tagged.len();
        if is_timed {
            self.0 = tagged;
        }
        is_timed
    }

    /// `kern.debug ` and its like. Takes nothing otherwise.
    fn kernel_facility(&mut self) -> bool {
        let mut rest = Rest(self.0);
        let is_kernel = rest.skip(b"kern.") && LEVELS.iter().any(|level| rest.skip(level));
        if is_kernel {
            self.0 = rest.0;
        }
        is_kernel
    }

    /// `kernel <procid> <msgid> <structured data> [BOM]`: the kernel has no process id. Takes nothing otherwise.
    fn rfc5424_tag(&mut self) -> bool {
        let mut rest = Rest(self.0);
        if !(rest.skip(b"kernel ") && (rest.skip(b"- ") || rest.skip(b"0 "))) {
            return false;
        }
        let is_msgid = rest
            .word()
            .is_some_and(|id| (1..=32).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic));
        if !(is_msgid && rest.structured_data()) {
            return false;
        }
        // rsyslog keeps the blank that came before the text in the older form.
        rest.skip(b" ");
        rest.skip(b"\xef\xbb\xbf");
        self.0 = rest.0;
        true
    }

    /// `- `, or `[name key="value" …]…` and a blank. In a value, `"`, `\` and `]` stand behind a `\`.
    fn structured_data(&mut self) -> bool {
        if self.skip(b"- ") {
            return true;
        }
        while self.skip(b"[") {
            let mut is_quoted = false;
            loop {
                let Some((&byte, behind)) = self.0.split_first() else { return false };
                self.0 = behind;
                match byte {
                    b'"' => is_quoted = !is_quoted,
                    b'\\' if is_quoted => self.0 = self.0.get(1..).unwrap_or_default(),
                    b']' if !is_quoted => break,
                    b'[' if !is_quoted => return false,
                    _ => {}
                }
            }
            if self.skip(b" ") {
                return true;
            }
        }
        false
    }

    /// Takes as many bytes as the shape has, if they fit: `0` is any digit, anything else itself.
    fn shape(&mut self, shape: &[u8]) -> Option<()> {
        let (bytes, rest) = self.0.split_at_checked(shape.len())?;
        let fits = |(byte, shape): (&u8, &u8)| {
            if *shape == b'0' { byte.is_ascii_digit() } else { byte == shape }
        };
        if !bytes.iter().zip(shape).all(fits) {
            return None;
        }
        self.0 = rest;
        Some(())
    }

    /// Takes four bytes if they are one of these names, a blank behind each.
    fn name(&mut self, names: &[u8]) -> Option<()> {
        let (name, rest) = self.0.split_at_checked(4)?;
        if !names.chunks(4).any(|one| one == name) {
            return None;
        }
        self.0 = rest;
        Some(())
    }

    /// `Nov 20 09:39:15 `; a day below ten has a blank in place of its first digit.
    fn traditional_time(&mut self) -> Option<()> {
        self.name(b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec ")?;
        self.shape(b" 0 00:00:00 ").or_else(|| self.shape(b"00 00:00:00 "))
    }

    /// `Thu Nov 20 09:39:15 2026 `. Takes nothing otherwise.
    fn openwrt_time(&mut self) -> Option<()> {
        let mut rest = Rest(self.0);
        rest.name(b"Mon Tue Wed Thu Fri Sat Sun ")?;
        rest.traditional_time()?;
        rest.shape(b"0000 ")?;
        self.0 = rest.0;
        Some(())
    }

    /// `2026-11-20T09:39:15.430921+00:00 `; the fraction may be missing, and `Z` stand for the zone.
    fn iso_time(&mut self) -> Option<()> {
        self.shape(b"0000-00-00T00:00:00")?;
        if self.skip(b".") {
            let fraction = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
            self.0 = self.0.get(fraction..).filter(|_| fraction > 0)?;
        }
        let zone = self.skip(b"Z ")
            || self.shape(b"+00:00 ").is_some()
            || self.shape(b"-00:00 ").is_some();
        zone.then_some(())
    }

    /// `[  923.993648] ` or `[  923.993648][    T1] `, where it stands (kernel setting `printk.time`, `PRINTK_CALLER`).
    fn boot_time(&mut self) {
        let mut rest = Rest(self.0);
        if !rest.skip(b"[") {
            return;
        }
        while rest.skip(b" ") {}
        let timed = rest.decimal().is_some() && rest.shape(b".000000]").is_some();
        if timed && rest.skip(b"[") {
            while rest.skip(b" ") {}
            if !(rest.skip(b"T") || rest.skip(b"C")) || rest.decimal().is_none() || !rest.skip(b"]")
            {
                return;
            }
        }
        if timed && rest.skip(b" ") {
            self.0 = rest.0;
        }
    }
}
