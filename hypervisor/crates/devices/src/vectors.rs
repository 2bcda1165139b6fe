//! A set of interrupt vectors: ISR, TMR or IRR, eight words of 32 bits (SDM vol. 3A 11.8.4).

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vectors([u32; 8]);

impl Vectors {
    pub(crate) const NONE: Self = Self([0; 8]);

    pub(crate) const fn has(&self, vector: u8) -> bool {
        self.0[(vector >> 5) as usize] >> (vector & 31) & 1 != 0
    }

    pub(crate) fn set(&mut self, vector: u8) {
        self.0[usize::from(vector >> 5)] |= 1 << (vector & 31);
    }

    pub(crate) fn clear(&mut self, vector: u8) {
        self.0[usize::from(vector >> 5)] &= !(1 << (vector & 31));
    }

    /// The vector of highest priority, which is the greatest.
    pub(crate) fn highest(&self) -> Option<u8> {
        let word = self.0.iter().rposition(|word| *word != 0)?;
        Some((word as u32 * 32 + self.0[word].ilog2()) as u8)
    }

    /// Vectors `32 * index` and on; only the low bits of `index` count.
    pub(crate) const fn word(&self, index: u8) -> u32 {
        self.0[(index & 7) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::Vectors;

    #[test]
    fn the_greatest_wins() {
        let mut vectors = Vectors::NONE;
        assert_eq!(vectors.highest(), None);
        for vector in [0, 31, 32, 200, 255] {
            vectors.set(vector);
            assert_eq!(vectors.highest(), Some(vector));
        }
        vectors.clear(255);
        assert!(vectors.highest() == Some(200) && vectors.has(32) && !vectors.has(255));
        assert_eq!(vectors.word(1), 1);
    }
}
