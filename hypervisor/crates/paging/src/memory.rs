//! The seam to memory that holds tables, and a reserve that keeps allocation out of locks.

use crate::level::ENTRIES;
use addr::Pfn;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use mutants::{Mutant, intact};

/// The place of one entry: a table's frame and an index below 512.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct EntryRef {
    table: Pfn,
    index: u16,
}

impl EntryRef {
    /// Entry `index` of the table in frame `table`.
    ///
    /// # Panics
    /// If the index is 512 or more.
    #[must_use]
    pub const fn new(table: Pfn, index: u16) -> Self {
        assert!(index < ENTRIES, "a table has 512 entries");
        Self { table, index }
    }

    /// The frame of the table.
    #[must_use]
    pub const fn table(self) -> Pfn {
        self.table
    }

    /// The index in the table.
    #[must_use]
    pub const fn index(self) -> u16 {
        self.index
    }
}

impl fmt::Debug for EntryRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}[{}]", self.table, self.index)
    }
}

/// No frame for a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfTables;

impl fmt::Display for OutOfTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no frame left for a page table")
    }
}

/// The entries of one table, near at hand: what goes over all of them does not look for the table with each.
pub trait Entries: Copy {
    /// Reads an entry.
    fn load(self, index: u16) -> u64;

    /// Clears bits of an entry, in one access: nothing is lost that a CPU sets meanwhile.
    fn clear(self, index: u16, bits: u64);

    /// Writes `new` if the entry holds `old`.
    ///
    /// # Errors
    /// What the entry held instead.
    fn compare_exchange(self, index: u16, old: u64, new: u64) -> Result<(), u64>;
}

/// A table in memory that CPUs walk.
impl Entries for &[AtomicU64; ENTRIES as usize] {
    #[inline]
    fn load(self, index: u16) -> u64 {
        self[usize::from(index % ENTRIES)].load(Ordering::Acquire)
    }

    #[inline]
    fn clear(self, index: u16, bits: u64) {
        self[usize::from(index % ENTRIES)].fetch_and(!bits, Ordering::AcqRel);
    }

    #[inline]
    fn compare_exchange(self, index: u16, old: u64, new: u64) -> Result<(), u64> {
        let entry = &self[usize::from(index % ENTRIES)];
        entry.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).map(|_| ())
    }
}

/// A table whose entries are reached as any other.
#[derive(Debug)]
pub struct EachAlone<'m, M>(pub &'m M, pub Pfn);

impl<M> Clone for EachAlone<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for EachAlone<'_, M> {}

impl<M: TableMemory> Entries for EachAlone<'_, M> {
    fn load(self, index: u16) -> u64 {
        self.0.load(EntryRef::new(self.1, index))
    }

    fn clear(self, index: u16, bits: u64) {
        let (at, mut old) = (EntryRef::new(self.1, index), self.load(index));
        if !intact(Mutant::CollectStores) {
            return self.0.store(at, old & !bits);
        }
        while let Err(now) = self.0.compare_exchange(at, old, old & !bits) {
            old = now;
        }
    }

    fn compare_exchange(self, index: u16, old: u64, new: u64) -> Result<(), u64> {
        self.0.compare_exchange(EntryRef::new(self.1, index), old, new)
    }
}

/// Memory that holds tables. Loads and stores are single 64-bit accesses (I5): a CPU may walk the table
/// at any time.
pub trait TableMemory {
    /// One table's entries.
    type Entries<'m>: Entries
    where
        Self: 'm;

    /// The entries of the table in this frame.
    fn entries(&self, table: Pfn) -> Self::Entries<'_>;

    /// Reads an entry.
    fn load(&self, at: EntryRef) -> u64;

    /// Writes an entry.
    fn store(&self, at: EntryRef, value: u64);

    /// Writes `new` if the entry holds `old`.
    ///
    /// # Errors
    /// What the entry held instead.
    fn compare_exchange(&self, at: EntryRef, old: u64, new: u64) -> Result<(), u64>;

    /// A zeroed frame for a table.
    ///
    /// # Errors
    /// [`OutOfTables`].
    fn allocate_table(&self) -> Result<Pfn, OutOfTables>;

    /// Takes a table's frame back. No CPU may still walk it: the flush that covers it has completed (I11).
    fn free_table(&self, table: Pfn);
}

/// Tables allocated before a lock is taken, so that nothing allocates under it (I4). What is not used goes
/// back on drop.
#[derive(Debug)]
pub struct TableReserve<'m, M: TableMemory> {
    memory: &'m M,
    tables: [Pfn; 3],
    count: usize,
}

impl<'m, M: TableMemory> TableReserve<'m, M> {
    /// An empty reserve.
    pub const fn new(memory: &'m M) -> Self {
        Self { memory, tables: [Pfn::ZERO; 3], count: 0 }
    }

    /// Fills the reserve with `count` tables: three build any path below a root.
    ///
    /// # Errors
    /// [`OutOfTables`]; what was allocated stays in the reserve.
    pub fn top_up(&mut self, count: usize) -> Result<(), OutOfTables> {
        while self.count < count.min(self.tables.len()) {
            let table = self.memory.allocate_table()?;
            self.give_back(table);
        }
        Ok(())
    }

    /// A table from the reserve.
    #[inline]
    pub fn take(&mut self) -> Option<Pfn> {
        self.count = self.count.checked_sub(1)?;
        self.tables.get(self.count).copied()
    }

    /// Takes a table that is not linked anywhere, and zeroed.
    pub fn give_back(&mut self, table: Pfn) {
        match self.tables.get_mut(self.count) {
            Some(place) => {
                *place = table;
                self.count += 1;
            }
            None => self.memory.free_table(table),
        }
    }
}

impl<M: TableMemory> Drop for TableReserve<'_, M> {
    fn drop(&mut self) {
        while let Some(table) = self.take() {
            self.memory.free_table(table);
        }
    }
}
