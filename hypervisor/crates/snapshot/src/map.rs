//! Which pages of memory are stored: a bit for each page, and how many there are before each block of bits.

use alloc::vec::Vec;

/// Bits between two counts.
const BLOCK: u64 = 512;

/// The page map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageMap {
    bits: Vec<u64>,
    /// Stored pages before each block.
    before: Vec<u64>,
}

impl PageMap {
    /// Of memory of so many pages, none of which is stored.
    pub(crate) fn empty(pages: u64) -> Self {
        Self { bits: alloc::vec![0; pages.div_ceil(64) as usize], before: Vec::new() }
    }

    /// As a section holds it; `None` where that does not fit so many pages, or has another count of stored ones.
    pub(crate) fn decode(bytes: &[u8], pages: u64, stored: u64) -> Option<Self> {
        let words = bytes.chunks_exact(8);
        if !words.remainder().is_empty() || words.len() as u64 != pages.div_ceil(64) {
            return None;
        }
        let bits: Vec<u64> =
            words.map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default())).collect();
        let mut before = Vec::new();
        let mut count = 0;
        for block in bits.chunks((BLOCK / 64) as usize) {
            before.push(count);
            count += block.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
        }
        let behind = bits.last().copied().unwrap_or(0).checked_shr((pages % 64) as u32).unwrap_or(0);
        let good = count == stored && (pages.is_multiple_of(64) || behind == 0);
        good.then_some(Self { bits, before })
    }

    /// As a section holds it.
    pub(crate) fn encode(&self) -> Vec<u8> {
        self.bits.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    pub(crate) fn set(&mut self, page: u64) {
        self.bits[(page / 64) as usize] |= 1 << (page % 64);
    }

    /// The number of a page among those that are stored; `None`: it holds zeros, or there is none.
    #[must_use]
    pub fn number_of(&self, page: u64) -> Option<u64> {
        let word = *self.bits.get((page / 64) as usize)?;
        if word >> (page % 64) & 1 == 0 {
            return None;
        }
        let block = page / BLOCK;
        let words = &self.bits[(block * (BLOCK / 64)) as usize..(page / 64) as usize];
        let in_words: u64 = words.iter().map(|word| u64::from(word.count_ones())).sum();
        let in_word = (word & ((1 << (page % 64)) - 1)).count_ones();
        Some(self.before[block as usize] + in_words + u64::from(in_word))
    }
}
