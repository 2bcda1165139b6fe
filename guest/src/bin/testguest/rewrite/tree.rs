//! One processor's tables, below two roots that all have in common. Each level has a few tables, and any entry may name any of the next
//! level's, so that a table is reached by several ways, or by none.
//!
//! ```text
//!   root 0 ─┐                 PDPT 0 ─┐           PD 0 ─┐            PT 0 ─┐
//!   root 1 ─┴─ [1 + owner] ─► PDPT 1 ─┴─ [0, 1] ─► PD 1 ─┼─ [0..4] ─► PT 1 ─┼─ [0..7] ─► a data page
//!                                                 PD 2 ─┘    │       PT 2 ─┤      [7] ─► one of these tables: a mirror, the owner's alone
//!                                                            │       PT 3 ─┘
//!                                                            └─► a large page of data
//! ```
//!
//! Page n of the 64 that a tree maps: bit 5 is its index into a PDPT, bits 3 and 4 into a PD, bits 0 to 2 into a PT.

use guest::memory::Pages;

pub(super) const PRESENT: u64 = 1 << 0;
pub(super) const WRITABLE: u64 = 1 << 1;
pub(super) const ACCESSED: u64 = 1 << 5;
pub(super) const DIRTY: u64 = 1 << 6;
pub(super) const LARGE: u64 = 1 << 7;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// Pages that a tree maps.
pub(super) const PAGES: u64 = 64;
/// Tables of each level below the root, entries that are used in each, and where the tables of a level begin among all.
pub(super) const TABLES: [u64; 4] = [2, 2, 3, 4];
pub(super) const ENTRIES: [u64; 4] = [1, 2, 4, 8];
const FIRST: [u64; 4] = [0, 0, 2, 5];
/// Tables of a tree.
pub(super) const TREE: u64 = 9;
pub(super) const ROOTS: u64 = 2;
/// Index into a PT of pages that show tables.
pub(super) const MIRROR: u64 = 7;

/// Where a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Leaf {
    pub(super) frame: u64,
    pub(super) write: bool,
}

/// An entry of a tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// 0: a root.
    pub(super) level: usize,
    pub(super) table: u64,
    pub(super) index: u64,
}

/// A tree among those of all processors.
#[derive(Clone, Copy)]
pub(super) struct Tree<'a> {
    pub(super) roots: &'a Pages,
    /// Those of all processors, one after the other.
    pub(super) tables: &'a Pages,
    pub(super) owner: u64,
}

/// The linear address of a page.
pub(super) fn linear(owner: u64, page: u64) -> u64 {
    (owner + 1) << 39 | (page >> 5) << 30 | (page >> 3 & 3) << 21 | (page & 7) << 12
}

impl Tree<'_> {
    fn page(&self, place: Place) -> (u64, u64) {
        match place.level {
            0 => (place.table, self.owner + 1),
            level => (self.owner * TREE + FIRST[level] + place.table, place.index),
        }
    }

    pub(super) fn read(&self, place: Place) -> u64 {
        let (page, index) = self.page(place);
        if place.level == 0 { self.roots.read(page, index) } else { self.tables.read(page, index) }
    }

    pub(super) fn write(&self, place: Place, entry: u64) {
        let (page, index) = self.page(place);
        if place.level == 0 {
            self.roots.write(page, index, entry);
        } else {
            self.tables.write(page, index, entry);
        }
    }

    /// Where the table of an entry lies, and how far into it the entry is; those of the roots have no mirror.
    pub(super) fn address(&self, place: Place) -> Option<(u64, u64)> {
        let (page, index) = self.page(place);
        (place.level > 0).then(|| (self.tables.page(page).as_u64(), index * 8))
    }

    /// The frame of a table.
    pub(super) fn table(&self, level: usize, table: u64) -> u64 {
        self.tables.page(self.owner * TREE + FIRST[level] + table).as_u64()
    }

    /// Whether a frame is one of the tree's tables.
    pub(super) fn is_table(&self, frame: u64) -> bool {
        let first = self.tables.page(self.owner * TREE).as_u64();
        (first..first + (TREE << 12)).contains(&frame)
    }

    /// The table that an entry names.
    fn below(&self, level: usize, entry: u64) -> u64 {
        (entry & FRAME).wrapping_sub(self.table(level, 0)) >> 12
    }

    /// What a page is by now, from a root on.
    pub(super) fn walk(&self, root: u64, page: u64) -> Option<Leaf> {
        let indices = [0, page >> 5, page >> 3 & 3, page & 7];
        let (mut table, mut write) = (root, true);
        for (level, index) in indices.into_iter().enumerate() {
            let entry = self.read(Place { level, table, index });
            if entry & PRESENT == 0 {
                return None;
            }
            write &= entry & WRITABLE != 0;
            if level == 2 && entry & LARGE != 0 {
                return Some(Leaf { frame: (entry & FRAME) + (indices[3] << 12), write });
            }
            if level == 3 {
                return Some(Leaf { frame: entry & FRAME, write });
            }
            table = self.below(level + 1, entry);
            // An owner may be about to write an entry that another processor reads here: whole, in any case.
            if table >= TABLES[level + 1] {
                return None;
            }
        }
        None
    }

    /// Which pages are reached by an entry, from whichever root, as a mask.
    pub(super) fn pages_through(&self, place: Place) -> u64 {
        (0..ROOTS).fold(0, |mask, root| {
            let at = Place { level: 0, table: root, index: 0 };
            mask | if place == at { u64::MAX } else { self.through(at, 0, PAGES, place) }
        })
    }

    /// The same below an entry for the `count` pages from `first` on.
    fn through(&self, from: Place, first: u64, count: u64, place: Place) -> u64 {
        let entry = self.read(from);
        if entry & PRESENT == 0 || from.level == 3 || from.level == 2 && entry & LARGE != 0 {
            return 0;
        }
        let level = from.level + 1;
        let (table, each) = (self.below(level, entry), count / ENTRIES[level]);
        if level == place.level {
            let is_it = table == place.table;
            return if is_it { mask(first + place.index * each, each) } else { 0 };
        }
        (0..ENTRIES[level]).fold(0, |mask, index| {
            mask | self.through(Place { level, table, index }, first + index * each, each, place)
        })
    }
}

fn mask(first: u64, count: u64) -> u64 {
    (u64::MAX >> (64 - count)) << first
}
