//! Why no knock was sent: what is wrong in one clause, and a hint that says what to do.
//!
//! Names and paths come from outside, so they are shown escaped (`{:?}`).

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::capabilities::CapabilityError;
use super::kernel_syn::KernelSynError;
use super::profile_match::{ProfilesError, nearest};
use super::route::RouteError;
use crate::client::say::reason;
use crate::counter::CounterError;
use crate::profile::error::ProfileError;

/// Why no knock was sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KnockError {
    /// Neither `--profiles` nor `HOME` says where the profiles are.
    #[error("HOME is not set")]
    NoHome,
    /// There is no profile for this host.
    #[error("no profile {host:?} in {profiles:?}")]
    NoProfile {
        /// The host that was asked for.
        host: String,
        /// Where profiles are looked for.
        profiles: PathBuf,
        /// The profiles that there are.
        there_are: Vec<String>,
    },
    /// The directory of profiles cannot be read.
    #[error(transparent)]
    Profiles(#[from] ProfilesError),
    /// The profile cannot be used.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The counter cannot be spent.
    #[error(transparent)]
    Counter(#[from] CounterError),
    /// Every counter of this profile has been used.
    #[error("{0:?}: every counter has been used")]
    Spent(String),
    /// What the kernel would send is not known.
    #[error(transparent)]
    KernelSyn(#[from] KernelSynError),
    /// Nobody said which port to ask for. With the profile's config.
    #[error("{0:?}: no port")]
    NoPort(String, PathBuf),
    /// The name has no address.
    #[error("{0:?}: no address for this name ({why})", why = reason(.1))]
    Unresolved(String, io::Error),
    /// There is no route to the host.
    #[error("{0:?}: {1}")]
    NoRoute(String, RouteError),
    /// The program may not open a raw socket.
    #[error("no CAP_NET_RAW, which a knock needs")]
    NoCapability(PathBuf),
    /// The raw socket cannot be opened for another reason.
    #[error("cannot open a raw socket ({})", .0.desc())]
    RawSocket(Errno),
    /// The capabilities could not be given up.
    #[error(transparent)]
    Capabilities(#[from] CapabilityError),
    /// The packet did not leave.
    #[error("the knock for {address} did not leave this machine ({})", .why.desc())]
    NotSent {
        /// The counter that is gone.
        counter: u64,
        /// Where the packet should have gone.
        address: IpAddr,
        /// What the kernel said.
        why: Errno,
    },
}

impl KnockError {
    /// What it means that a raw socket cannot be opened.
    pub(crate) fn raw_socket(why: Errno) -> Self {
        match why {
            Errno::EPERM => {
                Self::NoCapability(std::env::current_exe().unwrap_or_else(|_| "knock".into()))
            }
            why => Self::RawSocket(why),
        }
    }

    /// The knock was made and has spent its counter, but it did not leave.
    pub(crate) fn has_spent(&self) -> bool {
        matches!(self, Self::NotSent { .. })
    }

    /// What to do, or what has happened all the same.
    pub(crate) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoHome => "use --profiles DIR".to_owned(),
            Self::NoProfile { host, there_are, .. } => profile_hint(host, there_are),
            Self::Profiles(error) => error.hint(),
            Self::Profile(_) => return None,
            Self::KernelSyn(_) => "no counter was spent".to_owned(),
            Self::Counter(_) | Self::RawSocket(_) | Self::Capabilities(_) => {
                "nothing was sent".to_owned()
            }
            Self::Spent(_) => "ask for a new profile".to_owned(),
            Self::NoPort(_, config) => format!(
                "use -p PORT or HOST:PORT, or write \"port = PORT\" below [main] in {config:?}"
            ),
            Self::Unresolved(..) => "nothing was sent, no counter spent; check the name and the network, or write \"address = ...\" into the profile's config".to_owned(),
            Self::NoRoute(_, RouteError::NoneOfThatFamily) => {
                "nothing was sent, no counter spent".to_owned()
            }
            Self::NoRoute(_, RouteError::Unreachable(..)) => {
                "nothing was sent, no counter spent; check the network".to_owned()
            }
            Self::NoCapability(program) => {
                format!("fix: sudo setcap cap_net_raw+ep {}", shell_word(program))
            }
            Self::NotSent { counter, .. } => {
                format!("counter {counter} is spent, no port was opened")
            }
        })
    }

    /// 2 where the command line lacks something, else 1.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::NoHome | Self::NoPort(..) => 2,
            _ => 1,
        }
    }
}

fn profile_hint(host: &str, there_are: &[String]) -> String {
    if let Some(name) = nearest(host, there_are) {
        return format!("did you mean {name:?}?");
    }
    let listed: Vec<String> = there_are.iter().map(|name| format!("{name:?}")).collect();
    let there_are = match listed.as_slice() {
        [] => "there are none yet".to_owned(),
        listed => format!("there are {}", listed.join(", ")),
    };
    format!("{there_are}; knock-genprofile on the server makes one, and knock --import takes it")
}

/// `path` as it can be typed into a shell; where that would take quoting, what finds the program there.
fn shell_word(path: &Path) -> String {
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
        let failure = |there_are: &[&str]| KnockError::NoProfile {
            host: "a\u{1b}[2J".into(),
            profiles: "/home/u/.knockknock".into(),
            there_are: there_are.iter().map(ToString::to_string).collect(),
        };
        let hint = |there_are: &[&str]| failure(there_are).hint().unwrap();
        assert_eq!(hint(&["one.example", "b\u{1b}[2J"]), r#"did you mean "b\u{1b}[2J"?"#);
        let text = hint(&["one.example", "two.example"]);
        assert!(text.contains(r#"there are "one.example", "two.example""#), "{text}");
        assert!(text.contains("knock-genprofile"), "{text}");
        let text = failure(&[]).to_string();
        assert!(!text.contains('\u{1b}'), "what was typed is escaped: {text}");
        assert!(hint(&[]).contains("none yet"));
    }

    #[test]
    fn a_missing_capability_teaches_the_line_that_gives_it() {
        for (path, word) in [
            ("/usr/local/bin/knock", "/usr/local/bin/knock"),
            ("/tmp/$(reboot)/knock", "$(command -v knock)"),
            ("/home/a b/knock-proxy", "$(command -v knock-proxy)"),
        ] {
            let hint = KnockError::NoCapability(path.into()).hint().unwrap();
            assert_eq!(hint, format!("fix: sudo setcap cap_net_raw+ep {word}"));
        }
    }

    #[test]
    fn a_knock_that_did_not_leave_claims_nothing() {
        let why = Errno::ENETUNREACH;
        let failure = KnockError::NotSent { counter: 7, address: [192, 0, 2, 1].into(), why };
        assert_eq!(failure.hint().unwrap(), "counter 7 is spent, no port was opened");
    }
}
