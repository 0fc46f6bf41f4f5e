//! The two groups of attempts that the warden compares.

use super::attempt::Attempt;

/// Knocks and real attempts of one host to one other, each in the order of their time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sides<'a> {
    pub(crate) knocks: Vec<&'a Attempt>,
    pub(crate) real: Vec<&'a Attempt>,
}

/// Which of them an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Knock,
    Real,
    /// Neither: something else that the host did.
    Other,
}

impl<'a> Sides<'a> {
    /// Sorts attempts.
    pub(crate) fn of(attempts: &'a [Attempt], side: impl Fn(&Attempt) -> Side) -> Self {
        let mut sides = Self::default();
        for attempt in attempts {
            match side(attempt) {
                Side::Knock => sides.knocks.push(attempt),
                Side::Real => sides.real.push(attempt),
                Side::Other => {}
            }
        }
        sides
    }

    /// Without those whose 4-tuple an earlier attempt had.
    pub(crate) fn first_uses(mut self) -> Self {
        for side in [&mut self.knocks, &mut self.real] {
            side.retain(|attempt| attempt.again.is_none());
        }
        self
    }
}
