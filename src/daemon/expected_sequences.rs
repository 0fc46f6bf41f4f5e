//! The sequence numbers that the kernel logs: those of every knock that may come. Kept here as the kernel has them, so
//! that a number that two knocks share stays until neither is expected any more.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A number that is logged so often without opening anything is a nuisance, and is logged no more.
const TOO_OFTEN: u8 = 8;
/// How many numbers are watched for that.
const WATCHED: usize = 1024;

/// The numbers of knocks that are expected no more, and of those that are now; each once for each knock that has it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SequenceChange {
    pub(super) gone: Vec<u32>,
    pub(super) more: Vec<u32>,
}

/// The numbers in the kernel's set.
#[derive(Debug, Default)]
pub(super) struct ExpectedSequences {
    numbers: BTreeSet<u32>,
    /// Of those that several knocks have, how many more there are.
    shared: BTreeMap<u32, u32>,
    /// How often a number was logged and opened nothing.
    logged: HashMap<u32, u8>,
}

impl ExpectedSequences {
    /// All at once, at the start: in any order, and some of them twice.
    pub(super) fn new(mut numbers: Vec<u32>) -> Self {
        numbers.sort_unstable();
        let mut shared = BTreeMap::new();
        for again in numbers.windows(2).filter(|two| two.first() == two.last()) {
            again.iter().take(1).for_each(|number| *shared.entry(*number).or_default() += 1);
        }
        // Sorted they become a set in the room that they need.
        Self { numbers: numbers.into_iter().collect(), shared, logged: HashMap::new() }
    }

    /// Each number once, for the kernel.
    pub(super) fn all(&self) -> Vec<u32> {
        self.numbers.iter().copied().collect()
    }

    /// Expects more. Those that were not expected yet, for the kernel.
    pub(super) fn add(&mut self, mut numbers: Vec<u32>) -> Vec<u32> {
        numbers.retain(|number| {
            let is_new = self.numbers.insert(*number);
            if !is_new {
                *self.shared.entry(*number).or_default() += 1;
            }
            is_new
        });
        numbers
    }

    /// Expects these no more. Those that nothing else has, for the kernel.
    pub(super) fn remove(&mut self, mut numbers: Vec<u32>) -> Vec<u32> {
        numbers.retain(|number| {
            let Some(more) = self.shared.get_mut(number) else {
                return self.numbers.remove(number);
            };
            *more -= 1;
            if *more == 0 {
                self.shared.remove(number);
            }
            false
        });
        numbers
    }

    /// A SYN with this number was logged and opened nothing. Whether it is to be logged no more.
    pub(super) fn was_logged(&mut self, number: u32) -> bool {
        if self.logged.len() >= WATCHED && !self.logged.contains_key(&number) {
            self.logged.clear();
        }
        let times = self.logged.entry(number).or_default();
        *times = times.saturating_add(1);
        *times == TOO_OFTEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_two_knocks_share_stays_until_both_are_gone() {
        let mut expected = ExpectedSequences::new(vec![7, 3, 5, 7]);
        assert_eq!(expected.all(), [3, 5, 7]);
        assert_eq!(expected.remove(vec![7]), Vec::<u32>::new());
        assert_eq!(expected.remove(vec![7, 3]), [7, 3]);
        assert_eq!(expected.add(vec![5, 9, 9]), [9]);
        assert_eq!(expected.remove(vec![9, 5]), Vec::<u32>::new());
        assert_eq!(expected.remove(vec![9, 5, 9]), [9, 5]);
        assert!(expected.all().is_empty());
    }

    #[test]
    fn what_is_logged_again_and_again_is_logged_no_more() {
        let mut expected = ExpectedSequences::default();
        let dropped: Vec<_> = (1..=20).filter(|_| expected.was_logged(7)).collect();
        assert_eq!(dropped, [8]);
        for number in 0..100_000 {
            expected.was_logged(number);
        }
        assert!(expected.logged.len() <= WATCHED);
    }
}
