//! Which pages were used: the A bits of a whole page table at once.
//!
//! A processor sets A in each entry that it walks through, those that name tables too (SDM vol. 3A 4.8, vol. 3C 29.3.5). So
//! a page table whose own entry has not got it set again needs no look.
//!
//! ```text
//!   512 entries of tables: A? ─ no ──► nothing below was used
//!   entry of the table: A? ─ no ──► the same
//!                       └─ yes: clear it, and then each A below: what is used meanwhile sets both again
//!
//!   each of 512:  load ─► A? ─► clear A alone, in one access ─► the frame is told ─► a bit of the answer
//! ```

use crate::{Entries, Found, Level, TableEntry, TableMemory, View, walk_to};
use addr::{PAGE_SHIFT, Pfn};
use core::array;
use core::ops::BitAnd;

/// The pages of a naturally aligned block of 2 MiB, or the blocks of 1 GiB, a bit each.
pub type BlockBits = [u64; 8];

/// Entries that are looked at together: as many as there are registers for.
const TOGETHER: usize = 4;

/// Which pages in `start..end` were used: tests and clears the A bit of each leaf there, and calls `used` with the numbers of their
/// frames. The range lies in one span of [`Level::Pd`], and `found` is where a walk to that level has ended; where the range is less
/// than that, each leaf is looked at. Nothing is flushed: of what CPUs have cached they do not set A again. The caller keeps
/// entries from going meanwhile, and others from clearing A.
pub fn collect_young<E: TableEntry, M: TableMemory>(
    memory: &M,
    found: &Found<E>,
    (start, end): (u64, u64),
    used: impl Fn(u64) + Copy,
) -> BlockBits {
    let pages = Level::Pt.index(start)..=Level::Pt.index(end - 1);
    let whole = end - start == Level::Pd.span();
    match found.view() {
        View::Leaf(leaf) if take_accessed(memory, found) => {
            let first = (start & !(Level::Pd.span() - 1) & (found.level.span() - 1)) >> PAGE_SHIFT;
            pages.clone().for_each(|index| used(leaf.pfn.as_u64() + first + u64::from(index)));
            bits_of(pages)
        }
        View::Table(table) if found.level == Level::Pd => {
            let entries = memory.entries(table);
            match whole {
                true if take_accessed(memory, found) => collect_table::<E, M>(entries, used),
                true => [0; 8],
                false => {
                    let take = |index: &u16| take_entry::<E, M>(entries, *index, entries.load(*index), used);
                    bits_of(pages.filter(take))
                }
            }
        }
        View::Empty | View::Table(_) | View::Leaf(_) | View::Note(_) => [0; 8],
    }
}

/// Calls `found` with the first address of each block, of [`Level::Pd`], that overlaps `start..end` and any page of which may have been used
/// since [`collect_young`] was last asked for all of it. Changes nothing: what is used meanwhile may be missed, and is found the next time.
pub fn find_used<E: TableEntry, M: TableMemory>(
    memory: &M,
    root: Pfn,
    (start, end): (u64, u64),
    mut found: impl FnMut(u64),
) {
    let (mut next, whole) = (start, Level::Pdpt.span());
    while next < end {
        let first = next & !(whole - 1);
        let until = end.min(first + whole);
        let indices = Level::Pd.index(next)..=Level::Pd.index(until - 1);
        let block = |index: u16| first + u64::from(index) * Level::Pd.span();
        let above = walk_to::<E, M>(memory, root, next, Level::Pdpt);
        match above.view() {
            View::Table(table) if above.level == Level::Pdpt => {
                let entries = memory.entries(table);
                let used = indices.filter(|&index| entries.load(index) & E::ACCESSED != 0);
                used.for_each(|index| found(block(index)));
            }
            View::Leaf(_) if above.entry.bits() & E::ACCESSED != 0 => {
                indices.for_each(|index| found(block(index)));
            }
            View::Empty | View::Table(_) | View::Leaf(_) | View::Note(_) => {}
        }
        next = until;
    }
}

fn bits_of(pages: impl Iterator<Item = u16>) -> BlockBits {
    let mut bits = [0; 8];
    pages.for_each(|index| bits[usize::from(index / 64)] |= 1 << (index % 64));
    bits
}

/// The same in all entries of a page table; two groups a turn, which leaves less for the loop itself.
fn collect_table<E: TableEntry, M: TableMemory>(
    entries: M::Entries<'_>,
    used: impl Fn(u64) + Copy,
) -> BlockBits {
    let mut bits = [u64::MAX; 8];
    for word in 0..8_u16 {
        for pair in 0..32 / TOGETHER as u16 {
            let first = word * 64 + pair * 2 * TOGETHER as u16;
            collect_group::<E, M>(entries, first, &mut bits[usize::from(word)], used);
            collect_group::<E, M>(entries, first + TOGETHER as u16, &mut bits[usize::from(word)], used);
        }
    }
    bits
}

/// The same in [`TOGETHER`] entries; those that were not used are taken from `bits`, the word of the answer that they are in. Where
/// one was used its neighbours are likely to have been: A is looked for in all at once.
#[inline(always)]
fn collect_group<E: TableEntry, M: TableMemory>(
    entries: M::Entries<'_>,
    first: u16,
    bits: &mut u64,
    used: impl Fn(u64) + Copy,
) {
    let seen: [u64; TOGETHER] = array::from_fn(|page| entries.load(first + page as u16));
    if seen.into_iter().fold(u64::MAX, BitAnd::bitand) & E::ACCESSED != 0 {
        for (index, entry) in (first..).zip(seen) {
            entries.clear(index, E::ACCESSED);
            used(E::frame_number(entry));
        }
        return;
    }
    *bits &= !collect_mixed::<E, M>(entries, first, used);
}

/// The same where not all were used: those that were not. Apart, so that the loop over the others has their work alone. Of a table of
/// which a few pages were used most groups have none.
#[cold]
fn collect_mixed<E: TableEntry, M: TableMemory>(
    entries: M::Entries<'_>,
    first: u16,
    used: impl Fn(u64) + Copy,
) -> u64 {
    let any = (first..first + TOGETHER as u16).fold(0, |any, index| any | entries.load(index));
    if any & E::ACCESSED == 0 {
        return ((1 << TOGETHER) - 1) << (first % 64);
    }
    (first..first + TOGETHER as u16).fold(0, |unused, index| {
        let was_used = take_entry::<E, M>(entries, index, entries.load(index), used);
        unused | u64::from(!was_used) << (index % 64)
    })
}

/// The same in one entry.
fn take_entry<E: TableEntry, M: TableMemory>(
    entries: M::Entries<'_>,
    index: u16,
    seen: u64,
    used: impl Fn(u64) + Copy,
) -> bool {
    let was_used = seen & E::ACCESSED != 0;
    if was_used {
        entries.clear(index, E::ACCESSED);
        used(E::frame_number(seen));
    }
    was_used
}

/// Clears A, and tells whether it was set.
fn take_accessed<E: TableEntry, M: TableMemory>(memory: &M, found: &Found<E>) -> bool {
    let was_set = found.entry.bits() & E::ACCESSED != 0;
    if was_set {
        memory.entries(found.at.table()).clear(found.at.index(), E::ACCESSED);
    }
    was_set
}
