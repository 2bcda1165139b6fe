//! Walks over tables of either format, and the two changes of shape: grow a path, split a huge leaf.

use crate::{EntryRef, Level, TableMemory, TableReserve};
use addr::{PageSize, Pfn};
use core::fmt;
use mutants::{Mutant, intact};

/// What a leaf allows. None at all is a leaf that keeps its frame but translates nothing (PROT_NONE).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Rights {
    /// Loads.
    pub read: bool,
    /// Stores.
    pub write: bool,
    /// Instruction fetches.
    pub execute: bool,
}

impl Rights {
    /// Nothing.
    pub const NONE: Self = Self { read: false, write: false, execute: false };
    /// Loads.
    pub const READ: Self = Self { read: true, write: false, execute: false };
    /// Loads and stores.
    pub const READ_WRITE: Self = Self { read: true, write: true, execute: false };
    /// Everything.
    pub const ALL: Self = Self { read: true, write: true, execute: true };

    /// Whether everything that `other` allows is allowed here.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        (self.read || !other.read) && (self.write || !other.write) && (self.execute || !other.execute)
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = |set, letter| if set { letter } else { '-' };
        write!(f, "{}{}{}", letter(self.read, 'r'), letter(self.write, 'w'), letter(self.execute, 'x'))
    }
}

/// A leaf, in words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// First frame that it maps.
    pub pfn: Pfn,
    /// Bytes that it maps.
    pub size: PageSize,
    /// What it allows.
    pub rights: Rights,
    /// The CPU (or, without A bits, nobody) has seen it used.
    pub accessed: bool,
    /// The CPU has seen it written through.
    pub dirty: bool,
}

/// What an entry without a frame remembers. Only host tables have such entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Note {
    /// The page was swapped out to this slot.
    Swap(u64),
    /// The page of a file that a non-linear mapping has here, in pages from the file's start.
    Offset(u64),
}

/// An entry, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum View {
    /// Nothing.
    Empty,
    /// Names a table of the level below.
    Table(Pfn),
    /// Maps frames.
    Leaf(Leaf),
    /// Maps nothing, but says where the page went.
    Note(Note),
}

/// A 64-bit entry of some format.
pub trait TableEntry: Copy + PartialEq + fmt::Debug {
    /// The bit that a processor sets when it uses the entry, whether that maps something or names a table.
    const ACCESSED: u64;
    /// The entry with these bits.
    fn from_bits(bits: u64) -> Self;
    /// The bits.
    fn bits(self) -> u64;
    /// An entry that names a table.
    fn table(table: Pfn) -> Self;
    /// An entry that maps what `leaf` says.
    fn leaf(leaf: Leaf) -> Self;
    /// What the entry means in a table of this level.
    fn view(self, level: Level) -> View;
    /// The table that the entry names, if it is in one of a level above [`Level::Pt`] and names one. What a walk
    /// asks at each level: [`Self::view`] without the rest.
    fn next_table(self) -> Option<Pfn>;
    /// Whether the entry names a table that several roots share (I18). Only host tables have such entries.
    #[inline]
    fn is_shared_table(self) -> bool {
        false
    }
    /// The number of the frame that is mapped by an entry of a page table with these bits.
    fn frame_number(bits: u64) -> u64;
}

/// Where a walk ended: at a leaf, or at the first empty entry.
#[derive(Clone, Copy, Debug)]
pub struct Found<E> {
    /// The entry's place.
    pub at: EntryRef,
    /// The level of the table it is in.
    pub level: Level,
    /// The entry.
    pub entry: E,
    /// It is in a table that several roots share: nobody changes it before he has a table of his own (I18), and a leaf
    /// allows no writes.
    pub shared: bool,
}

impl<E: TableEntry> Found<E> {
    /// What the entry means at its level, and below what led to it.
    #[must_use]
    pub fn view(&self) -> View {
        match self.entry.view(self.level) {
            View::Leaf(leaf) if self.shared => {
                View::Leaf(Leaf { rights: Rights { write: false, ..leaf.rights }, ..leaf })
            }
            view => view,
        }
    }

    /// The leaf, if the walk ended at one.
    #[must_use]
    pub fn leaf(&self) -> Option<Leaf> {
        match self.view() {
            View::Leaf(leaf) => Some(leaf),
            View::Empty | View::Table(_) | View::Note(_) => None,
        }
    }
}

/// Walks from `root` to the leaf that translates `address`, or to the empty entry where it ends.
pub fn walk<E: TableEntry, M: TableMemory>(memory: &M, root: Pfn, address: u64) -> Found<E> {
    walk_while(memory, root, address, |_, _| true)
}

/// Walks no further down than to the entry of level `lowest`.
pub fn walk_to<E: TableEntry, M: TableMemory>(
    memory: &M,
    root: Pfn,
    address: u64,
    lowest: Level,
) -> Found<E> {
    walk_level_by_level(memory, root, address, |level, _| level > lowest)
}

/// Walks no further down than to an entry that names a shared table.
#[inline(always)]
pub fn walk_owned<E: TableEntry, M: TableMemory>(memory: &M, root: Pfn, address: u64) -> Found<E> {
    walk_while(memory, root, address, |_, entry: E| !entry.is_shared_table())
}

/// The entry of a page table for `address`, where the way leads to one, as it mostly does.
#[inline(always)]
pub fn walk_to_page<E: TableEntry, M: TableMemory>(memory: &M, root: Pfn, address: u64) -> Option<Found<E>> {
    page_on_the_way(memory, root, address, |_, _| true)
}

/// Nothing is kept of a level but the table that it names.
#[inline(always)]
fn page_on_the_way<E: TableEntry, M: TableMemory>(
    memory: &M,
    root: Pfn,
    address: u64,
    descend: impl Fn(Level, E) -> bool,
) -> Option<Found<E>> {
    let mut shared = false;
    let mut next = |table, level: Level| {
        let entry = E::from_bits(memory.load(EntryRef::new(table, level.index(address))));
        shared |= entry.is_shared_table();
        entry.next_table().filter(|_| descend(level, entry))
    };
    let directories = next(root, Level::Pml4)?;
    let directory = next(directories, Level::Pdpt)?;
    let table = next(directory, Level::Pd)?;
    let at = EntryRef::new(table, Level::Pt.index(address));
    Some(Found { at, level: Level::Pt, entry: E::from_bits(memory.load(at)), shared })
}

/// What ends before a page table is walked once more.
#[inline(always)]
fn walk_while<E: TableEntry, M: TableMemory>(
    memory: &M,
    root: Pfn,
    address: u64,
    descend: impl Fn(Level, E) -> bool,
) -> Found<E> {
    match page_on_the_way(memory, root, address, &descend) {
        Some(found) => found,
        None => walk_again(memory, root, address, descend),
    }
}

#[cold]
#[inline(never)]
fn walk_again<E: TableEntry, M: TableMemory>(
    memory: &M,
    root: Pfn,
    address: u64,
    descend: impl Fn(Level, E) -> bool,
) -> Found<E> {
    walk_level_by_level(memory, root, address, descend)
}

/// The same, wherever it ends. The levels one by one, so that what depends on them is known when this is compiled: a third of the
/// instructions of a loop.
#[inline(always)]
fn walk_level_by_level<E: TableEntry, M: TableMemory>(
    memory: &M,
    root: Pfn,
    address: u64,
    descend: impl Fn(Level, E) -> bool,
) -> Found<E> {
    let look = |table, level: Level, shared| {
        let at = EntryRef::new(table, level.index(address));
        Found { at, level, entry: E::from_bits(memory.load(at)), shared }
    };
    let next = |found: &Found<E>, below| {
        let table = found.entry.next_table().filter(|_| descend(found.level, found.entry))?;
        Some(look(table, below, found.shared | found.entry.is_shared_table()))
    };
    let root = look(root, Level::Pml4, false);
    let Some(first) = next(&root, Level::Pdpt) else { return root };
    let Some(second) = next(&first, Level::Pd) else { return first };
    next(&second, Level::Pt).unwrap_or(second)
}

/// Walks to the entry of level `lowest` for `address`, linking tables from the reserve where the path ends
/// early. Ends above `lowest` only at a leaf, or at an empty entry when the reserve is empty.
///
/// Other CPUs may grow the same path, or install leaves on it: whoever comes second goes on through what he finds,
/// and keeps his table.
pub fn walk_or_grow<E: TableEntry, M: TableMemory>(
    memory: &M,
    root: Pfn,
    address: u64,
    lowest: Level,
    reserve: &mut TableReserve<'_, M>,
) -> Found<E> {
    loop {
        let found = match lowest {
            Level::Pt => walk::<E, M>(memory, root, address),
            _ => walk_to::<E, M>(memory, root, address, lowest),
        };
        let stuck = found.level > lowest && matches!(found.entry.view(found.level), View::Empty);
        let Some(table) = stuck.then(|| reserve.take()).flatten() else { return found };
        // The table was zeroed when it was allocated: a CPU that walks here sees nothing mapped.
        if !link(memory, &found, E::table(table)) && intact(Mutant::GrowthLosesTable) {
            reserve.give_back(table);
        }
    }
}

/// Writes the entry that names a new table; `false` where another CPU has written one since `found` was read.
fn link<E: TableEntry, M: TableMemory>(memory: &M, found: &Found<E>, table: E) -> bool {
    if intact(Mutant::GrowthStores) {
        return memory.compare_exchange(found.at, found.entry.bits(), table.bits()).is_ok();
    }
    memory.store(found.at, table.bits());
    true
}

/// Splits the huge leaf at `found` into 512 leaves of the next size, with the same frames, rights and A/D
/// bits: no translation changes, so no flush is needed (I9). Returns `false` where the reserve is empty.
#[must_use]
pub fn split<E: TableEntry, M: TableMemory>(
    memory: &M,
    found: &Found<E>,
    reserve: &mut TableReserve<'_, M>,
) -> bool {
    let (Some(leaf), Some(below)) = (found.leaf(), found.level.below()) else { return true };
    let (Some(size), Some(table)) = (below.leaf_size(), reserve.take()) else { return false };
    let dirty = leaf.dirty && intact(Mutant::SplitLosesDirty);
    for index in 0..crate::level::ENTRIES {
        let pfn = leaf.pfn.add(u64::from(index) * size.base_pages());
        memory.store(EntryRef::new(table, index), E::leaf(Leaf { pfn, size, dirty, ..leaf }).bits());
    }
    // What was used is found by the A bits above it, too.
    let accessed = if leaf.accessed && intact(Mutant::SplitLosesUse) { E::ACCESSED } else { 0 };
    memory.store(found.at, E::table(table).bits() | accessed);
    true
}

/// Unlinks every table below `root` that is not shared, has become empty, and whose whole span lies inside `start..end`;
/// each unlinked table goes to `unlinked`, whose owner flushes before it frees (I11).
pub fn prune<E: TableEntry, M: TableMemory>(
    memory: &M,
    root: Pfn,
    (start, end): (u64, u64),
    unlinked: &mut impl FnMut(Pfn),
) {
    prune_table::<E, M>(memory, root, Level::ROOT, (start, end), unlinked);
}

/// Prunes below one table; `true` where it is empty afterwards.
fn prune_table<E: TableEntry, M: TableMemory>(
    memory: &M,
    table: Pfn,
    level: Level,
    (start, end): (u64, u64),
    unlinked: &mut impl FnMut(Pfn),
) -> bool {
    if let Some(below) = level.below() {
        let mut address = start & !(level.span() - 1);
        while address < end {
            let at = EntryRef::new(table, level.index(address));
            let next = address + level.span();
            let entry = E::from_bits(memory.load(at));
            if let View::Table(child) = entry.view(level)
                && !entry.is_shared_table()
            {
                let inner = (start.max(address), end.min(next));
                let whole = inner == (address, next);
                if prune_table::<E, M>(memory, child, below, inner, unlinked) && whole {
                    memory.store(at, 0);
                    unlinked(child);
                }
            }
            address = next;
        }
    }
    level != Level::ROOT
        && (0..crate::level::ENTRIES).all(|index| memory.load(EntryRef::new(table, index)) == 0)
}
