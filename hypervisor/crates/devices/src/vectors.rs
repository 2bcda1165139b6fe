//! A set of interrupt vectors: ISR, TMR or IRR, eight words of 32 bits (SDM vol. 3A 11.8.4). Before each
//! VM entry somebody asks for the greatest, and nearly always the set is empty: that has to be cheap.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Vectors {
    words: [u32; 8],
    /// A bit for each word that is not 0.
    used: u8,
}

impl Vectors {
    pub(crate) const NONE: Self = Self { words: [0; 8], used: 0 };

    pub(crate) const fn has(&self, vector: u8) -> bool {
        self.words[(vector >> 5) as usize] >> (vector & 31) & 1 != 0
    }

    pub(crate) fn set(&mut self, vector: u8) {
        let word = vector >> 5;
        self.words[usize::from(word)] |= 1 << (vector & 31);
        self.used |= 1 << word;
    }

    pub(crate) fn clear(&mut self, vector: u8) {
        let word = vector >> 5;
        let bits = &mut self.words[usize::from(word)];
        *bits &= !(1 << (vector & 31));
        if *bits == 0 {
            self.used &= !(1 << word);
        }
    }

    /// The vector of highest priority, which is the greatest.
    pub(crate) fn highest(&self) -> Option<u8> {
        let word = self.used.checked_ilog2()?;
        // `used` says that the word is not 0.
        let bit = self.words[word as usize].checked_ilog2()?;
        Some((word * 32 + bit) as u8)
    }

    /// Vectors `32 * index` and on; only the low bits of `index` count.
    pub(crate) const fn word(&self, index: u8) -> u32 {
        self.words[(index & 7) as usize]
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
