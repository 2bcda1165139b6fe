//! A bit for each page of memory: which are stored, or have changed. And how many there are before each block of bits.

use crate::OpenError;
use crate::error::room_for;
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
    /// What its section is called.
    pub(crate) const NAME: &str = "page map";

    /// Of memory of so many pages, none of which is in it.
    #[must_use]
    pub fn empty(pages: u64) -> Self {
        Self { bits: alloc::vec![0; pages.div_ceil(64) as usize], before: Vec::new() }
    }

    /// As a section holds it.
    ///
    /// # Errors
    /// That does not fit so many pages, or there is no memory for it.
    pub(crate) fn decode<E>(bytes: &[u8], pages: u64) -> Result<Self, OpenError<E>> {
        let words = bytes.chunks_exact(8);
        if !words.remainder().is_empty() || words.len() as u64 != pages.div_ceil(64) {
            return Err(OpenError::Contents(Self::NAME));
        }
        let mut bits: Vec<u64> = room_for(words.len(), Self::NAME)?;
        bits.extend(words.map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default())));
        let mut before = room_for(bits.len().div_ceil((BLOCK / 64) as usize), Self::NAME)?;
        let mut count = 0;
        for block in bits.chunks((BLOCK / 64) as usize) {
            before.push(count);
            count += block.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
        }
        let behind = bits.last().copied().unwrap_or(0).checked_shr((pages % 64) as u32).unwrap_or(0);
        if pages.is_multiple_of(64) || behind == 0 {
            Ok(Self { bits, before })
        } else {
            Err(OpenError::Contents(Self::NAME))
        }
    }

    /// As a section holds it.
    pub(crate) fn encode(&self) -> Vec<u8> {
        self.bits.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Adds a page.
    ///
    /// # Panics
    /// There is no such page.
    pub fn set(&mut self, page: u64) {
        self.bits[(page / 64) as usize] |= 1 << (page % 64);
    }

    /// How many are in it.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.bits.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// The first from `page` on.
    #[must_use]
    pub fn next(&self, page: u64) -> Option<u64> {
        first_of(page, |index| self.word(index))
    }

    /// The bits of 64 pages; `None`: behind all.
    pub(crate) fn word(&self, index: usize) -> Option<u64> {
        self.bits.get(index).copied()
    }

    pub(crate) fn contains(&self, page: u64) -> bool {
        self.word((page / 64) as usize).is_some_and(|word| word >> (page % 64) & 1 != 0)
    }

    /// Whether all that is in this one is in the other, too.
    pub(crate) fn is_within(&self, other: &Self) -> bool {
        self.bits.iter().zip(&other.bits).all(|(word, other)| word & !other == 0)
    }

    /// The number of a page among those that are in it; `None`: it is not.
    pub(crate) fn number_of(&self, page: u64) -> Option<u64> {
        let word = self.word((page / 64) as usize).filter(|_| self.contains(page))?;
        let block = page / BLOCK;
        let words = &self.bits[(block * (BLOCK / 64)) as usize..(page / 64) as usize];
        let in_words: u64 = words.iter().map(|word| u64::from(word.count_ones())).sum();
        let in_word = (word & ((1 << (page % 64)) - 1)).count_ones();
        Some(self.before[block as usize] + in_words + u64::from(in_word))
    }
}

/// The first page from `page` on whose bit is set, in words of 64; those behind the last are `None`.
pub(crate) fn first_of(page: u64, word: impl Fn(usize) -> Option<u64>) -> Option<u64> {
    let first = (page / 64) as usize;
    let mut wanted = u64::MAX << (page % 64);
    for index in first.. {
        let found = word(index)? & wanted;
        if found != 0 {
            return Some(index as u64 * 64 + u64::from(found.trailing_zeros()));
        }
        wanted = u64::MAX;
    }
    None
}
