//! What a knock could open: root's `allow` and each profile's.

use crate::daemon::confirmed_guard::ConfirmedGuard;
use crate::daemon::trial_plan::Tried;
use crate::grant::{Protocol, Service, listed};
use crate::layout::keys::Layout;
use crate::profile::files::ProfileFiles;

/// At most this many services are tried.
const MAX_TRIED: usize = 16;
/// The port that is tried if no list names one: the one most often closed.
const SSH: u16 = 22;

/// What a profile can have.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) profile: String,
    pub(super) layout: Layout,
    pub(super) knock_port: Option<u16>,
    /// None: any TCP port.
    services: Option<Vec<Service>>,
    default_port: Option<u16>,
}

impl Offer {
    /// The offers of all valid profiles.
    pub(super) fn of_all(files: &[ProfileFiles], allow: Option<&[Service]>) -> Vec<Self> {
        files.iter().filter_map(|files| Self::of(files, allow)).collect()
    }

    fn of(files: &ProfileFiles, limits: Option<&[Service]>) -> Option<Self> {
        let profile = files.profile().ok()?;
        let own = profile
            .config
            .allow
            .map(|texts| texts.iter().map(|text| text.parse()).collect::<Result<Vec<_>, _>>());
        let services = both(limits, own.transpose().ok()?);
        Some(Self {
            profile: profile.name,
            layout: profile.config.layout,
            knock_port: profile.config.knock_port,
            services,
            default_port: profile.config.port,
        })
    }

    /// In words.
    pub(super) fn text(&self) -> String {
        let Some(services) = &self.services else { return "any TCP port".into() };
        if services.is_empty() { "nothing".into() } else { listed(services, ", ") }
    }

    fn has(&self, port: u16) -> bool {
        self.services.as_ref().is_none_or(|services| {
            services.iter().any(|service| service.contains(Protocol::Tcp, port))
        })
    }
}

/// What both lists name; a list that is not there names everything.
fn both(one: Option<&[Service]>, other: Option<Vec<Service>>) -> Option<Vec<Service>> {
    let (one, other) = match (one, other) {
        (None, other) => return other,
        (Some(one), None) => return Some(one.to_vec()),
        (Some(one), Some(other)) => (one, other),
    };
    let overlap = |a: &Service, b: &Service| {
        let (first_port, last_port) =
            (a.first_port.max(b.first_port), a.last_port.min(b.last_port));
        (a.protocol == b.protocol && first_port <= last_port).then_some(Service {
            first_port,
            last_port,
            ..*a
        })
    };
    Some(other.iter().flat_map(|b| one.iter().filter_map(move |a| overlap(a, b))).collect())
}

/// The services to try: what knocks can open and what the guard closes; of a range the first port. Says whether some were
/// left out.
pub(super) fn to_try(offers: &[Offer], guard: Option<&ConfirmedGuard>) -> (Vec<Tried>, bool) {
    let offered = offers.iter().flat_map(|offer| offer.services.iter().flatten());
    let tcp = offered.chain(guarded(guard));
    let tcp = tcp.filter(|service| service.protocol == Protocol::Tcp);
    let mut ports: Vec<u16> = tcp.map(|service| service.first_port).collect();
    // Where every TCP port may be asked for: the profile's default.
    ports.extend(offers.iter().filter_map(|offer| offer.default_port));
    if ports.is_empty() {
        ports.push(SSH);
    }
    ports.sort_unstable();
    ports.dedup();
    let too_many = ports.len() > MAX_TRIED;
    ports.truncate(MAX_TRIED);
    let tried = |port| Tried { port, can_be_opened: offers.iter().any(|offer| offer.has(port)) };
    (ports.into_iter().map(tried).collect(), too_many)
}

/// The UDP services among them, in words.
pub(super) fn udp(offers: &[Offer], guard: Option<&ConfirmedGuard>) -> String {
    let offered = offers.iter().flat_map(|offer| offer.services.iter().flatten());
    let udp = offered.chain(guarded(guard)).filter(|service| service.protocol == Protocol::Udp);
    let mut names: Vec<_> = udp.map(ToString::to_string).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

/// What the guard names.
fn guarded(guard: Option<&ConfirmedGuard>) -> &[Service] {
    guard.and_then(|guard| guard.only.as_ref()).map_or(&[], |guard| &guard.closed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services(texts: &[&str]) -> Vec<Service> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn offer(allow: Option<&[&str]>) -> Offer {
        Offer {
            profile: "a".into(),
            layout: Layout::Classic,
            knock_port: Some(1),
            services: allow.map(services),
            default_port: None,
        }
    }

    #[test]
    fn a_profile_has_what_both_lists_name() {
        let limits = services(&["tcp/22", "tcp/8000-8010", "udp/53"]);
        let own = services(&["tcp/20-25", "tcp/8005-9000", "tcp/53"]);
        let have = services(&["tcp/22", "tcp/8005-8010"]);
        assert_eq!(both(Some(&limits), Some(own.clone())), Some(have));
        assert_eq!(both(None, Some(own.clone())), Some(own));
        assert_eq!(both(Some(&limits), None), Some(limits));
        assert_eq!(both(None, None), None);
    }

    #[test]
    fn each_service_is_tried_once_and_ssh_where_none_is_named() {
        let ports = |offers: &[Offer]| {
            to_try(offers, None).0.iter().map(|tried| tried.port).collect::<Vec<_>>()
        };
        assert_eq!(ports(&[offer(None)]), [22]);
        let offers =
            [offer(Some(&["tcp/8000-8010", "udp/53"])), offer(Some(&["tcp/8000", "tcp/5"]))];
        assert_eq!(ports(&offers), [5, 8000]);
        let many: Vec<String> = (1..=20).map(|port| format!("tcp/{port}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let (tried, too_many) = to_try(&[offer(Some(&many))], None);
        assert_eq!((tried.len(), too_many), (MAX_TRIED, true));
    }
}
