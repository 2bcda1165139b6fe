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

/// Calls `used` with the first address and the bytes of each leaf in `start..end` whose A bit is set, and clears it. The
/// range lies in one span of [`Level::Pd`]; where it is less than that, each leaf is looked at. Nothing is flushed: of what
/// CPUs have cached they do not set A again.
pub fn collect_young<E: TableEntry, M: TableMemory>(
    memory: &M,
    root: Pfn,
    (start, end): (u64, u64),
    mut used: impl FnMut(u64, u64),
) {
    let found = walk_to::<E, M>(memory, root, start, Level::Pd);
    match found.view() {
        View::Leaf(_) => {
            if take_accessed(memory, found.at, found.entry) {
                used(start, end - start);
            }
        }
        View::Table(table) if found.level == Level::Pd => {
            let whole = end - start == Level::Pd.span();
            if whole && !take_accessed(memory, found.at, found.entry) {
                return;
            }
            for index in Level::Pt.index(start)..=Level::Pt.index(end - 1) {
                let at = EntryRef::new(table, index);
                let entry = E::from_bits(memory.load(at));
                let is_leaf =
                    entry.bits() & E::ACCESSED != 0 && matches!(entry.view(Level::Pt), View::Leaf(_));
                if is_leaf && take_accessed(memory, at, entry) {
                    let block = start & !(Level::Pd.span() - 1);
                    used(block + u64::from(index) * Level::Pt.span(), Level::Pt.span());
                }
            }
        }
        View::Empty | View::Table(_) | View::Note(_) => {}
    }
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
