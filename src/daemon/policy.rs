//! May this profile have this port? Root's limits, narrowed by the profile's own list.

use crate::layout;
use crate::privileged::{Limits, Protocol, Refusal, Request, Service, Spend};
use crate::syn::LoggedSyn;
use std::fmt;

/// What one profile may be granted.
#[derive(Debug)]
pub(super) struct Policy {
    /// What a knock for 0 asks for.
    pub(super) default_port: Option<u16>,
    /// The profile's own list; None: whatever root's limits allow.
    pub(super) allow: Option<Vec<Service>>,
    /// How long a grant lasts, in seconds.
    pub(super) seconds: u16,
    /// What uses a grant for TCP up, beside its time.
    pub(super) spend: Spend,
}

/// The most requests that are listed one by one. With more, a profile's knocks are too many to be expected.
const MOST_REQUESTS: usize = 256;

impl Policy {
    /// Everything that can be asked for with success; None where that is too much to list, as without any `allow`.
    pub(super) fn requests(&self, limits: &Limits) -> Option<Vec<layout::Request>> {
        let allow = self.allow.as_ref().or(limits.allow.as_ref())?;
        let is_allowed = |protocol, port| {
            [&self.allow, &limits.allow]
                .into_iter()
                .flatten()
                .all(|services| services.iter().any(|service| service.contains(protocol, port)))
        };
        let mut ports: Vec<u16> = Vec::new();
        for service in allow {
            let all = service.first_port..=service.last_port;
            ports.extend(all.filter(|port| is_allowed(service.protocol, *port)));
        }
        // 0 asks for the profile's default.
        ports.extend(self.default_port.filter(|port| ports.contains(port)).map(|_| 0));
        ports.sort_unstable();
        ports.dedup();
        (ports.len() <= MOST_REQUESTS).then(|| ports.into_iter().map(layout::Request).collect())
    }

    /// The grant that `asked` means for whoever sent `syn`, if they may have it.
    ///
    /// The limits are the helper's too. It takes a request outside them for a sign that this process has been taken
    /// over, so none may ever be sent.
    pub(super) fn decide(
        &self,
        limits: &Limits,
        syn: &LoggedSyn<'_>,
        asked: layout::Request,
    ) -> Result<Request, Refused> {
        let port = match asked.0 {
            0 => self.default_port.ok_or(Refused::NoDefault)?,
            port => port,
        };
        let request = Request {
            address: syn.source,
            destination: syn.destination,
            protocol: Protocol::Tcp,
            port,
            seconds: self.seconds,
            spend: self.spend,
        };
        if self
            .allow
            .as_ref()
            .is_some_and(|allow| !allow.iter().any(|service| service.contains(Protocol::Tcp, port)))
        {
            return Err(Refused::ByProfile(port));
        }
        limits.check(&request).map_err(|refusal| Refused::ByLimits(port, refusal))?;
        Ok(request)
    }
}

/// Why a valid knock gets nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It asks for the profile's default, and there is none.
    NoDefault,
    /// The profile's `allow` does not have the port.
    ByProfile(u16),
    /// Root's limits refuse it.
    ByLimits(u16, Refusal),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDefault => f.write_str(
                "it names no port and the profile has no default; set `port` in its config",
            ),
            Self::ByProfile(port) => write!(f, "tcp/{port} is not in the profile's `allow`"),
            Self::ByLimits(port, refusal) => write!(f, "tcp/{port}: {refusal}"),
        }
    }
}
