//! The error when knocks were sent but no connection was established.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::errno::Errno;

/// Knocks were sent, but the port never opened to us.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "{address}: {} after {packets} SYNs ({}) from {source_address} and {:.1} s",
    self.stage(), self.counters_in_words(), .took.as_secs_f32()
)]
pub(crate) struct NeverOpened {
    /// The address of the last attempt.
    pub(crate) address: SocketAddr,
    /// The local address that was knocked from.
    pub(crate) source_address: IpAddr,
    /// SYNs that were sent.
    pub(crate) packets: u32,
    /// Counters that were spent.
    pub(crate) counters: u32,
    /// How long it was tried.
    pub(crate) took: Duration,
    /// The last answer; `None` where there was no answer at all.
    pub(crate) answer: Option<Errno>,
    /// The first attempt had no answer, and a later one was refused at once.
    pub(crate) refused_after_silence: bool,
}

impl NeverOpened {
    /// The firewall drops what it does not admit, and after the knock something was refused: that was admitted, and it
    /// was the host itself that refused it.
    fn nothing_listens(&self) -> bool {
        self.answer == Some(Errno::ECONNREFUSED) && self.refused_after_silence
    }

    fn stage(&self) -> String {
        match self.answer {
            _ if self.nothing_listens() => {
                format!("tcp/{} opened, but nothing listens there", self.address.port())
            }
            Some(Errno::ECONNREFUSED) => "still refused".to_owned(),
            Some(why) => why.desc().to_owned(),
            None => "no answer".to_owned(),
        }
    }

    fn counters_in_words(&self) -> String {
        match self.counters {
            1 => "1 counter".to_owned(),
            many => format!("{many} counters"),
        }
    }

    /// What may be the reason.
    pub(crate) fn hint(&self) -> &'static str {
        match self.answer {
            _ if self.nothing_listens() => {
                "start the service on the server, or ask for another port"
            }
            None => {
                "the host is down, the knocks did not arrive, or the server did not accept them; the server's log says which"
            }
            Some(_) => {
                "the knocks did not arrive, the server did not accept them, or the port opened but nothing listens there; the server's log says which"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_after_silence_means_that_nothing_listens() {
        let failure = |refused_after_silence, answer| NeverOpened {
            address: "192.0.2.1:22".parse().unwrap(),
            source_address: [192, 0, 2, 2].into(),
            packets: 3,
            counters: 2,
            took: Duration::from_secs(5),
            answer,
            refused_after_silence,
        };
        let refused = Some(Errno::ECONNREFUSED);
        let text = failure(true, refused).to_string();
        assert!(text.contains("tcp/22 opened, but nothing listens there after 3 SYNs"), "{text}");
        for cannot_tell in [
            failure(false, refused),
            failure(false, None),
            failure(false, Some(Errno::EHOSTUNREACH)),
        ] {
            let text = cannot_tell.to_string();
            assert!(!text.contains("tcp/22 opened"), "{text}");
        }
    }

    #[test]
    fn nobody_is_told_to_write_a_counter() {
        for answer in [None, Some(Errno::ECONNREFUSED), Some(Errno::EHOSTUNREACH)] {
            let text = NeverOpened {
                address: "192.0.2.1:22".parse().unwrap(),
                source_address: [192, 0, 2, 2].into(),
                packets: 3,
                counters: 2,
                took: Duration::from_secs(5),
                answer,
                refused_after_silence: false,
            };
            let text = format!("{text} {}", text.hint());
            assert!(!text.contains("write") && !text.contains("`counter`"), "{text}");
        }
    }
}
