//! Pages of the direct map, and how many tables they need.
//!
//! A page is as large as its place allows: its start is a multiple of its size, and it lies wholly in its range (SDM vol.
//! 3A 4.5.4). So a table is needed for every slot of the next size up that no single page fills.

use addr::{Hpa, HpaRange, PageSize};

/// log2 of what an entry of the root maps.
const ROOT_SHIFT: u32 = 39;

/// The pages of a range, which is whole base pages, none larger than `largest`.
pub fn pages_of(range: HpaRange, largest: PageSize) -> impl Iterator<Item = (Hpa, PageSize)> {
    let mut next = range.start();
    core::iter::from_fn(move || {
        let left = range.end().checked_offset_from(next).filter(|&left| left >= PageSize::Size4K.bytes())?;
        let fits = |size: &PageSize| *size <= largest && next.is_aligned(*size) && size.bytes() <= left;
        let size = [PageSize::Size1G, PageSize::Size2M].into_iter().find(fits).unwrap_or(PageSize::Size4K);
        let page = next;
        next = next.add(size.bytes());
        Some((page, size))
    })
}

/// Tables that map these ranges, in order and disjoint, from the root down.
#[must_use]
pub fn tables_for<I>(ranges: I, largest: PageSize) -> u64
where
    I: IntoIterator<Item = HpaRange>,
    I::IntoIter: Clone,
{
    let ranges = ranges.into_iter();
    let slots = |shift, which| slots(ranges.clone(), shift, which);
    let directories = match largest {
        PageSize::Size1G => slots(PageSize::Size1G.shift(), Which::Partial),
        PageSize::Size4K | PageSize::Size2M => slots(PageSize::Size1G.shift(), Which::Touched),
    };
    let tables = match largest {
        PageSize::Size4K => slots(PageSize::Size2M.shift(), Which::Touched),
        PageSize::Size1G | PageSize::Size2M => slots(PageSize::Size2M.shift(), Which::Partial),
    };
    1 + slots(ROOT_SHIFT, Which::Touched) + directories + tables
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    /// Something of it is mapped.
    Touched,
    /// Something, and not all of it by one range.
    Partial,
}

/// Counts aligned slots of 2^shift bytes, each once.
fn slots(ranges: impl Iterator<Item = HpaRange>, shift: u32, which: Which) -> u64 {
    let (mut count, mut uncounted) = (0, 0);
    // From `first` to `last`, without what was counted for the range before.
    let mut add = |first: u64, last: u64| {
        let first = first.max(uncounted);
        if first <= last {
            count += last - first + 1;
            uncounted = last + 1;
        }
    };
    for range in ranges.filter(|range| !range.is_empty()) {
        let (start, end) = (range.start().as_u64(), range.end().as_u64());
        let (first, last) = (start >> shift, (end - 1) >> shift);
        if which == Which::Touched {
            add(first, last);
            continue;
        }
        let within = (1u64 << shift) - 1;
        if start & within != 0 {
            add(first, first);
        }
        if end & within != 0 {
            add(last, last);
        }
    }
    count
}
