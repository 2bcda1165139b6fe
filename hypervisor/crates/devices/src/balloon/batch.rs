//! Pages that are given back together: sorted and joined, so that memory management has few operations, and no page twice.

use crate::virtio::Memory;
use addr::{Gpa, GpaRange, PAGE_SHIFT};

/// Ranges that are kept before they are discarded: as many as a chain of reports has, at most.
const LARGEST: usize = 128;

/// Ranges of pages, first and end, to be discarded: in order, and no two of them touch.
pub(super) struct Batch<'a, M> {
    memory: &'a M,
    waiting: [(u64, u64); LARGEST],
    count: usize,
    pages: u64,
    ranges: u64,
}

impl<'a, M: Memory> Batch<'a, M> {
    pub(super) const fn new(memory: &'a M) -> Self {
        Self { memory, waiting: [(0, 0); LARGEST], count: 0, pages: 0, ranges: 0 }
    }

    /// Adds pages; nothing where there are none.
    pub(super) fn add(&mut self, first: u64, pages: u64) {
        let Some(end) = first.checked_add(pages).filter(|_| pages != 0) else { return };
        let mut joined = (first, end);
        let waiting = &self.waiting[..self.count];
        let before = waiting.partition_point(|range| range.1 < first);
        let touched = waiting[before..].partition_point(|range| range.0 <= end);
        for range in &waiting[before..before + touched] {
            joined = (joined.0.min(range.0), joined.1.max(range.1));
        }
        if touched == 0 && self.count == LARGEST {
            self.flush();
            return self.add(first, pages);
        }
        self.waiting.copy_within(before + touched..self.count, before + 1);
        self.waiting[before] = joined;
        self.count = self.count + 1 - touched;
    }

    /// Discards what waits; how many pages were discarded in all.
    pub(super) fn finish(&mut self) -> u64 {
        self.flush();
        self.pages
    }

    /// How many ranges that took.
    pub(super) const fn ranges(&self) -> u64 {
        self.ranges
    }

    fn flush(&mut self) {
        for index in 0..core::mem::take(&mut self.count) {
            self.discard(self.waiting[index]);
        }
    }

    /// What is no RAM is not the guest's to give, and stays.
    fn discard(&mut self, (first, end): (u64, u64)) {
        let pages = end - first;
        let start = first.checked_mul(1 << PAGE_SHIFT).and_then(Gpa::try_new);
        let bytes = pages.checked_mul(1 << PAGE_SHIFT);
        let range = start.zip(bytes).and_then(|(start, bytes)| GpaRange::sized(start, bytes));
        if range.is_some_and(|range| self.memory.discard(range)) {
            self.pages += pages;
            self.ranges += 1;
        }
    }
}
