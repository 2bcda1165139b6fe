//! Which blocks of the disk are in use. Blocks are taken in runs, one run after the other, so that what goes together lies
//! together.

use alloc::vec::Vec;

const BITS: u64 = u64::BITS as u64;

/// A bit for each block.
#[derive(Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(count: u64) -> Option<Self> {
        let words = count.div_ceil(BITS) as usize;
        let mut bits = Vec::new();
        bits.try_reserve_exact(words).ok()?;
        bits.resize(words, 0);
        Some(Self(bits))
    }

    fn has(&self, block: u64) -> bool {
        self.0.get((block / BITS) as usize).is_some_and(|word| word >> (block % BITS) & 1 != 0)
    }

    fn set(&mut self, block: u64) {
        self.0[(block / BITS) as usize] |= 1 << (block % BITS);
    }

    fn clear(&mut self, block: u64) {
        self.0[(block / BITS) as usize] &= !(1 << (block % BITS));
    }
}

/// Blocks of the disk.
#[derive(Default)]
pub(crate) struct Blocks {
    used: Bits,
    written: Bits,
    count: u64,
    free: u64,
    /// Where the search for free ones goes on.
    next: u64,
}

/// Blocks in a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    pub(crate) first: u64,
    pub(crate) len: u64,
}

impl Blocks {
    /// So many, all free. `None`: there is no memory for the map.
    pub(crate) fn new(count: u64) -> Option<Self> {
        Some(Self { used: Bits::new(count)?, written: Bits::new(count)?, count, free: count, next: 0 })
    }

    /// How many are free.
    pub(crate) const fn free_count(&self) -> u64 {
        self.free
    }

    /// Whether there is such a block, and a page on it.
    pub(crate) fn is_written(&self, block: u64) -> bool {
        self.written.has(block)
    }

    /// There is a page on the block, which is in use.
    pub(crate) fn set_written(&mut self, block: u64) {
        self.written.set(block);
    }

    /// Up to `most` free blocks in a row, in use from now on.
    pub(crate) fn take(&mut self, most: u64) -> Option<Run> {
        let first = self.first_free(self.next..self.count).or_else(|| self.first_free(0..self.next))?;
        let end = (first + most).min(self.count);
        let end = (first..end).find(|&block| self.used.has(block)).unwrap_or(end);
        (first..end).for_each(|block| self.used.set(block));
        self.free -= end - first;
        self.next = end % self.count;
        Some(Run { first, len: end - first })
    }

    fn first_free(&self, range: core::ops::Range<u64>) -> Option<u64> {
        let mut block = range.start;
        while block < range.end {
            let free = !self.used.0[(block / BITS) as usize] >> (block % BITS);
            if free != 0 {
                return Some(block + u64::from(free.trailing_zeros())).filter(|&found| found < range.end);
            }
            block = (block / BITS + 1) * BITS;
        }
        None
    }

    /// The block is not needed any more.
    pub(crate) fn free(&mut self, block: u64) {
        debug_assert!(self.used.has(block), "block {block} is freed twice");
        self.used.clear(block);
        self.written.clear(block);
        self.free += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::{Blocks, Run};

    #[test]
    fn runs_follow_one_another_and_wrap() {
        let mut blocks = Blocks::new(70).expect("memory");
        assert_eq!(blocks.take(16), Some(Run { first: 0, len: 16 }));
        assert_eq!(blocks.take(50), Some(Run { first: 16, len: 50 }));
        blocks.free(3);
        blocks.free(5);
        assert_eq!(blocks.take(16), Some(Run { first: 66, len: 4 }));
        assert_eq!(blocks.take(16), Some(Run { first: 3, len: 1 }));
        assert_eq!(blocks.take(16), Some(Run { first: 5, len: 1 }));
        assert_eq!((blocks.take(1), blocks.free_count()), (None, 0));
    }

    #[test]
    fn none_at_all() {
        let mut blocks = Blocks::default();
        assert_eq!((blocks.take(1), blocks.is_written(0)), (None, false));
    }
}
