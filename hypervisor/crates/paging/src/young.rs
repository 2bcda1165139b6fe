//! Which pages were used: the A bits of a whole page table at once.
//!
//! A processor sets A in each entry that it walks through, those that name tables too (SDM vol. 3A 4.8, vol. 3C 29.3.5). So
//! a page table whose own entry has not got it set again needs no look.
//!
//! ```text
//!   entry of the table: A? ─ no ──► nothing below was used
//!                       └─ yes: clear it, and then each A below: what is used meanwhile sets both again
//! ```

use crate::{EntryRef, Level, TableEntry, TableMemory, View, walk_to};
use addr::Pfn;

/// The pages of a naturally aligned block of 2 MiB, a bit each.
pub type BlockBits = [u64; 8];

/// Which pages in `start..end` were used: tests and clears the A bit of each leaf there. The range lies in one span of
/// [`Level::Pd`]; where it is less than that, each leaf is looked at. Nothing is flushed: of what CPUs have cached they do not
/// set A again.
pub fn collect_young<E: TableEntry, M: TableMemory>(
    memory: &M,
    root: Pfn,
    (start, end): (u64, u64),
) -> BlockBits {
    let mut bits = [0; 8];
    let (first, last) = (Level::Pt.index(start), Level::Pt.index(end - 1));
    let found = walk_to::<E, M>(memory, root, start, Level::Pd);
    match found.view() {
        View::Leaf(_) => {
            if take_accessed(memory, found.at, found.entry) {
                (first..=last).for_each(|index| set(&mut bits, index));
            }
        }
        View::Table(table) if found.level == Level::Pd => {
            let whole = end - start == Level::Pd.span();
            if whole && !take_accessed(memory, found.at, found.entry) {
                return bits;
            }
            for index in first..=last {
                let at = EntryRef::new(table, index);
                let entry = E::from_bits(memory.load(at));
                // Most entries are decided by the bit alone.
                if entry.bits() & E::ACCESSED != 0
                    && matches!(entry.view(Level::Pt), View::Leaf(_))
                    && take_accessed(memory, at, entry)
                {
                    set(&mut bits, index);
                }
            }
        }
        View::Empty | View::Table(_) | View::Note(_) => {}
    }
    bits
}

fn set(bits: &mut BlockBits, index: u16) {
    bits[usize::from(index / 64)] |= 1 << (index % 64);
}

/// Clears A, and tells whether it was set. Nothing else that the CPU or others change meanwhile is lost.
fn take_accessed<E: TableEntry, M: TableMemory>(memory: &M, at: EntryRef, seen: E) -> bool {
    let mut old = seen.bits();
    while old & E::ACCESSED != 0 {
        match memory.compare_exchange(at, old, old & !E::ACCESSED) {
            Ok(()) => return true,
            Err(now) => old = now,
        }
    }
    false
}
