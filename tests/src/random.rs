//! What threads do next.

/// Numbers that look random and are the same each time. The seed is not 0.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// One that is less than `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}
