//! How many grants are open, so that nobody can open any number of them. Owns the count, not the doors: those are the
//! kernel's, and a grant that was used up by a connection still counts here until it is closed or its time is over.

#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Limits, Protocol, Reply, Request};

/// What a grant is for: opening the same again renews it.
type Key = (IpAddr, IpAddr, Protocol, u16);

/// The grants that are open, at most [`Limits::max_open`].
#[derive(Debug)]
pub struct Grants {
    open: Vec<(Key, Instant)>,
}

impl Grants {
    /// None yet; all the memory that it will ever need is taken here.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self { open: Vec::with_capacity(limits.max_open) }
    }

    /// Whether one more, or one renewed, stays within `limits` at `now`; if not, the reply that says so.
    pub fn room_for(
        &mut self,
        request: &Request,
        limits: &Limits,
        now: Instant,
    ) -> Result<(), Reply> {
        self.open.retain(|(_, end)| *end > now);
        if self.open.iter().any(|(key, _)| *key == key_of(request)) {
            return Ok(());
        }
        let of_this_source =
            self.open.iter().filter(|((address, ..), _)| *address == request.address).count();
        if of_this_source >= limits.max_open_per_source {
            return Err(Reply::FullForSource);
        }
        if self.open.len() >= limits.max_open { Err(Reply::Full) } else { Ok(()) }
    }

    /// Counts what the firewall has just opened.
    pub fn record(&mut self, request: &Request, now: Instant) {
        let end = now + Duration::from_secs(request.seconds.into());
        match self.open.iter_mut().find(|(key, _)| *key == key_of(request)) {
            Some((_, old_end)) => *old_end = end,
            None => self.open.push((key_of(request), end)),
        }
    }

    /// Counts what was closed before its time no longer.
    pub fn forget(&mut self, request: &Request) {
        self.open.retain(|(key, _)| *key != key_of(request));
    }
}

fn key_of(request: &Request) -> Key {
    (request.address, request.destination, request.protocol, request.port)
}

#[cfg(test)]
mod tests {
    use super::super::Spend;
    use super::*;

    fn limits() -> Limits {
        Limits {
            allow: None,
            max_seconds: 60,
            max_open: 3,
            max_open_per_source: 2,
            ipv4: true,
            ipv6: true,
        }
    }

    fn request(host: u8, port: u16) -> Request {
        Request {
            address: IpAddr::from([192, 0, 2, host]),
            destination: IpAddr::from([198, 51, 100, 1]),
            protocol: Protocol::Tcp,
            port,
            seconds: 10,
            spend: Spend::Any,
        }
    }

    fn open(grants: &mut Grants, request: &Request, now: Instant) -> Result<(), Reply> {
        grants.room_for(request, &limits(), now)?;
        grants.record(request, now);
        Ok(())
    }

    #[test]
    fn full_per_source_and_in_all_and_free_again_when_the_time_is_over() {
        let (mut grants, now) = (Grants::new(&limits()), Instant::now());
        assert_eq!(open(&mut grants, &request(1, 22), now), Ok(()));
        assert_eq!(open(&mut grants, &request(1, 80), now), Ok(()));
        assert_eq!(open(&mut grants, &request(1, 443), now), Err(Reply::FullForSource));
        assert_eq!(open(&mut grants, &request(2, 22), now), Ok(()));
        assert_eq!(open(&mut grants, &request(3, 22), now), Err(Reply::Full));
        assert_eq!(
            open(&mut grants, &request(3, 22), now + Duration::from_millis(9_999)),
            Err(Reply::Full)
        );
        assert_eq!(open(&mut grants, &request(3, 22), now + Duration::from_secs(10)), Ok(()));
    }

    #[test]
    fn renewing_counts_once_and_from_now() {
        let (mut grants, now) = (Grants::new(&limits()), Instant::now());
        for seconds in 0..50 {
            let now = now + Duration::from_secs(seconds);
            assert_eq!(open(&mut grants, &request(1, 22), now), Ok(()));
            assert_eq!(grants.open.len(), 1);
        }
        let late = now + Duration::from_secs(58);
        assert_eq!(open(&mut grants, &request(1, 80), late), Ok(()));
        assert_eq!(open(&mut grants, &request(1, 443), late), Err(Reply::FullForSource));
    }

    #[test]
    fn what_is_closed_makes_room() {
        let (mut grants, now) = (Grants::new(&limits()), Instant::now());
        for (host, port) in [(1, 22), (1, 80), (2, 22)] {
            assert_eq!(open(&mut grants, &request(host, port), now), Ok(()));
        }
        grants.forget(&request(1, 443));
        assert_eq!(open(&mut grants, &request(3, 22), now), Err(Reply::Full), "another was closed");
        let elsewhere = Request { destination: [198, 51, 100, 2].into(), ..request(1, 22) };
        grants.forget(&elsewhere);
        assert_eq!(open(&mut grants, &request(3, 22), now), Err(Reply::Full));
        grants.forget(&request(1, 22));
        assert_eq!(open(&mut grants, &request(3, 22), now), Ok(()));
        assert_eq!(grants.open.len(), 3);
    }
}
