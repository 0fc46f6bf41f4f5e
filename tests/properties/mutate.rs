//! Inputs made from other inputs, the same in every run.

/// The longest input that is made, in bytes.
const MAX_LEN: usize = 2048;

/// Makes inputs from a pool of them.
pub(crate) struct Mutator<'p> {
    pool: &'p [Vec<u8>],
    state: u64,
    made: Vec<u8>,
}

impl<'p> Mutator<'p> {
    pub(crate) fn new(pool: &'p [Vec<u8>]) -> Self {
        Self { pool, state: 0x2545_f491_4f6c_dd1d, made: Vec::new() }
    }

    /// The next input: one of the pool, changed in one to three places.
    pub(crate) fn next(&mut self) -> &[u8] {
        let first = self.below(self.pool.len());
        self.made.clone_from(&self.pool[first]);
        for _ in 0..=self.below(3) {
            self.change();
        }
        self.made.truncate(MAX_LEN);
        &self.made
    }

    fn change(&mut self) {
        let at = self.below(self.made.len() + 1);
        let some = 1 + self.below(8);
        let end = (at + some).min(self.made.len());
        match self.below(12) {
            0 => self.set(at, |byte, random| byte ^ 1 << (random % 8)),
            1 => self.set(at, |_, random| random),
            2 => self.set(at, |byte, _| byte.wrapping_add(1)),
            3 => self.set(at, |_, random| b"0179 \n\0-=;[]/\"\xff\x7f"[usize::from(random % 16)]),
            4 => drop(self.made.drain(at..end)),
            5 => self.made.truncate(at),
            // Another number; more often than what seldom leaves a line a line.
            6..=8 => {
                let is_digit = |byte: &u8| byte.is_ascii_digit();
                if let Some(digit) = self.made[at..].iter().position(is_digit) {
                    self.set(at + digit, |_, random| b'0' + random % 10);
                }
            }
            // A part of it twice, a part of another put in, a part of another in place of what stood here.
            9 => {
                let part = self.made[at..end].to_vec();
                drop(self.made.splice(at..at, part));
            }
            10 => {
                let part = self.part_of_another();
                drop(self.made.splice(at..at, part));
            }
            _ => {
                let part = self.part_of_another();
                let end = (at + part.len()).min(self.made.len());
                drop(self.made.splice(at..end, part));
            }
        }
    }

    fn set(&mut self, at: usize, value: impl Fn(u8, u8) -> u8) {
        let random = self.random().to_be_bytes()[0];
        if let Some(byte) = self.made.get_mut(at) {
            *byte = value(*byte, random);
        }
    }

    fn part_of_another(&mut self) -> Vec<u8> {
        let another = self.below(self.pool.len());
        let another = &self.pool[another];
        let start = self.below(another.len() + 1);
        let length = self.below(40).min(another.len() - start);
        another[start..start + length].to_vec()
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.random() >> 16).unwrap() % limit
    }

    /// xorshift64
    fn random(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }
}
