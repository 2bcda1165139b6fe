//! The choke point: the only code that writes secondary leaves.
//!
//! ```text
//!             install                       allow_more (same frame)
//!   Empty ───────────────► Leaf(frame, r-x) ──────────────────────► Leaf(frame, rwx)
//!     ▲                      │                                        │
//!     └──────── clear ───────┴────────────────────────────────────────┘
//!                (the flush is the caller's debt)            narrow: back, W gone; or D (the same debt)
//! ```
//!
//! There is no arrow from one frame to another (I5), and no write that is not one atomic 64-bit access.
//!
//! `install` and `age` need the mmu lock's shared side only: CPUs that do so at the same time exchange what they have
//! seen, and look again where it has changed. `clear` needs the exclusive side, so a leaf never goes under their hands.

use crate::shadow;
use mutants::{Mutant, intact};
use paging::{Entries, EntryRef, EptEntry, Found, Leaf, Level, TableEntry, TableMemory, View};
use sync::InProgress;

/// What became of an attempt to install a leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Installed {
    /// The entry, there, was empty, and is now as asked.
    New(EntryRef),
    /// The entry allowed less, and is now as asked. No flush: nothing narrower is cached that the violation itself has not dropped
    /// (SDM vol. 3C 28.4.3.1).
    More,
    /// The entry allowed this much already, or does so by now: another CPU was faster.
    Spurious,
}

/// Makes the entry at `found` map `leaf`. The mmu lock is held, shared at least. `None` where another CPU has linked a
/// table there: walk again.
///
/// # Panics
/// If the entry maps another frame.
pub(crate) fn install<M: TableMemory>(memory: &M, found: &Found<EptEntry>, leaf: Leaf) -> Option<Installed> {
    let mut now = *found;
    loop {
        let new = match now.view() {
            View::Table(_) => return None,
            View::Leaf(old) => match allow_more(&now, old, leaf) {
                Some(new) => new,
                None => return Some(Installed::Spurious),
            },
            View::Empty | View::Note(_) => {
                debug_assert_eq!(now.level.leaf_size(), Some(leaf.size), "leaf of another level's size");
                EptEntry::leaf(leaf)
            }
        };
        match exchange(memory, &now, new) {
            Ok(()) if found.entry == EptEntry::EMPTY => return Some(Installed::New(now.at)),
            Ok(()) => return Some(Installed::More),
            // The CPU has set A or D, or another one has installed something.
            Err(entry) => now.entry = entry,
        }
    }
}

/// [`install`] where `found` is an empty entry of the leaf's level, as it mostly is; `false` where it is so no more.
#[inline(always)]
pub(crate) fn install_first<M: TableMemory>(memory: &M, found: &Found<EptEntry>, leaf: Leaf) -> bool {
    exchange(memory, found, EptEntry::leaf(leaf)).is_ok()
}

/// Makes an empty entry of a page table map a page beside the one that a fault has brought; `false` where it is not empty. The mmu
/// lock is held, shared at least.
#[inline(always)]
pub(crate) fn install_beside<M: TableMemory>(memory: &M, at: EntryRef, leaf: Leaf) -> bool {
    let entry = EptEntry::from_bits(memory.load(at));
    let found = Found { at, level: Level::Pt, entry, shared: false };
    entry == EptEntry::EMPTY && install_first(memory, &found, leaf)
}

/// The entry at `found`, with the rights of `leaf` and what the CPU has noted; `None` where it allows them already.
fn allow_more(found: &Found<EptEntry>, old: Leaf, leaf: Leaf) -> Option<EptEntry> {
    assert!(
        old.pfn == leaf.pfn && old.size == leaf.size,
        "secondary entry {:?} would change from {old:?} to {leaf:?} while present (I5): \
         missing notifier call, or a race",
        found.at,
    );
    let kept = found.entry.bits() & (EptEntry::ACCESSED | EptEntry::DIRTY);
    let more = || EptEntry::from_bits(EptEntry::leaf(leaf).bits() | kept);
    (!old.rights.covers(leaf.rights)).then(more)
}

/// Writes `new` where the entry still is what was found; else what it is by now.
fn exchange<M: TableMemory>(memory: &M, found: &Found<EptEntry>, new: EptEntry) -> Result<(), EptEntry> {
    if intact(Mutant::InstallStores) {
        let done = memory.compare_exchange(found.at, found.entry.bits(), new.bits());
        return done.map_err(EptEntry::from_bits);
    }
    memory.store(found.at, new.bits());
    Ok(())
}

/// Empties the entry, of a leaf or of a table. The mmu lock is held exclusively; the caller owes a flush of the root.
pub(crate) fn clear<M: TableMemory>(memory: &M, at: EntryRef, seen: EptEntry, _exclusive: &mut InProgress) {
    replace(memory, at, seen, |_| EptEntry::EMPTY);
}

/// Gives a leaf back the right to be written that the dirty log took: where `found` is still what it says. The mmu lock is held, shared
/// at least.
pub(crate) fn allow_write<M: TableMemory>(memory: &M, found: &Found<EptEntry>) -> bool {
    exchange(memory, found, EptEntry::from_bits(found.entry.bits() | EptEntry::WRITE)).is_ok()
}

/// Clears `bits` of the entry, in one access. The mmu lock is held exclusively; the caller owes a flush of the root.
pub(crate) fn narrow<M: TableMemory>(memory: &M, at: EntryRef, bits: u64, _exclusive: &mut InProgress) {
    memory.entries(at.table()).clear(at.index(), bits);
}

/// Tests and clears the accessed bit. The mmu lock is held, shared at least.
pub(crate) fn age<M: TableMemory>(memory: &M, found: &Found<EptEntry>) -> bool {
    if !intact(Mutant::AgeStores) {
        memory.store(found.at, found.entry.aged().bits());
        return found.leaf().is_some_and(|leaf| leaf.accessed);
    }
    let entry = replace(memory, found.at, found.entry, EptEntry::aged);
    (Found { entry, ..*found }).leaf().is_some_and(|leaf| leaf.accessed)
}

/// Sets the accessed bit, for a processor that has not got to do so itself. The mmu lock is held, shared at least.
pub(crate) fn note_use<M: TableMemory>(memory: &M, found: &Found<EptEntry>) {
    replace(memory, found.at, found.entry, |entry| EptEntry::from_bits(entry.bits() | EptEntry::ACCESSED));
}

/// Lets an empty entry of a shadow map what is mapped by a leaf that is there, or name a table. The mmu lock is held exclusively,
/// and the virtual processor whose shadow it is does not run.
///
/// # Panics
/// If the entry is not empty (I5).
pub(crate) fn derive<M: TableMemory>(memory: &M, at: EntryRef, bits: u64) {
    assert_eq!(memory.load(at), 0, "shadow entry {at:?} would come to be {bits:#x} while present (I5)");
    memory.store(at, bits);
}

/// Gives an entry of a shadow that names a table the rights that the guest's entry has by now. As above.
pub(crate) fn rename<M: TableMemory>(memory: &M, at: EntryRef, bits: u64) {
    memory.store(at, bits);
}

/// Takes the right to write from a leaf of a shadow, in one access: a processor may set A. The mmu lock is held exclusively. The caller
/// owes a flush, unless it acts for the virtual processor, which does not run.
pub(crate) fn protect<M: TableMemory>(memory: &M, at: EntryRef) {
    memory.entries(at.table()).clear(at.index(), shadow::WRITABLE);
}

/// Tests and clears A of a shadow's leaf, in one access. The mmu lock is held, shared at least; the caller owes a flush (I12).
pub(crate) fn age_shadow<M: TableMemory>(memory: &M, at: EntryRef) -> bool {
    let is_used = memory.load(at) & shadow::ACCESSED != 0;
    if is_used && intact(Mutant::ShadowAgeLeavesUsed) {
        memory.entries(at.table()).clear(at.index(), shadow::ACCESSED);
    }
    is_used
}

/// Empties an entry of a shadow. The mmu lock is held exclusively; the caller owes a flush, unless it acts for the virtual
/// processor, which does not run.
pub(crate) fn forget<M: TableMemory>(memory: &M, at: EntryRef) {
    memory.store(at, 0);
}

/// One compare-exchange, repeated while the CPU sets A or D under our hands, or another one ages or allows more.
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
