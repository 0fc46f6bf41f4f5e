//! The open grants: the profile that each counts against, the connections through it, and when it ends.

use std::time::{Duration, Instant};

use super::kernel_log_line::packet::NewConnection;
use crate::grant::{Grant, Protocol};

/// One address and port that is open, for as many connections as there were knocks.
#[derive(Debug)]
pub(super) struct OpenGrant {
    /// As last renewed.
    pub(super) grant: Grant,
    /// The profile of the last knock: the grant counts against its quota.
    pub(super) profile: String,
    /// When that knock came.
    since: Instant,
    knocks: u32,
    connections: u32,
}

/// A connection through a grant.
#[derive(Debug)]
pub(super) struct GrantUse {
    /// Whose knock it was.
    pub(super) profile: String,
    pub(super) grant: Grant,
    /// How long after the last knock.
    pub(super) after: Duration,
    /// Whether there are as many connections as there were knocks: the grant is to be closed.
    pub(super) is_last: bool,
}

/// Everything that is open.
#[derive(Debug, Default)]
pub(super) struct OpenGrants(Vec<OpenGrant>);

impl OpenGrants {
    /// Whether `profile` stays within `max` grants with this one, which may be a renewal.
    pub(super) fn has_room(&self, profile: &str, grant: &Grant, max: usize, now: Instant) -> bool {
        let own = || self.0.iter().filter(|open| open.profile == profile && open.ends() > now);
        own().any(|open| open.grant.is_for_the_same(grant)) || own().count() < max
    }

    /// The helper has opened, or renewed.
    pub(super) fn opened(&mut self, profile: &str, grant: &Grant, now: Instant) {
        let profile = profile.to_owned();
        if let Some(open) = self.0.iter_mut().find(|open| open.grant.is_for_the_same(grant)) {
            (open.grant, open.profile, open.since) = (*grant, profile, now);
            open.knocks += 1;
        } else {
            let grant = *grant;
            self.0.push(OpenGrant { grant, profile, since: now, knocks: 1, connections: 0 });
        }
    }

    /// The kernel says that a connection stands. None: it is through no grant of ours, or that is over.
    pub(super) fn connected(&mut self, line: NewConnection, now: Instant) -> Option<GrantUse> {
        let place = self.0.iter().position(|open| {
            let Grant { address, destination, protocol, port, .. } = open.grant;
            protocol == Protocol::Tcp
                && (address, destination, port) == (line.source, line.destination, line.port)
        })?;
        let open = self.0.get_mut(place)?;
        open.connections += 1;
        let used = GrantUse {
            profile: open.profile.clone(),
            grant: open.grant,
            after: now.saturating_duration_since(open.since),
            is_last: open.connections >= open.knocks,
        };
        if used.is_last {
            self.0.swap_remove(place);
        }
        Some(used)
    }

    /// Removes and returns the expired grants.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<OpenGrant> {
        self.0.extract_if(.., |open| open.ends() <= now).collect()
    }

    /// When the next grant expires.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.0.iter().map(OpenGrant::ends).min()
    }
}

impl OpenGrant {
    fn ends(&self) -> Instant {
        self.since + Duration::from_secs(self.grant.seconds.into())
    }

    /// Whether no client has connected. The kernel does not log UDP flows, so a UDP grant is never reported as unused.
    pub(super) fn was_not_used(&self) -> bool {
        self.connections == 0 && self.grant.protocol == Protocol::Tcp
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grant::Spend;

    fn grant(host: u8, port: u16) -> Grant {
        Grant {
            address: [192, 0, 2, host].into(),
            destination: [198, 51, 100, 1].into(),
            protocol: Protocol::Tcp,
            port,
            seconds: 10,
            spend: Spend::Any,
        }
    }

    fn line(host: u8, port: u16) -> NewConnection {
        let Grant { address, destination, .. } = grant(host, port);
        NewConnection { source: address, destination, port }
    }

    #[test]
    fn a_grant_ends_with_as_many_connections_as_there_were_knocks() {
        let (mut grants, now) = (OpenGrants::default(), Instant::now());
        grants.opened("laptop", &grant(7, 22), now);
        grants.opened("phone", &grant(7, 22), now + Duration::from_secs(2));
        assert!(grants.connected(line(8, 22), now).is_none(), "another address");
        assert!(grants.connected(line(7, 23), now).is_none(), "another port");
        let first = grants.connected(line(7, 22), now + Duration::from_secs(3)).unwrap();
        assert_eq!((first.after, first.is_last), (Duration::from_secs(1), false));
        assert!(grants.connected(line(7, 22), now).unwrap().is_last);
        assert!(grants.connected(line(7, 22), now).is_none(), "closed");
        assert_eq!(grants.next_expiry(), None);
    }

    #[test]
    fn what_nobody_used_is_known_when_its_time_is_over() {
        let (mut grants, now) = (OpenGrants::default(), Instant::now());
        grants.opened("laptop", &grant(7, 22), now);
        grants.opened("laptop", &grant(7, 80), now + Duration::from_secs(1));
        assert_eq!(grants.next_expiry(), Some(now + Duration::from_secs(10)));
        assert!(grants.expired(now + Duration::from_millis(9_999)).is_empty());
        let expired = grants.expired(now + Duration::from_secs(10));
        assert_eq!((expired.len(), expired[0].grant.port), (1, 22));
        assert!(expired[0].was_not_used());
        assert_eq!(grants.next_expiry(), Some(now + Duration::from_secs(11)));
    }

    #[test]
    fn a_profile_has_room_for_a_renewal_and_for_what_replaces_the_closed_and_the_expired() {
        let (mut grants, now) = (OpenGrants::default(), Instant::now());
        let later = now + Duration::from_secs(1);
        for (port, since) in [(22, now), (80, later)] {
            assert!(grants.has_room("laptop", &grant(7, port), 2, since));
            grants.opened("laptop", &grant(7, port), since);
        }
        assert!(!grants.has_room("laptop", &grant(7, 443), 2, later));
        assert!(grants.has_room("laptop", &grant(7, 22), 2, later), "a renewal");
        assert!(grants.has_room("phone", &grant(7, 443), 2, later), "another profile");
        assert!(!grants.has_room("phone", &grant(7, 22), 0, later), "not its own to renew");
        assert!(grants.has_room("laptop", &grant(7, 443), 2, now + Duration::from_secs(10)));
        grants.connected(line(7, 22), later);
        assert!(grants.has_room("laptop", &grant(7, 443), 2, later));
    }
}
