//! What is open, and what becomes of it: who came in, when the door shuts behind them, and who never came.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use super::kernel_log_line::NewConnection;
use crate::privileged::{Protocol, Request};

/// One address and port that is open, for as many connections as there were knocks.
#[derive(Debug)]
pub(super) struct OpenGrant {
    /// What the helper was asked for, as last renewed.
    pub(super) request: Request,
    /// Whose knocks they were, and where.
    pub(super) profile: String,
    knock_port: u16,
    /// The last knock.
    since: Instant,
    knocks: u32,
    came: u32,
}

impl OpenGrant {
    fn ends(&self) -> Instant {
        self.since + Duration::from_secs(self.request.seconds.into())
    }

    fn is_for(&self, other: &Request) -> bool {
        let Request { address, destination, protocol, port, .. } = self.request;
        (address, destination, protocol, port)
            == (other.address, other.destination, other.protocol, other.port)
    }
}

/// A connection that came in through an opening.
#[derive(Debug)]
pub(super) struct GrantUse {
    /// Whose knock it was, and where.
    pub(super) profile: String,
    pub(super) knock_port: u16,
    /// The service.
    pub(super) request: Request,
    /// How long after the last knock.
    pub(super) after: Duration,
    /// Whether as many have come as knocked: the door is to be shut.
    pub(super) is_last: bool,
}

/// Everything that is open.
#[derive(Debug, Default)]
pub(super) struct OpenGrants(Vec<OpenGrant>);

impl OpenGrants {
    /// The helper has opened, or renewed.
    pub(super) fn opened(
        &mut self,
        profile: &str,
        knock_port: u16,
        request: &Request,
        now: Instant,
    ) {
        if let Some(open) = self.0.iter_mut().find(|open| open.is_for(request)) {
            (open.request, open.since) = (*request, now);
            open.knocks += 1;
        } else {
            let (request, profile) = (*request, profile.to_owned());
            self.0.push(OpenGrant { request, profile, knock_port, since: now, knocks: 1, came: 0 });
        }
    }

    /// The kernel says that a connection stands. None: it is through no opening of ours, or that is over.
    pub(super) fn came_in(&mut self, line: NewConnection, now: Instant) -> Option<GrantUse> {
        let place = self.0.iter().position(|open| {
            let Request { address, destination, protocol, port, .. } = open.request;
            protocol == Protocol::Tcp
                && (address, destination, port) == (line.source, line.destination, line.port)
        })?;
        let open = self.0.get_mut(place)?;
        open.came += 1;
        let arrival = GrantUse {
            profile: open.profile.clone(),
            knock_port: open.knock_port,
            request: open.request,
            after: now.saturating_duration_since(open.since),
            is_last: open.came >= open.knocks,
        };
        if arrival.is_last {
            self.0.swap_remove(place);
        }
        Some(arrival)
    }

    /// Those whose time is over.
    pub(super) fn over(&mut self, now: Instant) -> Vec<OpenGrant> {
        self.0.extract_if(.., |open| open.ends() <= now).collect()
    }

    /// When the next one's time is over.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.0.iter().map(OpenGrant::ends).min()
    }
}

impl OpenGrant {
    /// Whether nobody came in. Of UDP nothing tells.
    pub(super) fn was_not_used(&self) -> bool {
        self.came == 0 && self.request.protocol == Protocol::Tcp
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privileged::Spend;

    fn request(host: u8, port: u16) -> Request {
        Request {
            address: [192, 0, 2, host].into(),
            destination: [198, 51, 100, 1].into(),
            protocol: Protocol::Tcp,
            port,
            seconds: 10,
            spend: Spend::Any,
        }
    }

    fn line(host: u8, port: u16) -> NewConnection {
        let Request { address, destination, .. } = request(host, port);
        NewConnection { source: address, destination, port }
    }

    #[test]
    fn the_door_shuts_behind_as_many_as_knocked() {
        let (mut openings, now) = (OpenGrants::default(), Instant::now());
        openings.opened("laptop", 666, &request(7, 22), now);
        openings.opened("phone", 667, &request(7, 22), now + Duration::from_secs(2));
        assert!(openings.came_in(line(8, 22), now).is_none(), "another address");
        assert!(openings.came_in(line(7, 23), now).is_none(), "another port");
        let first = openings.came_in(line(7, 22), now + Duration::from_secs(3)).unwrap();
        assert_eq!((first.after, first.is_last), (Duration::from_secs(1), false));
        assert!(openings.came_in(line(7, 22), now).unwrap().is_last);
        assert!(openings.came_in(line(7, 22), now).is_none(), "shut");
        assert_eq!(openings.next_end(), None);
    }

    #[test]
    fn what_nobody_used_is_told_of_when_its_time_is_over() {
        let (mut openings, now) = (OpenGrants::default(), Instant::now());
        openings.opened("laptop", 666, &request(7, 22), now);
        openings.opened("laptop", 666, &request(7, 80), now + Duration::from_secs(1));
        assert_eq!(openings.next_end(), Some(now + Duration::from_secs(10)));
        assert!(openings.over(now + Duration::from_millis(9_999)).is_empty());
        let over = openings.over(now + Duration::from_secs(10));
        assert_eq!((over.len(), over[0].request.port), (1, 22));
        assert!(over[0].was_not_used());
        assert_eq!(openings.next_end(), Some(now + Duration::from_secs(11)));
    }
}
