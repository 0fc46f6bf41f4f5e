//! Knocks in any order, some of them again and again, against the counter and what is remembered of those far ahead.

use std::collections::{BTreeSet, VecDeque};

use knockknock::layout::Request;
use knockknock::layout::classic::{KEY_LEN, Keys, SPENT, seal};
use knockknock::layout::receiver::{CONFIRM, Receiver};

use super::input::Input;

const WINDOW: u32 = 4;
const FAR: u32 = 100;

/// The receiver's rules, kept by sets of numbers instead of keys.
struct Model {
    next: u32,
    remembered: VecDeque<u32>,
    opened: BTreeSet<u32>,
}

/// The bytes as the receiver's counter and the counters of knocks, a byte each: how far from the start. Where the
/// highest bit of another byte is set, the counter could not be made durable, and nothing may have changed.
pub(crate) fn holds(bytes: &[u8]) -> bool {
    let mut input = Input(bytes);
    let keys = || Keys::new([3; KEY_LEN], [5; KEY_LEN]);
    let start = if input.u8() < 16 { SPENT - 128 } else { 1000 };
    let mut receiver = Receiver::new(keys(), start, WINDOW, FAR);
    let mut model = Model { next: start, remembered: VecDeque::new(), opened: BTreeSet::new() };
    let steps = (bytes.len() / 2).min(24);
    for _ in 0..steps {
        let counter = (start - 8).saturating_add(u32::from(input.u8())).min(SPENT - 1);
        let durable = input.u8() < 192;
        let Ok(fields) = seal(&keys(), Request(22), counter) else { continue };

        let found = receiver.look(&fields).or_else(|| receiver.look_after_remembered(&fields));
        assert_eq!(found.is_some(), model.opens(counter), "{counter}, {start}");
        if let Some(found) = found {
            assert_eq!(found, (Request(22), counter));
            if durable {
                receiver.accept(counter);
                model.accept(counter);
            }
        } else {
            let ahead = receiver.look_far(&fields);
            assert_eq!(ahead, model.hear_far(counter), "{counter}, {start}");
            let behind = (model.next.saturating_sub(WINDOW)..model.next).contains(&counter);
            assert_eq!(receiver.look_behind(&fields), behind);
        }
        assert_eq!(receiver.next(), model.next);
    }
    model.opened.len() > 1
}

impl Model {
    fn opens(&self, counter: u32) -> bool {
        let confirms = |first: &u32| counter > *first && counter - first <= CONFIRM;
        let in_window = counter >= self.next && counter - self.next < WINDOW;
        !self.remembered.contains(&counter) && (in_window || self.remembered.iter().any(confirms))
    }

    fn accept(&mut self, counter: u32) {
        assert!(counter >= self.next && self.opened.insert(counter), "{counter} opened twice");
        self.next = counter + 1;
        self.remembered.retain(|remembered| *remembered > counter);
    }

    fn hear_far(&mut self, counter: u32) -> Option<u32> {
        let ahead = counter.checked_sub(self.next)?;
        if !(WINDOW..FAR).contains(&ahead) {
            return None;
        }
        if !self.remembered.contains(&counter) {
            self.remembered.push_back(counter);
            if self.remembered.len() > 8 {
                self.remembered.pop_front();
            }
        }
        Some(ahead)
    }
}
