//! `knock --import HOST`: a profile comes in as one line on standard input.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::path::Path;

use zeroize::Zeroizing;

use super::pasted_line::{EchoOff, MAX_TYPED, read_line};
use crate::client::say::{self, reason};
use crate::profile::enrolment::{Enrolment, EnrolmentError};
use crate::profile::import::{self, ImportError, ImportedProfile};

/// More than what comes with the line where a login shell has a lot to say, in bytes.
const MAX_INPUT: usize = 64 * 1024;

/// Why there is no new profile. What was there before still is.
#[derive(Debug, thiserror::Error)]
enum NotImported {
    #[error("standard input: {}", reason(.0))]
    Input(#[from] io::Error),
    #[error("standard input: nothing came")]
    Nothing,
    #[error("standard input: more than {MAX} bytes came", MAX = MAX_INPUT)]
    TooMuch,
    #[error("{0}")]
    Line(EnrolmentError),
    #[error(transparent)]
    Import(#[from] ImportError),
}

impl NotImported {
    fn hint(&self, host: &str) -> Option<String> {
        match self {
            Self::Nothing => Some(format!(
                "fix: ssh root@{0} knock-genprofile --print NAME | knock --import {0}",
                host.escape_debug()
            )),
            Self::TooMuch => Some(format!("fix: {}", EnrolmentError::Missing.hint())),
            Self::Line(why) => Some(format!("fix: {}", why.hint())),
            Self::Input(_) | Self::Import(_) => None,
        }
    }
}

/// Makes the profile of `host` in `profiles` of the line on standard input. The exit code.
pub(super) fn import(profiles: &Path, host: &str, replace: bool, quiet: bool) -> u8 {
    match try_import(profiles, host, replace) {
        Ok(imported) => {
            if !quiet {
                say_imported(host, &imported);
            }
            0
        }
        Err(error) => {
            say::error("knock", &error, error.hint(host));
            1
        }
    }
}

fn try_import(profiles: &Path, host: &str, replace: bool) -> Result<ImportedProfile, NotImported> {
    if !replace {
        import::refuse_existing(profiles, host)?;
    }
    let input = read_input()?;
    if input.trim_ascii().is_empty() {
        return Err(NotImported::Nothing);
    }
    let enrolment = Enrolment::parse(&input).map_err(NotImported::Line)?;
    Ok(import::import(profiles, host, &enrolment, replace)?)
}

/// All that comes; from a terminal, one line, which it does not show.
fn read_input() -> Result<Zeroizing<Vec<u8>>, NotImported> {
    let stdin = io::stdin();
    // Not through the buffer of `io::stdin`, which nobody wipes.
    let input = File::from(stdin.as_fd().try_clone_to_owned()?);
    // Room for all of it: a buffer that grows leaves copies of a key behind in memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_INPUT + 1));
    if stdin.is_terminal() {
        let echo_off = EchoOff::start(&input)?;
        say::tell(format_args!(
            "knock: paste the line that knock-genprofile --print NAME printed on the server, then Enter; it is not shown"
        ));
        read_line(&input, &mut bytes, MAX_INPUT - MAX_TYPED, &echo_off)?;
    } else {
        input.take(MAX_INPUT as u64 + 1).read_to_end(&mut bytes)?;
    }
    if bytes.len() > MAX_INPUT { Err(NotImported::TooMuch) } else { Ok(bytes) }
}

fn say_imported(host: &str, imported: &ImportedProfile) {
    let ImportedProfile { dir, config, old } = imported;
    let layout = config.layout.name();
    say::tell(format_args!("knock: {host:?}: made the profile {dir:?}, layout {layout}"));
    if let Some(old) = old {
        let kept = match &config.address {
            Some(address) => format!(", with its address = {}", address.escape_debug()),
            None => String::new(),
        };
        say::tell(format_args!(
            "knock: it replaces the one that is in {old:?} now{kept}; when it works, remove that: rm -r {old:?}"
        ));
    }
    let port = if config.port.is_some() { "" } else { "-p PORT " };
    say::tell(format_args!(
        "knock: when the server's daemon has been restarted: knock {port}{}",
        host.escape_debug()
    ));
}
