//! The order in which the packets of one connection are sent: which is a new knock, which is one sent again.
//!
//! In the classic layout a packet that was lost can be sent again: a server takes each counter once, so a second copy
//! costs nothing. A knock of its own costs a counter, and a server looks only so far ahead. So each knock is sent twice
//! before, with one family alone, a second counter is spent. Two families have a counter each: the server may have taken
//! the first one for an address that the connection does not come from.
//!
//! In the stealth layout there are counters enough, and no kernel sends one SYN twice byte for byte: each is a knock of
//! its own.

use std::collections::VecDeque;

use crate::client::knock::error::KnockError;
use crate::client::knock::route::Route;
use crate::layout::keys::Layout;

/// Routes that are tried where no knock leaves this machine: each has spent a counter.
const MAX_UNSENT: usize = 3;

/// What is to leave now. `S` is what a knock that was sent leaves behind, enough to send it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next<S> {
    /// A knock of its own, with a counter of its own.
    New(Route),
    /// One that has left before, byte for byte.
    Again(S),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SendStep {
    New(Route),
    /// The first, or the second, of the knocks that were sent.
    Again(usize),
}

/// The packets that were sent, and those that are still to be sent.
#[derive(Debug)]
pub(super) struct SendOrder<S> {
    routes: Vec<Route>,
    layout: Layout,
    steps: VecDeque<SendStep>,
    sent: Vec<(Route, S)>,
    packets: u32,
    /// Knocks that left, and those that could not at the last moment: a counter each.
    counters: u32,
    unsent: usize,
}

impl<S: Clone> SendOrder<S> {
    /// `routes`: the routes to the host, best first. `layout`: of the knocks.
    pub(super) fn new(routes: &[Route], layout: Layout) -> Self {
        let routes = alternate_families(routes);
        let steps = steps(&routes, layout);
        Self { routes, layout, steps, sent: Vec::new(), packets: 0, counters: 0, unsent: 0 }
    }

    /// Whether all packets were sent.
    pub(super) fn is_done(&self) -> bool {
        self.steps.is_empty()
    }

    pub(super) fn next(&self) -> Option<Next<S>> {
        match self.steps.front()? {
            SendStep::New(route) => Some(Next::New(*route)),
            SendStep::Again(nth) => self.sent.get(*nth).map(|(_, sent)| Next::Again(sent.clone())),
        }
    }

    /// The next packet was sent. Returns its route.
    pub(super) fn sent(&mut self, sent: S) -> Option<Route> {
        let route = match self.steps.pop_front()? {
            SendStep::New(route) => {
                self.sent.push((route, sent));
                self.counters += 1;
                route
            }
            SendStep::Again(nth) => self.sent.get(nth)?.0,
        };
        self.packets += 1;
        Some(route)
    }

    /// The next packet could not be sent: continues without that route. Fails if no packet was sent and no route
    /// remains.
    pub(super) fn not_sent(&mut self, why: KnockError) -> Result<(), KnockError> {
        let Some(SendStep::New(lost)) = self.steps.pop_front() else { return Ok(()) };
        self.unsent += 1;
        self.counters += u32::from(why.has_spent());
        self.routes.retain(|route| *route != lost);
        if self.sent.is_empty() && (self.routes.is_empty() || self.unsent == MAX_UNSENT) {
            return Err(why);
        }
        self.steps = steps(&self.routes, self.layout);
        for _ in 0..self.packets {
            self.steps.pop_front();
        }
        Ok(())
    }

    /// Packets that have left.
    pub(super) fn packets(&self) -> u32 {
        self.packets
    }

    /// Counters that were spent.
    pub(super) fn counters(&self) -> u32 {
        self.counters
    }
}

fn steps(routes: &[Route], layout: Layout) -> VecDeque<SendStep> {
    use SendStep::{Again, New};
    let again = |nth, route| match layout {
        Layout::Classic => Again(nth),
        Layout::Stealth => New(route),
    };
    let steps = match *routes {
        [] => vec![],
        [first] => vec![New(first), again(0, first), New(first)],
        [first, second, ..] if first.target.is_ipv4() == second.target.is_ipv4() => {
            vec![New(first), again(0, first), New(second)]
        }
        [first, second, ..] => {
            vec![New(first), New(second), again(0, first), again(1, second)]
        }
    };
    steps.into()
}

/// The routes with the families taking turns, starting with the first's.
fn alternate_families(routes: &[Route]) -> Vec<Route> {
    let Some(first) = routes.first() else { return Vec::new() };
    let (mut same, mut other): (Vec<Route>, Vec<Route>) =
        routes.iter().partition(|route| route.target.is_ipv4() == first.target.is_ipv4());
    same.reverse();
    other.reverse();
    let mut ordered = Vec::with_capacity(routes.len());
    while !same.is_empty() || !other.is_empty() {
        ordered.extend(same.pop());
        ordered.extend(other.pop());
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::knock::kernel_syn::KernelSynError;
    use crate::client::knock::source_port::SourcePortError;
    use nix::errno::Errno;
    use std::net::SocketAddr;

    fn route(text: &str) -> Route {
        let target: SocketAddr = text.parse().unwrap();
        Route { source: target.ip(), target }
    }

    fn not_sent() -> KnockError {
        KnockError::NotSent { counter: 0, address: [0, 0, 0, 0].into(), why: Errno::EPERM }
    }

    /// Counter and address of all that would leave; what goes along one of `shut` does not.
    fn all(
        routes: &[Route],
        shut: &[Route],
        layout: Layout,
    ) -> (Vec<(u32, String)>, SendOrder<u32>) {
        let mut order = SendOrder::new(routes, layout);
        let (mut counter, mut left) = (0, Vec::new());
        while let Some(next) = order.next() {
            let sent = match next {
                Next::New(route) => {
                    counter += 1;
                    (!shut.contains(&route)).then_some(counter - 1)
                }
                Next::Again(sent) => Some(sent),
            };
            match sent {
                Some(sent) => {
                    let route = order.sent(sent).unwrap();
                    left.push((sent, route.target.ip().to_string()));
                }
                None if order.not_sent(not_sent()).is_err() => break,
                None => {}
            }
        }
        assert_eq!(order.counters(), counter);
        assert_eq!(order.packets(), u32::try_from(left.len()).unwrap());
        (left, order)
    }

    fn left(routes: &[&str], shut: &[&str]) -> Vec<(u32, String)> {
        let routes_of = |texts: &[&str]| texts.iter().map(|text| route(text)).collect::<Vec<_>>();
        all(&routes_of(routes), &routes_of(shut), Layout::Classic).0
    }

    fn expect(left: &[(u32, String)], expected: &[(u32, &str)]) {
        let left: Vec<(u32, &str)> = left.iter().map(|(sent, ip)| (*sent, ip.as_str())).collect();
        assert_eq!(left, expected);
    }

    #[test]
    fn one_family_sends_its_knock_again_before_it_spends_a_second_counter() {
        expect(&left(&["[::1]:1"], &[]), &[(0, "::1"), (0, "::1"), (1, "::1")]);
        let two = ["1.1.1.1:1", "1.1.1.2:1", "1.1.1.3:1"];
        expect(&left(&two, &[]), &[(0, "1.1.1.1"), (0, "1.1.1.1"), (1, "1.1.1.2")]);
    }

    #[test]
    fn two_families_have_a_counter_each_and_take_turns() {
        let routes = ["[::1]:1", "[::2]:1", "1.1.1.1:1"];
        expect(&left(&routes, &[]), &[(0, "::1"), (1, "1.1.1.1"), (0, "::1"), (1, "1.1.1.1")]);
    }

    #[test]
    fn a_family_that_a_knock_cannot_leave_by_is_given_up() {
        let routes = ["[::1]:1", "1.1.1.1:1"];
        let v4 = |counter| (counter, "1.1.1.1");
        expect(&left(&routes, &["[::1]:1"]), &[v4(1), v4(1), v4(2)]);
        expect(&left(&routes, &["1.1.1.1:1"]), &[(0, "::1"), (0, "::1"), (2, "::1")]);
    }

    #[test]
    fn where_no_knock_can_leave_a_few_routes_are_tried_once_each() {
        let routes = ["1.1.1.1:1", "1.1.1.2:1", "1.1.1.3:1", "1.1.1.4:1"].map(route);
        for (count, tried) in [(1, 1), (2, 2), (4, 3)] {
            let (left, order) = all(&routes[..count], &routes, Layout::Classic);
            assert_eq!((left.len(), order.counters()), (0, tried));
        }
    }

    #[test]
    fn where_no_packet_leaves_twice_each_is_a_knock_of_its_own() {
        let counters = |routes: &[Route]| {
            let (left, order) = all(routes, &[], Layout::Stealth);
            assert_eq!(order.counters(), order.packets());
            left.into_iter().map(|(_, address)| address).collect::<Vec<_>>()
        };
        let [six, four, other] = ["[::1]:1", "1.1.1.1:1", "1.1.1.2:1"].map(route);
        assert_eq!(counters(&[six]), ["::1"; 3]);
        assert_eq!(counters(&[four, other]), ["1.1.1.1", "1.1.1.1", "1.1.1.2"]);
        assert_eq!(counters(&[six, four]), ["::1", "1.1.1.1", "::1", "1.1.1.1"]);
    }

    #[test]
    fn a_knock_that_was_never_made_costs_no_counter() {
        let routes = ["[::1]:1", "1.1.1.1:1"].map(route);
        let mut order = SendOrder::<u32>::new(&routes, Layout::Stealth);
        let why = SourcePortError::from(Errno::EADDRNOTAVAIL);
        order.not_sent(KernelSynError::SourcePort(routes[0].target, why).into()).unwrap();
        assert_eq!((order.counters(), order.next()), (0, Some(Next::New(routes[1]))));
        assert!(order.not_sent(not_sent()).is_err());
        assert_eq!(order.counters(), 1);
    }

    #[test]
    fn families_alternate() {
        let [a, b, c, d] = ["[::1]:1", "[::2]:1", "1.1.1.1:1", "1.1.1.2:1"].map(route);
        assert_eq!(alternate_families(&[a, b, c, d]), [a, c, b, d]);
        assert_eq!(alternate_families(&[c, a, b]), [c, a, b]);
        assert_eq!(alternate_families(&[a, b]), [a, b]);
    }
}
