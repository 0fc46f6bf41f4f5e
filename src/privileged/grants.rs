//! How many grants are open, which is limited. Owns the count, not the grants: those are the kernel's, and a grant that
//! a connection has used up still counts here until it is revoked or expires.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use super::message::Reply;
use crate::grant::Grant;

/// The grants that are open, within two limits.
#[derive(Debug)]
pub struct Grants {
    open: Vec<(Grant, Instant)>,
    max: usize,
    max_per_source: usize,
}

impl Grants {
    /// None yet; at most `max` in all, and `max_per_source` for one address, or for one /64 of IPv6.
    #[must_use]
    pub fn new(max: usize, max_per_source: usize) -> Self {
        Self { open: Vec::new(), max, max_per_source }
    }

    /// The same, with all the memory taken that it will ever need.
    #[must_use]
    pub(super) fn with_room(max: usize, max_per_source: usize) -> Self {
        Self { open: Vec::with_capacity(max), ..Self::new(max, max_per_source) }
    }

    /// Whether one more, or one renewed, stays within the limits at `now`; if not, the reply that says so.
    pub fn room_for(&mut self, grant: &Grant, now: Instant) -> Result<(), Reply> {
        self.open.retain(|(_, end)| *end > now);
        if self.open.iter().any(|(open, _)| open.is_for_the_same(grant)) {
            return Ok(());
        }
        let source = source_of(grant.address);
        let of_this_source =
            self.open.iter().filter(|(open, _)| source_of(open.address) == source).count();
        if of_this_source >= self.max_per_source {
            return Err(Reply::FullForSource);
        }
        if self.open.len() >= self.max { Err(Reply::Full) } else { Ok(()) }
    }

    /// Counts what the firewall has just opened.
    pub fn record(&mut self, grant: &Grant, now: Instant) {
        let end = now + Duration::from_secs(grant.seconds.into());
        match self.open.iter_mut().find(|(open, _)| open.is_for_the_same(grant)) {
            Some((_, old_end)) => *old_end = end,
            None => self.open.push((*grant, end)),
        }
    }

    /// Stops counting a grant that was closed before its time.
    pub fn forget(&mut self, grant: &Grant) {
        self.open.retain(|(open, _)| !open.is_for_the_same(grant));
    }
}

/// Whose limit an address counts against. A host with IPv6 has a /64 to itself as a rule (RFC 6177), and can send from
/// each address of it.
fn source_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grant::{Protocol, Spend};

    fn grants() -> Grants {
        Grants::new(3, 2)
    }

    fn request(host: u8, port: u16) -> Grant {
        Grant {
            address: IpAddr::from([192, 0, 2, host]),
            destination: IpAddr::from([198, 51, 100, 1]),
            protocol: Protocol::Tcp,
            port,
            seconds: 10,
            spend: Spend::Any,
        }
    }

    fn open(grants: &mut Grants, request: &Grant, now: Instant) -> Result<(), Reply> {
        grants.room_for(request, now)?;
        grants.record(request, now);
        Ok(())
    }

    #[test]
    fn full_per_source_and_in_all_and_free_again_when_the_time_is_over() {
        let (mut grants, now) = (grants(), Instant::now());
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
        let (mut grants, now) = (grants(), Instant::now());
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
        let (mut grants, now) = (grants(), Instant::now());
        for (host, port) in [(1, 22), (1, 80), (2, 22)] {
            assert_eq!(open(&mut grants, &request(host, port), now), Ok(()));
        }
        grants.forget(&request(1, 443));
        assert_eq!(open(&mut grants, &request(3, 22), now), Err(Reply::Full), "another was closed");
        let elsewhere = Grant { destination: [198, 51, 100, 2].into(), ..request(1, 22) };
        grants.forget(&elsewhere);
        assert_eq!(open(&mut grants, &request(3, 22), now), Err(Reply::Full));
        grants.forget(&request(1, 22));
        assert_eq!(open(&mut grants, &request(3, 22), now), Ok(()));
        assert_eq!(grants.open.len(), 3);
    }

    #[test]
    fn with_room_no_grant_within_the_limits_needs_more_memory() {
        let (mut grants, now) = (Grants::with_room(100, 100), Instant::now());
        let room = grants.open.capacity();
        for port in 1..=100 {
            assert_eq!(open(&mut grants, &request(1, port), now), Ok(()));
        }
        assert_eq!(open(&mut grants, &request(1, 101), now), Err(Reply::FullForSource));
        assert_eq!(grants.open.capacity(), room);
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one_source() {
        let (mut grants, now) = (grants(), Instant::now());
        let from = |address: &str| Grant { address: address.parse().unwrap(), ..request(1, 22) };
        assert_eq!(open(&mut grants, &from("2001:db8:0:7::1"), now), Ok(()));
        assert_eq!(open(&mut grants, &from("2001:db8:0:7:ffff::2"), now), Ok(()));
        assert_eq!(open(&mut grants, &from("2001:db8:0:7::3"), now), Err(Reply::FullForSource));
        assert_eq!(open(&mut grants, &from("2001:db8:0:8::3"), now), Ok(()));
    }
}
