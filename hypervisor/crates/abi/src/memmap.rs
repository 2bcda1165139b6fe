//! The firmware's memory map, made usable.
//!
//! Firmware may report ranges that overlap, are not page-aligned, or are not sorted (ACPI 6.5, 15.4). What
//! may be allocated is every page that lies wholly in usable ranges and touches no other kind.
//!
//! ```text
//!   usable      |=============================|
//!   reserved            |##|            |#########|
//!   result      |-------|    |----------|               whole 4 KiB pages
//! ```

use crate::handoff::{MAX_REGIONS, REGION_USABLE, Region};
use addr::{Hpa, HpaRange, PageSize};
use heapless::Vec;

/// Ranges a map can hold: each region that is taken out can split one.
const CAPACITY: usize = 2 * MAX_REGIONS;

/// Physical memory that may be allocated: sorted, disjoint, page-aligned ranges.
#[derive(Clone, Debug, Default)]
pub struct MemoryMap {
    ranges: Vec<HpaRange, CAPACITY>,
}

impl MemoryMap {
    /// The map of these regions. Beyond 256 ranges the smallest are left out: less memory, never wrong memory.
    #[must_use]
    pub fn new(regions: &[Region]) -> Self {
        let mut map = Self::default();
        for range in regions.iter().filter(|region| region.kind == REGION_USABLE).filter_map(bytes_of) {
            map.insert(range);
        }
        for range in regions.iter().filter(|region| region.kind != REGION_USABLE).filter_map(bytes_of) {
            map.remove(range);
        }
        map.keep_whole_pages();
        map
    }

    /// The pages that any of these regions touches, whatever their kind.
    #[must_use]
    pub fn touching<'a>(regions: impl IntoIterator<Item = &'a Region>) -> Self {
        let mut map = Self::default();
        for range in regions.into_iter().filter_map(bytes_of) {
            let start = range.start().align_down(PageSize::Size4K);
            let end = range.end().align_up(PageSize::Size4K);
            map.insert(HpaRange::new(start, end.unwrap_or(range.end())));
        }
        map.keep_whole_pages();
        map
    }

    /// The ranges, in order.
    #[must_use]
    pub fn ranges(&self) -> &[HpaRange] {
        &self.ranges
    }

    /// Bytes in all ranges.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.ranges.iter().map(HpaRange::len).sum()
    }

    /// Whether there is no memory at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The first byte past the highest range.
    #[must_use]
    pub fn end(&self) -> Hpa {
        self.ranges.last().map_or(Hpa::ZERO, HpaRange::end)
    }

    /// Whether all of `range` may be allocated.
    #[must_use]
    pub fn contains(&self, range: &HpaRange) -> bool {
        self.ranges.iter().any(|whole| whole.contains_span(range))
    }

    /// Takes every page out that `range` touches.
    pub fn reserve(&mut self, range: HpaRange) {
        self.remove(range);
        self.keep_whole_pages();
    }

    /// Takes everything out that lies at or above `end`.
    pub fn cut(&mut self, end: Hpa) {
        if let Some(above) = HpaRange::try_new(end, self.end()) {
            self.reserve(above);
        }
    }

    /// The highest place for `bytes` bytes, aligned to `align`, that ends at or below `ceiling`.
    #[must_use]
    pub fn highest_fit(&self, bytes: u64, align: PageSize, ceiling: Hpa) -> Option<HpaRange> {
        self.ranges.iter().rev().find_map(|range| {
            let top = range.end().min(ceiling).as_u64();
            let start = Hpa::try_new(top.checked_sub(bytes)?)?.align_down(align);
            (start >= range.start()).then(|| HpaRange::sized(start, bytes)).flatten()
        })
    }

    /// Adds a range, joined with what it touches.
    fn insert(&mut self, range: HpaRange) {
        let mut joined = range;
        self.ranges.retain(|other| {
            let apart = other.end() < joined.start() || joined.end() < other.start();
            if !apart {
                joined = joined.hull(other);
            }
            apart
        });
        self.push(joined);
    }

    fn remove(&mut self, hole: HpaRange) {
        for range in core::mem::take(&mut self.ranges) {
            let Some(cut) = range.intersection(&hole) else {
                self.push(range);
                continue;
            };
            self.push(HpaRange::new(range.start(), cut.start()));
            self.push(HpaRange::new(cut.end(), range.end()));
        }
    }

    fn keep_whole_pages(&mut self) {
        for range in core::mem::take(&mut self.ranges) {
            let start = range.start().align_up(PageSize::Size4K);
            let end = range.end().align_down(PageSize::Size4K);
            if let Some(whole) = start.and_then(|start| HpaRange::try_new(start, end)) {
                self.push(whole);
            }
        }
    }

    /// Adds a range in its place; a full map drops its smallest range.
    fn push(&mut self, range: HpaRange) {
        if range.is_empty() {
            return;
        }
        if self.ranges.is_full() {
            let smallest = (0..self.ranges.len()).min_by_key(|&index| self.ranges[index].len());
            match smallest {
                Some(index) if self.ranges[index].len() < range.len() => drop(self.ranges.remove(index)),
                _ => return,
            }
        }
        let index = self.ranges.partition_point(|other| other.start() < range.start());
        // The map has room: made above.
        let _ = self.ranges.insert(index, range);
    }
}

/// The bytes of a region, cut to the physical address space; `None` where nothing is left.
fn bytes_of(region: &Region) -> Option<HpaRange> {
    let start = Hpa::try_new(region.start)?;
    let last = region.start.saturating_add(region.len).min((1 << 52) - 1);
    HpaRange::try_new(start, Hpa::try_new(last)?).filter(|range| !range.is_empty())
}

#[cfg(test)]
mod tests {
    use super::{MemoryMap, Region};
    use addr::{Hpa, HpaRange, PageSize};
    use alloc::vec::Vec;

    fn region(start: u64, end: u64, kind: u32) -> Region {
        Region { start, len: end - start, kind, reserved: 0 }
    }

    fn ranges(map: &MemoryMap) -> Vec<(u64, u64)> {
        map.ranges().iter().map(|range| (range.start().as_u64(), range.end().as_u64())).collect()
    }

    #[test]
    fn a_pc_memory_map() {
        let map = MemoryMap::new(&[
            region(0, 0x9fc00, 1),
            region(0x9fc00, 0xa0000, 2),
            region(0xe8000, 0x100000, 2),
            region(0x100000, 0x1fff0000, 1),
            region(0x1fff0000, 0x20000000, 3),
        ]);
        assert_eq!(ranges(&map), [(0, 0x9f000), (0x100000, 0x1fff0000)]);
        assert_eq!(map.end(), Hpa::new(0x1fff0000));
        assert_eq!(map.len(), 0x9f000 + 0x1fef0000);
    }

    #[test]
    fn overlaps_join_and_reserved_wins() {
        let map = MemoryMap::new(&[
            region(0x5000, 0x9000, 1),
            region(0x7800, 0x7801, 5),
            region(0x1000, 0x6000, 1),
            region(0x9000, 0xa800, 1),
        ]);
        assert_eq!(ranges(&map), [(0x1000, 0x7000), (0x8000, 0xa000)]);
    }

    #[test]
    fn a_page_shared_by_two_usable_ranges_is_usable() {
        let map = MemoryMap::new(&[region(0x1000, 0x1800, 1), region(0x1800, 0x3000, 1)]);
        assert_eq!(ranges(&map), [(0x1000, 0x3000)]);
    }

    #[test]
    fn nonsense_is_ignored() {
        let wild = Region { start: u64::MAX - 10, len: 100, kind: 1, reserved: 0 };
        let endless = Region { start: 0x10_0000, len: u64::MAX, kind: 1, reserved: 0 };
        let empty = region(0x1000, 0x1000, 1);
        assert_eq!(ranges(&MemoryMap::new(&[wild, empty])), []);
        assert_eq!(ranges(&MemoryMap::new(&[endless])), [(0x10_0000, (1 << 52) - 4096)]);
    }

    #[test]
    fn the_highest_fit_respects_the_ceiling() {
        let mut map = MemoryMap::new(&[region(0x10_0000, 0x100_0000, 1), region(1 << 32, 1 << 33, 1)]);
        let ceiling = Hpa::new(1 << 32);
        let fit = map.highest_fit(0x1234, PageSize::Size4K, ceiling).expect("room");
        assert_eq!((fit.start().as_u64(), fit.len()), (0xff_e000, 0x1234));
        assert_eq!(map.highest_fit(1 << 30, PageSize::Size4K, ceiling), None);
        map.reserve(fit);
        assert!(!map.contains(&HpaRange::new(Hpa::new(0xff_f000), Hpa::new(0x100_0000))));
        assert_eq!(map.ranges()[0].end(), Hpa::new(0xff_e000));
    }

    #[test]
    fn pages_that_are_touched() {
        let map = MemoryMap::touching(&[
            region(0x1fff, 0x2001, 2),
            region(0x2fff, 0x3000, 4),
            region(0x9000, 0x9000, 3),
        ]);
        assert_eq!(ranges(&map), [(0x1000, 0x3000)]);
        let wild = Region { start: (1 << 52) - 10, len: u64::MAX, kind: 1, reserved: 0 };
        assert_eq!(ranges(&MemoryMap::touching([&wild])), []);
    }

    #[test]
    fn a_map_ends_where_it_is_cut() {
        let mut map = MemoryMap::new(&[region(0x1000, 0x9000, 1), region(0x10000, 0x20000, 1)]);
        map.cut(Hpa::new(0x20000));
        assert_eq!(map.ranges().len(), 2);
        map.cut(Hpa::new(0x4800));
        assert_eq!(ranges(&map), [(0x1000, 0x4000)]);
        map.cut(Hpa::ZERO);
        assert!(map.is_empty());
    }

    #[test]
    fn a_full_map_drops_the_smallest() {
        let regions: Vec<_> = (0..300u64).map(|n| region(n << 24, (n << 24) + ((n + 1) << 12), 1)).collect();
        let map = MemoryMap::new(&regions);
        assert_eq!(map.ranges().len(), super::CAPACITY);
        assert_eq!(map.ranges()[0].start().as_u64(), 44 << 24);
    }
}
