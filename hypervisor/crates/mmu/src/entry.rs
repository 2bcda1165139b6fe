//! The choke point: the only code that writes secondary leaves.
//!
//! ```text
//!             install                       allow_more (same frame)
//!   Empty ───────────────► Leaf(frame, r-x) ──────────────────────► Leaf(frame, rwx)
//!     ▲                      │                                        │
//!     └──────── clear ───────┴────────────────────────────────────────┘
//!                (the flush is the caller's debt)
//! ```
//!
//! There is no arrow from one frame to another (I5), and no write that is not one atomic 64-bit access.

use paging::{EntryRef, EptEntry, Found, Leaf, TableEntry, TableMemory};

/// What became of an attempt to install a leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Installed {
    /// The entry was empty, or allowed less, and is now as asked. No flush: nothing narrower is cached that
    /// the violation itself has not dropped (SDM vol. 3C 28.4.3.1).
    Changed,
    /// The entry allowed this much already.
    Spurious,
}

/// Makes the entry at `found` map `leaf`. The mmu lock is held.
///
/// # Panics
/// If the entry maps another frame, or is a table.
pub(crate) fn install<M: TableMemory>(memory: &M, found: &Found<EptEntry>, leaf: Leaf) -> Installed {
    if found.entry == EptEntry::EMPTY {
        debug_assert_eq!(found.level.leaf_size(), Some(leaf.size), "leaf of another level's size");
        memory.store(found.at, EptEntry::leaf(leaf).bits());
        return Installed::Changed;
    }
    let Some(old) = found.leaf() else { panic!("leaf {leaf:?} over the table entry {found:?}") };
    assert!(
        old.pfn == leaf.pfn && old.size == leaf.size,
        "secondary entry {:?} would change from {old:?} to {leaf:?} while present (I5): \
         missing notifier call, or a race",
        found.at,
    );
    if old.rights.covers(leaf.rights) {
        return Installed::Spurious;
    }
    replace(memory, found.at, found.entry, |entry| {
        let kept = entry.bits() & (EptEntry::ACCESSED | EptEntry::DIRTY);
        EptEntry::from_bits(EptEntry::leaf(leaf).bits() | kept)
    });
    Installed::Changed
}

/// Empties the entry. The mmu lock is held; the caller owes a flush of the root.
pub(crate) fn clear<M: TableMemory>(memory: &M, found: &Found<EptEntry>) {
    replace(memory, found.at, found.entry, |_| EptEntry::EMPTY);
}

/// Tests and clears the accessed bit. The mmu lock is held.
pub(crate) fn age<M: TableMemory>(memory: &M, found: &Found<EptEntry>) -> bool {
    let entry = replace(memory, found.at, found.entry, EptEntry::aged);
    (Found { entry, ..*found }).leaf().is_some_and(|leaf| leaf.accessed)
}

/// One compare-exchange, repeated only while the CPU sets A or D under our hands.
fn replace<M: TableMemory>(
    memory: &M,
    at: EntryRef,
    seen: EptEntry,
    change: impl Fn(EptEntry) -> EptEntry,
) -> EptEntry {
    let mut old = seen;
    while let Err(now) = memory.compare_exchange(at, old.bits(), change(old).bits()) {
        old = EptEntry::from_bits(now);
    }
    old
}
