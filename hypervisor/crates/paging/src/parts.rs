//! A range, a page table at a time: whoever changes all that is mapped walks once for each table, and goes over its entries with
//! nothing in between.
//!
//! ```text
//!   start..end ──► 2 MiB at a time: walk to the entry of the page table ─┬─ a table: those of its entries that are in the range
//!                                                                        ├─ a leaf: it alone
//!                                                                        └─ empty: on behind all that it spans
//! ```

use crate::{EntryRef, Found, Level, TableEntry, TableMemory, View, Visit, walk_to};
use addr::{PAGE_SHIFT, Pfn};
use core::marker::PhantomData;
use core::ops::Range;

/// What is mapped in a part of a range.
#[derive(Clone, Debug)]
pub enum Part<E> {
    /// A huge leaf; may straddle an end of the range.
    Leaf(Visit<E>),
    /// Base pages, as far as they are there.
    Table(PageTable),
}

/// A page table, and which of its entries are in a range.
#[derive(Clone, Debug)]
pub struct PageTable {
    /// The address that entry 0 translates.
    pub address: u64,
    /// The table's frame.
    pub table: Pfn,
    /// The entries in the range.
    pub entries: Range<u16>,
    /// Several roots share it: nobody changes what it has (I18).
    pub shared: bool,
}

impl PageTable {
    /// The address that an entry translates.
    #[must_use]
    pub fn address_of(&self, index: u16) -> u64 {
        self.address + (u64::from(index) << PAGE_SHIFT)
    }

    /// An entry is to change: the table is nobody else's (I18). One that others have, too, may be met where it has nothing in the range.
    ///
    /// # Panics
    /// In debug builds, if it is shared.
    #[inline]
    pub fn is_to_change(&self) {
        debug_assert!(!self.shared, "{:?} is to change, and is shared (I18)", self.table);
    }

    /// An entry, as a cursor would find it.
    #[must_use]
    pub fn visit<E: TableEntry>(&self, index: u16, entry: E) -> Visit<E> {
        let at = EntryRef::new(self.table, index);
        let found = Found { at, level: Level::Pt, entry, shared: self.shared };
        Visit { address: self.address_of(index), found }
    }
}

/// The parts of `start..end`, in order. Entries may be changed in the part visited. Tables must not be freed meanwhile.
#[derive(Debug)]
pub struct Parts<'m, M, E> {
    memory: &'m M,
    root: Pfn,
    next: u64,
    end: u64,
    format: PhantomData<E>,
}

impl<'m, M: TableMemory, E: TableEntry> Parts<'m, M, E> {
    /// The parts of `start..end` below `root`. The range lies in one half of the canonical space.
    pub const fn new(memory: &'m M, root: Pfn, start: u64, end: u64) -> Self {
        Self { memory, root, next: start, end, format: PhantomData }
    }
}

impl<M: TableMemory, E: TableEntry> Iterator for Parts<'_, M, E> {
    type Item = Part<E>;

    fn next(&mut self) -> Option<Part<E>> {
        while self.next < self.end {
            let (found, start) = (walk_to::<E, M>(self.memory, self.root, self.next, Level::Pd), self.next);
            let address = start & !(found.level.span() - 1);
            let behind = address.saturating_add(found.level.span());
            self.next = behind;
            match found.view() {
                View::Table(table) => {
                    let last = Level::Pt.index(self.end.min(behind) - 1);
                    let entries = Level::Pt.index(start)..last + 1;
                    let shared = found.entry.is_shared_table();
                    return Some(Part::Table(PageTable { address, table, entries, shared }));
                }
                View::Leaf(_) | View::Note(_) => return Some(Part::Leaf(Visit { address, found })),
                View::Empty => {}
            }
        }
        None
    }
}
