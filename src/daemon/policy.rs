//! May this profile have this port? Root's limits, narrowed by the profile's own list.

use thiserror::Error;

use crate::grant::{Grant, NotAService, Protocol, Service, Spend};
use crate::layout;
use crate::privileged::limits::{Limits, OutsideLimits};
use crate::profile::config::ProfileConfig;
use crate::syn::LoggedSyn;

/// What the config says for all profiles.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProfileDefaults {
    /// How long a grant lasts, in seconds.
    pub(super) seconds: u16,
    /// How many counters ahead are tried.
    pub(super) error_window: u32,
    /// What uses a grant for TCP up, beside its time.
    pub(super) spend: Spend,
}

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

/// The largest number of requests that are listed. The knocks for more are too many to compute their sequence numbers.
const MAX_REQUESTS: usize = 256;

impl Policy {
    /// What a profile's config and the server's say.
    pub(super) fn new(
        config: &ProfileConfig,
        ProfileDefaults { seconds, spend, .. }: ProfileDefaults,
    ) -> Result<Self, String> {
        let services = |texts: &Vec<String>| texts.iter().map(|text| text.parse()).collect();
        let allow: Option<Result<_, NotAService>> = config.allow.as_ref().map(services);
        let allow = allow.transpose().map_err(|why| format!("allow: {why}"))?;
        Ok(Self { default_port: config.port, allow, seconds, spend })
    }

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
        (ports.len() <= MAX_REQUESTS).then(|| ports.into_iter().map(layout::Request).collect())
    }

    /// The grants that `asked` means for whoever sent `syn`: for TCP, for UDP, or one for each, as far as they may have
    /// them.
    ///
    /// The limits are the helper's too. It takes a request outside them as a sign that this process is compromised, so
    /// this process never sends one.
    pub(super) fn decide(
        &self,
        limits: &Limits,
        syn: &LoggedSyn<'_>,
        asked: layout::Request,
    ) -> Result<Vec<Grant>, Denial> {
        let port = match asked.0 {
            0 => self.default_port.ok_or(Denial::NoDefault)?,
            port => port,
        };
        // UDP has no handshake, so a blind sender could use such a grant up: it ends by its time alone.
        let meant = [(Protocol::Tcp, self.spend), (Protocol::Udp, Spend::Any)];
        let (mut grants, mut denial) = (Vec::new(), None);
        for (protocol, spend) in meant {
            let is_allowed =
                |allow: &Vec<Service>| allow.iter().any(|one| one.contains(protocol, port));
            if !self.allow.as_ref().is_none_or(is_allowed) {
                continue;
            }
            let (address, destination, seconds) = (syn.source, syn.destination, self.seconds);
            let grant = Grant { address, destination, protocol, port, seconds, spend };
            match limits.check(&grant) {
                Ok(()) => grants.push(grant),
                Err(_) if protocol == Protocol::Udp && limits.allow.is_none() => {
                    denial = denial.or(Some(Denial::TcpAlone(port)));
                }
                Err(why) => {
                    denial = denial.or(Some(Denial::ByLimits(protocol, port, why)));
                }
            }
        }
        if grants.is_empty() { Err(denial.unwrap_or(Denial::ByProfile(port))) } else { Ok(grants) }
    }
}

/// Why a valid knock gets nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum Denial {
    /// It asks for the profile's default, and there is none.
    #[error(
        "it names no port and the profile has no default\nfix: set `port` in the profile's config"
    )]
    NoDefault,
    /// The profile's `allow` does not have the port.
    #[error("port {0} is not in the profile's `allow`")]
    ByProfile(u16),
    /// The profile's `allow` has it for UDP, and root's names nothing.
    #[error("udp/{0}: without `allow` in `config` only TCP is granted\nfix: name udp/{0} there")]
    TcpAlone(u16),
    /// Root's limits refuse it.
    #[error("{service}{why}", service = named(*.0, *.1, .2), why = .2)]
    ByLimits(Protocol, u16, OutsideLimits),
}

/// The service, where the limits' own words do not name it.
fn named(protocol: Protocol, port: u16, why: &OutsideLimits) -> String {
    match why {
        OutsideLimits::Service(..) => String::new(),
        _ => format!("{protocol}/{port}: "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syn::SynFields;

    fn limits(allow: Option<&[Service]>) -> Limits {
        let allow = allow.map(<[_]>::to_vec);
        let (max_seconds, max_open, max_open_per_source) = (60, 10, 10);
        Limits { allow, max_seconds, max_open, max_open_per_source, ipv4: true, ipv6: true }
    }

    fn service(protocol: Protocol, port: u16) -> Service {
        Service { protocol, first_port: port, last_port: port }
    }

    /// What a request is granted, or why not.
    fn granted(
        profile: Option<&[Service]>,
        root: Option<&[Service]>,
        port: u16,
    ) -> Result<Vec<(Protocol, Spend)>, String> {
        let allow = profile.map(<[_]>::to_vec);
        let policy = Policy { default_port: None, allow, seconds: 15, spend: Spend::One };
        let syn = LoggedSyn {
            source: "192.0.2.7".parse().unwrap(),
            destination: "192.0.2.1".parse().unwrap(),
            source_port: 2000,
            destination_port: 666,
            fields: SynFields { id: 0, seq: 0, ack: 0, window: 0 },
            asks_for_ecn: false,
            options_hex: b"",
        };
        let decided = policy.decide(&limits(root), &syn, layout::Request(port));
        let decided = decided.map_err(|denial| denial.to_string())?;
        assert!(decided.iter().all(|grant| grant.port == port && grant.seconds == 15));
        Ok(decided.iter().map(|grant| (grant.protocol, grant.spend)).collect())
    }

    #[test]
    fn a_denial_names_its_service_once() {
        let address = "192.0.2.7".parse().unwrap();
        for (why, begins) in [
            (OutsideLimits::Service(Protocol::Tcp, 80), "tcp/80 is not among"),
            (OutsideLimits::Address(address), "tcp/80: 192.0.2.7"),
        ] {
            let text = Denial::ByLimits(Protocol::Tcp, 80, why).to_string();
            assert!(text.starts_with(begins), "{text}");
        }
    }

    #[test]
    fn a_request_opens_what_is_allowed_for_its_port_by_tcp_and_by_udp() {
        let tcp = (Protocol::Tcp, Spend::One);
        let udp = (Protocol::Udp, Spend::Any);
        let [ssh, https, quic, wireguard] =
            [(tcp.0, 22), (tcp.0, 443), (udp.0, 443), (udp.0, 51820)]
                .map(|(protocol, port)| service(protocol, port));
        let all = [ssh, https, quic, wireguard];
        for (profile, root, port, expected) in [
            (None, None, 443, vec![tcp]),
            (None, Some(&all[..]), 22, vec![tcp]),
            (None, Some(&all), 443, vec![tcp, udp]),
            (None, Some(&all), 51820, vec![udp]),
            (Some(&[quic, ssh][..]), Some(&all), 443, vec![udp]),
            (Some(&[https][..]), Some(&all), 443, vec![tcp]),
            (Some(&[https, quic][..]), None, 443, vec![tcp]),
            (Some(&all[..]), Some(&[quic][..]), 443, vec![udp]),
        ] {
            assert_eq!(granted(profile, root, port), Ok(expected), "{profile:?} {root:?} {port}");
        }
        for (profile, root, port, why) in [
            (None, Some(&all[..]), 80, "tcp/80 is not among the services in `allow`"),
            (Some(&[ssh][..]), Some(&all), 443, "port 443 is not in the profile's `allow`"),
            (Some(&[wireguard][..]), None, 51820, "name udp/51820 there"),
            (
                Some(&[wireguard][..]),
                Some(&[ssh][..]),
                51820,
                "udp/51820 is not among the services",
            ),
        ] {
            let refused = granted(profile, root, port).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }

    fn policy(default_port: Option<u16>, allow: Option<Vec<Service>>) -> Policy {
        Policy { default_port, allow, seconds: 15, spend: Spend::One }
    }

    #[test]
    fn what_can_be_asked_for_is_what_both_lists_have_each_once_and_the_default() {
        let [ssh, https, quic] = [(Protocol::Tcp, 22), (Protocol::Tcp, 443), (Protocol::Udp, 443)]
            .map(|(protocol, port)| service(protocol, port));
        for (default_port, profile, root, expected) in [
            (None, None, None, None),
            (None, None, Some(&[quic, https, ssh][..]), Some(vec![22, 443])),
            (None, Some(vec![https, ssh]), None, Some(vec![22, 443])),
            (None, Some(vec![https, ssh]), Some(&[ssh, quic]), Some(vec![22])),
            (None, Some(vec![https]), Some(&[quic]), Some(vec![])),
            (Some(22), None, Some(&[https, ssh]), Some(vec![0, 22, 443])),
            (Some(80), None, Some(&[https, ssh]), Some(vec![22, 443])),
        ] {
            let requests = policy(default_port, profile.clone()).requests(&limits(root));
            let ports = requests.map(|all| all.iter().map(|one| one.0).collect::<Vec<_>>());
            assert_eq!(ports, expected, "{default_port:?} {profile:?} {root:?}");
        }
    }

    #[test]
    fn more_than_256_requests_are_not_listed() {
        let listed = |last_port| {
            let range = Service { protocol: Protocol::Udp, first_port: 1000, last_port };
            policy(None, Some(vec![range])).requests(&limits(None)).map(|all| all.len())
        };
        assert_eq!(listed(1255), Some(256));
        assert_eq!(listed(1256), None);
    }
}
