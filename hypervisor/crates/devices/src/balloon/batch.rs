//! Pages that are given back together: sorted and joined, so that memory management has few operations, and no page twice.

use crate::virtio::Memory;
use addr::{Gpa, GpaRange, PAGE_SHIFT};

/// Ranges that are kept before they are discarded: as many as a chain of reports has, at most.
const LARGEST: usize = 128;

/// Ranges of pages, first and end, to be discarded.
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
        // Drivers go through their pages in order, up or down: most of them join at once.
        if let Some(last) = self.waiting[..self.count].last_mut() {
            if first == last.1 {
                last.1 = end;
                return;
            }
            if end == last.0 {
                last.0 = first;
                return;
            }
        }
        if self.count == LARGEST {
            self.flush();
        }
        self.waiting[self.count] = (first, end);
        self.count += 1;
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
        let count = core::mem::take(&mut self.count);
        let mut waiting = self.waiting;
        let waiting = &mut waiting[..count];
        waiting.sort_unstable();
        let mut joined: Option<(u64, u64)> = None;
        for &(first, end) in &*waiting {
            match &mut joined {
                Some(range) if first <= range.1 => range.1 = range.1.max(end),
                _ => {
                    self.discard(joined);
                    joined = Some((first, end));
                }
            }
        }
        self.discard(joined);
    }

    /// What is no RAM is not the guest's to give, and stays.
    fn discard(&mut self, range: Option<(u64, u64)>) {
        let Some((first, end)) = range else { return };
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
