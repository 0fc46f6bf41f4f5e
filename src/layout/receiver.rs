//! Which knocks a profile of the classic layout still accepts: the counter's window, and the way back for a client that
//! has run ahead of it (the idea of RFC 4226, section 7.4).
//!
//! A valid knock within the window opens. One up to [`FAR`] counters ahead opens nothing and is remembered; a second
//! valid one, up to [`CONFIRM`] counters after a remembered one, opens. A knock that was remembered never opens any more,
//! nor does one that was used or passed over.
//!
//! Pure: no file, no clock. Each look is a step of its own, because each has a price and somebody else pays it out.

use std::collections::VecDeque;

use super::Request;
use super::classic::{self, Keys};
use crate::syn::SynFields;

/// How many counters ahead a knock may be to be remembered.
pub const FAR: u32 = 4096;
/// How many counters after a remembered knock the second one may be.
pub const CONFIRM: u32 = 20;
/// How many knocks far ahead are remembered: an old one that somebody sends again must not push the good one out.
const MAX_REMEMBERED: usize = 8;

/// A profile's keys, the next counter that it accepts, and what it has heard from beyond its window.
#[derive(Debug)]
pub struct Receiver {
    keys: Keys,
    next: u32,
    window: u32,
    far: u32,
    /// The counters of the last valid knocks far ahead, the newest last. None is below `next`.
    remembered: VecDeque<u32>,
}

impl Receiver {
    /// Accepts the counter `next` and the `window - 1` after it, and looks up to `far` ahead ([`FAR`], but for tests).
    #[must_use]
    pub fn new(keys: Keys, next: u32, window: u32, far: u32) -> Self {
        Self { keys, next, window, far, remembered: VecDeque::new() }
    }

    /// The first counter that has not been used or passed over.
    #[must_use]
    pub fn next(&self) -> u32 {
        self.next
    }

    /// The request of a knock in the window, and its counter. The caller makes the counter's successor durable and calls
    /// [`Receiver::accept`] before it acts.
    #[must_use]
    pub fn look(&self, fields: &SynFields) -> Option<(Request, u32)> {
        self.open(self.next, self.window, fields)
            .filter(|(_, counter)| !self.remembered.contains(counter))
    }

    /// The same for a knock up to [`CONFIRM`] counters after one that is remembered: the second of two.
    #[must_use]
    pub fn look_after_remembered(&self, fields: &SynFields) -> Option<(Request, u32)> {
        self.remembered
            .iter()
            .find_map(|first| self.open(first.saturating_add(1), CONFIRM, fields))
            .filter(|(_, counter)| !self.remembered.contains(counter))
    }

    /// Whether there is anything for [`Receiver::look_after_remembered`] to find.
    #[must_use]
    pub(crate) fn has_remembered(&self) -> bool {
        !self.remembered.is_empty()
    }

    /// Remembers a valid knock that is beyond the window, and says how many counters it is ahead of the next one.
    pub fn look_far(&mut self, fields: &SynFields) -> Option<u32> {
        let window_end = self.next.saturating_add(self.window);
        let (_, counter) = self.open(window_end, self.far.saturating_sub(self.window), fields)?;
        if !self.remembered.contains(&counter) {
            if self.remembered.len() == MAX_REMEMBERED {
                self.remembered.pop_front();
            }
            self.remembered.push_back(counter);
        }
        Some(counter - self.next)
    }

    /// Makes looks for what is no knock cheap, for 64 KiB ([`Keys::prepare`]). Whether it was not so before.
    pub fn prepare(&mut self) -> bool {
        let is_new = !self.keys.are_prepared();
        if is_new {
            self.keys.prepare();
        }
        is_new
    }

    /// Hands `each` the sequence numbers of the knocks that ask for one of `requests` with one of `count` counters from
    /// `from` on.
    pub(crate) fn sequences(
        &self,
        requests: &[Request],
        from: u32,
        count: u32,
        each: impl FnMut(u32),
    ) {
        classic::sequences(&self.keys, requests, from, count, each);
    }

    /// Whether this is one of the last knocks that were used or passed over.
    #[must_use]
    pub fn look_behind(&self, fields: &SynFields) -> bool {
        let from = self.next.saturating_sub(self.window);
        self.open(from, self.next - from, fields).is_some()
    }

    /// `counter` has been used: neither it nor one before it opens from here on.
    pub fn accept(&mut self, counter: u32) {
        self.next = self.next.max(counter.saturating_add(1));
        self.remembered.retain(|remembered| *remembered >= self.next);
    }

    fn open(&self, from: u32, count: u32, fields: &SynFields) -> Option<(Request, u32)> {
        classic::open(&self.keys, from, count, fields).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::classic::{KEY_LEN, SPENT, seal};

    fn keys() -> Keys {
        Keys::new([7; KEY_LEN], [9; KEY_LEN])
    }

    fn knock(counter: u32) -> SynFields {
        seal(&keys(), Request(22), counter).unwrap()
    }

    fn receiver() -> Receiver {
        Receiver::new(keys(), 100, 20, FAR)
    }

    fn opens(receiver: &Receiver, counter: u32) -> bool {
        let fields = knock(counter);
        let found = receiver.look(&fields).or_else(|| receiver.look_after_remembered(&fields));
        found.inspect(|found| assert_eq!(*found, (Request(22), counter))).is_some()
    }

    #[test]
    fn two_knocks_far_ahead_and_in_order_open_and_move_the_counter() {
        let mut receiver = receiver();
        for first in [120, 600, 100 + FAR - 1] {
            assert!(!opens(&receiver, first), "{first}");
        }
        assert!(!receiver.has_remembered());
        assert_eq!(receiver.look_far(&knock(600)), Some(500));
        assert!(receiver.has_remembered());
        assert!(!opens(&receiver, 600) && !opens(&receiver, 599) && !opens(&receiver, 621));
        assert!(opens(&receiver, 601) && opens(&receiver, 620));
        receiver.accept(601);
        assert_eq!(receiver.next(), 602);
        assert!(!opens(&receiver, 601) && opens(&receiver, 602));
        assert!(!receiver.has_remembered());
    }

    #[test]
    fn beyond_the_far_look_nothing_is_believed() {
        let mut receiver = receiver();
        assert_eq!(receiver.look_far(&knock(100 + FAR)), None);
        assert_eq!(receiver.look_far(&knock(100 + FAR - 1)), Some(FAR - 1));
        assert_eq!(receiver.look_far(&knock(119)), None, "that is the window's");
        assert_eq!(receiver.look_far(&knock(120)), Some(20));
    }

    #[test]
    fn the_same_knock_again_or_the_two_in_the_wrong_order_open_nothing() {
        let mut receiver = receiver();
        receiver.look_far(&knock(600));
        receiver.look_far(&knock(600));
        assert!(!opens(&receiver, 600));
        receiver.look_far(&knock(590));
        assert!(!opens(&receiver, 590) && !opens(&receiver, 600));
    }

    #[test]
    fn a_knock_that_was_remembered_is_burnt_when_the_window_reaches_it() {
        let mut receiver = receiver();
        receiver.look_far(&knock(125));
        receiver.accept(110);
        assert!(!opens(&receiver, 125), "whoever has sniffed it could send it now");
        assert!(opens(&receiver, 124) && opens(&receiver, 126));
    }

    #[test]
    fn an_old_knock_sent_again_does_not_push_the_good_one_out() {
        let mut receiver = receiver();
        receiver.look_far(&knock(600));
        for _ in 0..=MAX_REMEMBERED {
            receiver.look_far(&knock(3000));
        }
        assert!(opens(&receiver, 601));
        for other in 0..u32::try_from(MAX_REMEMBERED).unwrap() {
            receiver.look_far(&knock(2000 + 100 * other));
        }
        assert!(!opens(&receiver, 601), "the last eight are remembered");
    }

    #[test]
    fn the_look_behind_goes_back_as_far_as_the_window_is_wide() {
        let behind = |counter| receiver().look_behind(&knock(counter));
        assert!(behind(80) && behind(90) && behind(99));
        assert!(!behind(79), "too old to be told from what is no knock");
        assert!(!behind(100) && !behind(110), "these still open");
    }

    #[test]
    fn keys_are_prepared_once() {
        let mut receiver = receiver();
        assert!(receiver.prepare());
        assert!(receiver.keys.are_prepared());
        assert!(!receiver.prepare());
    }

    #[test]
    fn the_sequence_numbers_are_those_of_its_own_keys() {
        let mut listed = Vec::new();
        receiver().sequences(&[Request(22)], 300, 20, |seq| listed.push(seq));
        assert_eq!(listed, (300..320).map(|counter| knock(counter).seq).collect::<Vec<_>>());
    }

    #[test]
    fn the_last_counters_do_not_overflow() {
        let mut receiver = Receiver::new(keys(), SPENT - 30, 20, FAR);
        assert_eq!(receiver.look_far(&knock(SPENT - 2)), Some(28));
        assert!(opens(&receiver, SPENT - 1));
        receiver.accept(SPENT - 1);
        assert_eq!(receiver.next(), SPENT);
        assert!(receiver.look_far(&knock(SPENT - 1)).is_none());
        assert!(receiver.look_behind(&knock(SPENT - 1)));
    }
}
