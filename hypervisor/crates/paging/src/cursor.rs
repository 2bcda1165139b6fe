//! A cursor visits the leaves of a range, and the notes that took their place, in order, and skips what is empty a whole table at a time: its cost
//! grows with what is mapped, not with the size of the range.

use crate::{EntryRef, Found, Level, TableEntry, TableMemory, View, walk_to};
use addr::Pfn;
use core::marker::PhantomData;

/// A leaf or note that the cursor stands on.
#[derive(Clone, Copy, Debug)]
pub struct Visit<E> {
    /// First address that the leaf translates; may lie before the range, where a huge leaf straddles its start.
    pub address: u64,
    /// The entry and its place.
    pub found: Found<E>,
}

/// Visits the leaves and notes that overlap `start..end`.
///
/// Entries may be changed at the place visited. Tables must not be freed while the cursor lives.
#[derive(Debug)]
pub struct Cursor<'m, M, E> {
    memory: &'m M,
    /// Tables on the path, by level (root last).
    path: [Pfn; 4],
    level: Level,
    /// The page table on the path is shared.
    shared: bool,
    next: u64,
    end: u64,
    format: PhantomData<E>,
}

impl<'m, M: TableMemory, E: TableEntry> Cursor<'m, M, E> {
    /// A cursor over `start..end` below `root`. The range lies in one half of the canonical space.
    pub const fn new(memory: &'m M, root: Pfn, start: u64, end: u64) -> Self {
        Self {
            memory,
            path: [root; 4],
            level: Level::ROOT,
            shared: false,
            next: start,
            end,
            format: PhantomData,
        }
    }

    /// Goes back up as far as `next` has left the tables on the path.
    fn ascend(&mut self, from: u64) {
        while self.level < Level::ROOT {
            let table_span = self.level.shift() + 9;
            if from >> table_span == self.next >> table_span {
                return;
            }
            self.level = match self.level {
                Level::Pt => Level::Pd,
                Level::Pd => Level::Pdpt,
                Level::Pdpt | Level::Pml4 => Level::Pml4,
            };
        }
    }

    /// Moves past the entry that spans `next`.
    fn advance(&mut self) {
        let from = self.next;
        let span = self.level.span();
        self.next = (from & !(span - 1)).saturating_add(span);
        self.ascend(from);
    }
}

impl<M: TableMemory, E: TableEntry> Iterator for Cursor<'_, M, E> {
    type Item = Visit<E>;

    fn next(&mut self) -> Option<Visit<E>> {
        while self.next < self.end {
            let level = self.level;
            let at = EntryRef::new(self.path[level as usize - 1], level.index(self.next));
            let entry = E::from_bits(self.memory.load(at));
            match (entry.view(level), level.below()) {
                (View::Table(table), Some(below)) => {
                    self.path[below as usize - 1] = table;
                    self.level = below;
                    self.shared = entry.is_shared_table();
                }
                (View::Leaf(_) | View::Note(_), _) => {
                    let address = self.next & !(level.span() - 1);
                    let shared = self.shared && level == Level::Pt;
                    self.advance();
                    return Some(Visit { address, found: Found { at, level, entry, shared } });
                }
                (View::Empty | View::Table(_), _) => self.advance(),
            }
        }
        None
    }
}

/// The first entry in `start..end` that names a shared page table, with the first address that it spans.
pub fn first_shared<E: TableEntry, M: TableMemory>(
    memory: &M,
    root: Pfn,
    (start, end): (u64, u64),
) -> Option<Visit<E>> {
    let mut next = start;
    while next < end {
        let found = walk_to::<E, M>(memory, root, next, Level::Pd);
        let span = found.level.span();
        let address = next & !(span - 1);
        if found.entry.is_shared_table() {
            return Some(Visit { address, found });
        }
        next = address.saturating_add(span);
    }
    None
}
