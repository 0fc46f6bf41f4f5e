//! What a person is told when a knock cannot be made: what is wrong, then what to do. Lower case, one line.
//!
//! Names and paths come from outside, so they are shown escaped (`{:?}`).

#![forbid(unsafe_code)]

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use nix::errno::Errno;

use super::connect::NeverOpened;
use super::known::nearest;
use super::plain::NoConnection;
use super::target::NoRoute;
use super::turn::NoTurn;
use crate::counter::CounterError;
use crate::profile::error::ProfileError;

/// Why no knock was sent.
#[derive(Debug)]
pub enum Failure {
    /// Neither `--profiles` nor `HOME` says where the profiles are.
    NoHome,
    /// There is no profile for this host. With those that there are.
    NoProfile {
        /// The host that was asked for.
        host: String,
        /// Where profiles are looked for.
        profiles: PathBuf,
        /// The profiles that there are.
        there_are: Vec<String>,
    },
    /// The profile cannot be used.
    Profile(ProfileError),
    /// The counter cannot be spent.
    Counter(CounterError),
    /// Nobody said which port to ask for.
    NoPort(String, PathBuf),
    /// The name has no address.
    Unresolved(String, std::io::Error),
    /// The name, which is no profile's, has no address.
    NoAddress(String, std::io::Error),
    /// There is no way to the host.
    NoRoute(String, NoRoute),
    /// The program may not open a raw socket.
    NoCapability(PathBuf),
    /// The raw socket cannot be opened for another reason.
    RawSocket(Errno),
    /// The privileges could not be given up.
    StillPrivileged(String),
    /// The directory of profiles cannot be read.
    NoProfiles(PathBuf, std::io::Error),
    /// Every counter of this profile has been used.
    Spent(String),
    /// It is not our turn with this profile.
    NoTurn(NoTurn),
    /// Standard input or output cannot be used.
    StandardEnds(std::io::Error),
    /// The host was knocked at, but does not let us in.
    NeverOpened(NeverOpened),
    /// The host has no profile, and cannot be connected to without a knock either.
    Plain {
        /// The host that was asked for.
        host: String,
        /// What came of it.
        why: NoConnection,
        /// The profile that was probably meant.
        meant: Option<String>,
    },
    /// The connection broke.
    ConnectionLost(String, std::io::Error),
    /// The packet did not leave.
    NotSent {
        /// The counter that is gone.
        counter: u32,
        /// Where the packet should have gone.
        address: IpAddr,
        /// What the kernel said.
        why: Errno,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHome => f.write_str(
                "HOME is not set, so there is nowhere to look for profiles: say --profiles DIR",
            ),
            Self::NoProfile { host, profiles, there_are } => {
                no_profile(f, host, profiles, there_are)
            }
            Self::Profile(error) => error.fmt(f),
            Self::Counter(error) => write!(f, "{error}; nothing was sent"),
            Self::NoPort(host, config) => write!(
                f,
                "{host:?}: which port? say -p PORT or HOST:PORT, or write \"port = PORT\" below [main] in {config:?}"
            ),
            Self::Unresolved(name, why) => write!(
                f,
                "{name:?}: no address for this name ({}); check the name and the network, or write \"address = ...\" into the profile's config; nothing was sent, no counter spent",
                reason(why)
            ),
            Self::NoAddress(name, why) => {
                write!(f, "{name:?}: no address for this name ({}), and no profile", reason(why))
            }
            Self::NoRoute(name, NoRoute::NoneOfThatFamily) => write!(
                f,
                "{name:?}: has no address of the family that was asked for (-4, -6, --source); nothing was sent, no counter spent"
            ),
            Self::NoRoute(name, NoRoute::Unreachable(address, why)) => write!(
                f,
                "{name:?}: no way to {address} ({}); check the network; nothing was sent, no counter spent",
                reason(why)
            ),
            Self::NoCapability(program) => write!(
                f,
                "sending a knock needs CAP_NET_RAW; give it to the program once: sudo setcap cap_net_raw+ep {}",
                shell_word(program)
            ),
            Self::RawSocket(why) => {
                write!(f, "cannot open a raw socket ({}); nothing was sent", why.desc())
            }
            Self::StillPrivileged(why) => {
                write!(f, "cannot give up privileges ({why}), so nothing was sent")
            }
            Self::NoProfiles(dir, why) if why.kind() == std::io::ErrorKind::NotFound => write!(
                f,
                "{dir:?}: there is no such directory; profiles are made on the server, by knock-genprofile"
            ),
            Self::NoProfiles(dir, why) => write!(
                f,
                "{dir:?}: the profiles cannot be read ({}); see whose it is: ls -ld {dir:?}",
                reason(why)
            ),
            Self::Spent(name) => {
                write!(f, "{name:?}: every counter has been used; ask for a new profile")
            }
            Self::NoTurn(why) => why.fmt(f),
            Self::StandardEnds(why) => {
                write!(f, "standard input or output cannot be used: {}", reason(why))
            }
            Self::NeverOpened(why) => why.fmt(f),
            Self::Plain { host, why, meant } => {
                write!(f, "{host:?}: {why}; there is no such profile, so no knock was sent")?;
                meant.iter().try_for_each(|name| write!(f, "; did you mean {name:?}?"))
            }
            Self::ConnectionLost(host, why) => {
                write!(f, "{host:?}: the connection broke: {}", reason(why))
            }
            Self::NotSent { counter, address, why } => write!(
                f,
                "the knock for {address} did not leave this machine ({}); counter {counter} is spent, no port was opened",
                why.desc()
            ),
        }
    }
}

impl std::error::Error for Failure {}

impl Failure {
    /// What it means that a raw socket cannot be opened.
    #[must_use]
    pub fn raw_socket(why: Errno) -> Self {
        match why {
            Errno::EPERM => Self::NoCapability(std::env::current_exe().unwrap_or_default()),
            why => Self::RawSocket(why),
        }
    }

    /// 2 where the command line lacks something, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoHome | Self::NoPort(..) => 2,
            _ => 1,
        }
    }
}

/// What the system said, without its number.
#[must_use]
pub fn reason(why: &std::io::Error) -> String {
    match why.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_owned(),
        None => why.to_string(),
    }
}

fn no_profile(
    f: &mut fmt::Formatter<'_>,
    host: &str,
    profiles: &std::path::Path,
    there_are: &[String],
) -> fmt::Result {
    write!(f, "no profile {host:?} in {profiles:?}; ")?;
    if let Some(name) = nearest(host, there_are) {
        return write!(f, "did you mean {name:?}?");
    }
    if there_are.is_empty() {
        f.write_str("there are none yet; ")?;
    } else {
        f.write_str("there are ")?;
        for (index, name) in there_are.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{name:?}")?;
        }
        f.write_str("; ")?;
    }
    f.write_str(
        "the server's admin makes one with knock-genprofile, which says how to copy it here",
    )
}

/// `path` as it can be typed into a shell; where that would take quoting, what finds the program there.
fn shell_word(path: &std::path::Path) -> String {
    match path.to_str() {
        Some(text)
            if text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"/._+-".contains(&byte)) =>
        {
            text.to_owned()
        }
        _ if path.ends_with("knock-proxy") => "$(command -v knock-proxy)".to_owned(),
        _ => "$(command -v knock)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_profile_lists_those_that_there_are_and_how_to_get_one() {
        let failure = |there_are: &[&str]| {
            Failure::NoProfile {
                host: "a\u{1b}[2J".into(),
                profiles: "/home/u/.knockknock".into(),
                there_are: there_are.iter().map(ToString::to_string).collect(),
            }
            .to_string()
        };
        assert!(failure(&["one.example", "b\u{1b}[2J"]).ends_with(r#"did you mean "b\u{1b}[2J"?"#));
        let text = failure(&["one.example", "two.example"]);
        assert!(text.contains(r#"there are "one.example", "two.example""#), "{text}");
        assert!(text.contains("knock-genprofile"), "{text}");
        assert!(!text.contains('\u{1b}'), "what was typed is escaped: {text}");
        assert!(failure(&[]).contains("none yet"));
    }

    #[test]
    fn a_missing_capability_teaches_the_line_that_gives_it() {
        let text = Failure::NoCapability("/usr/local/bin/knock".into()).to_string();
        assert!(text.ends_with("sudo setcap cap_net_raw+ep /usr/local/bin/knock"), "{text}");
        let text = Failure::NoCapability("/tmp/$(reboot)/knock".into()).to_string();
        assert!(text.ends_with("sudo setcap cap_net_raw+ep $(command -v knock)"), "{text}");
        let text = Failure::NoCapability("/home/a b/knock-proxy".into()).to_string();
        assert!(text.ends_with("sudo setcap cap_net_raw+ep $(command -v knock-proxy)"), "{text}");
    }

    #[test]
    fn a_knock_that_did_not_leave_claims_nothing() {
        let why = Errno::ENETUNREACH;
        let text = Failure::NotSent { counter: 7, address: [192, 0, 2, 1].into(), why }.to_string();
        assert!(
            text.contains("counter 7 is spent") && text.contains("no port was opened"),
            "{text}"
        );
    }
}
