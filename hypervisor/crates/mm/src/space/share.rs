//! Page tables that several address spaces share after a fork (I18; "on-demand fork", Zhao et al., EuroSys 2021).
//!
//! ```text
//!   fork:   parent's entry ──┐  R/W clear, S set                   the table's frame counts the entries that name it
//!                            ├──► page table ──► frames            references, entries, EXCLUSIVE of the frames: once,
//!           child's entry ───┘  R/W clear, S set                   for the table, not for each who shares it
//!
//!   before this space changes anything in it:
//!     nobody else shares it any more ──► it is ours: S clear, R/W set; pages that somebody holds are exclusive no more
//!     else a copy: a reference on each frame, which is exclusive no more
//!          entry ──► copy ──► primary TLBs flushed ──► count down       (I11: nobody walks the old one from here)
//!   the last who lets go of it puts the frames and frees it
//! ```
//!
//! The count is the lock. While it is above one, nobody changes an entry below but for A, which a CPU may set and aging
//! clear; who copies keeps his share, so that it stays above one until he has done; and from one it can only be raised by the
//! space that has the share, under its page-table lock. So no lock is taken for two spaces.
//!
//! Whoever holds the mmap lock finds a table that he owns still his: fork holds that lock for writing. Whoever comes by a
//! reverse map owns the table first and looks again under the page-table lock; where it is shared again, the page stays.
//!
//! What a shared table maps is in the counts of the space that had it before the fork (C), and of nobody else.

use super::AddressSpace;
use super::entry::Tables;
use crate::frames::PageFlags;
use crate::gather::Gather;
use crate::host::Host;
use crate::mm::Mm;
use addr::{Hva, HvaRange, PageSize, Pfn};
use core::sync::atomic::Ordering;
use mutants::{Mutant, intact};
use paging::{
    EntryRef, Found, HostEntry, Leaf, Level, Note, OutOfTables, Rights, TableEntry, TableReserve, View,
    Visit, first_shared, walk_to,
};

/// Entries of a page table.
const ENTRIES: u16 = 512;
/// What a page table spans.
pub(super) const SPAN: PageSize = PageSize::Size2M;

impl<H: Host> AddressSpace<H> {
    /// Makes the page table for `address` this space's own, if it is shared. Entries in it may be changed then, as long as the
    /// mmap lock is held. Takes the page-table lock.
    ///
    /// # Errors
    /// [`OutOfTables`]; nothing has changed then.
    #[inline]
    pub(crate) fn own_table(&self, address: Hva) -> Result<(), OutOfTables> {
        if self.shares_tables() { self.own_shared(address) } else { Ok(()) }
    }

    /// The same, where some table is shared.
    #[inline(never)]
    fn own_shared(&self, address: Hva) -> Result<(), OutOfTables> {
        let mut reserve = TableReserve::new(&**self.host());
        while !self.try_own(address, &mut reserve) {
            reserve.top_up(1)?;
        }
        Ok(())
    }

    /// The same for all tables that serve a part of the range.
    ///
    /// # Errors
    /// [`OutOfTables`]; nothing has changed that anybody would notice.
    pub(super) fn own_tables(&self, range: HvaRange) -> Result<(), OutOfTables> {
        let mut next = range.start().as_u64();
        while let Some(shared) = self.first_shared(next, range).filter(|_| intact(Mutant::ModifiesShared)) {
            self.own_table(Hva::new(shared.address))?;
            next = shared.address + SPAN.bytes();
        }
        Ok(())
    }

    /// The same for the tables that lie across a bound of the range.
    ///
    /// # Errors
    /// [`OutOfTables`]; nothing has changed that anybody would notice.
    pub(super) fn own_bounds(&self, range: HvaRange) -> Result<(), OutOfTables> {
        [range.start(), range.end()]
            .into_iter()
            .filter(|bound| !bound.is_aligned(SPAN))
            .try_for_each(|bound| self.own_table(bound))
    }

    /// Whether any of its tables is shared. Who comes by a reverse map may hear of it late.
    pub(super) fn shares_tables(&self) -> bool {
        self.shared.load(Ordering::Relaxed) > 0
    }

    fn first_shared(&self, start: u64, range: HvaRange) -> Option<Visit<HostEntry>> {
        if !self.shares_tables() {
            return None;
        }
        first_shared(&**self.host(), self.root, (start, range.end().as_u64()))
    }

    /// The entry that names a shared table for `address`, and the table.
    pub(super) fn shared_at(&self, _tables: &Tables<'_>, address: Hva) -> Option<(Found<HostEntry>, Pfn)> {
        let found = walk_to::<HostEntry, H>(self.host(), self.root, address.as_u64(), Level::Pd);
        let table = found.entry.next_table().filter(|_| found.entry.is_shared_table())?;
        Some((found, table))
    }

    /// `false`: it takes a table, and the reserve is empty.
    fn try_own(&self, address: Hva, reserve: &mut TableReserve<'_, H>) -> bool {
        let tables = self.tables.lock();
        let Some((found, table)) = self.shared_at(&tables, address) else { return true };
        let alone = self.host().frames().meta(table).shares() == 1;
        let Some(own) = (if alone { Some(table) } else { reserve.take() }) else { return false };
        if alone {
            self.take_back(table);
        } else {
            self.copy_table(table, own);
        }
        if !found.entry.is_counted() {
            self.count_table(own);
        }
        self.replace(found.at, found.entry, |entry| entry.owning(own));
        self.shared.fetch_sub(1, Ordering::Relaxed);
        if alone {
            self.host().frames().meta(table).end_sharing();
        }
        // Of a copy, for the cached way to the old table (I11); of both, since others may have cleared A below what is cached.
        if intact(Mutant::OwnWithoutFlush) {
            let start = address.align_down(SPAN);
            self.flush_primary(HvaRange::new(start, start.add(SPAN.bytes())));
        }
        drop(tables);
        if !alone {
            self.mm.put_table(table);
        }
        true
    }

    /// Nobody else has the table any more. Whoever has held on to a page of it while he had it shall not see later writes: it
    /// is exclusive no more (CVE-2020-29374).
    fn take_back(&self, table: Pfn) {
        for (at, entry) in self.mm.entries(table) {
            let View::Leaf(leaf) = entry.view(Level::Pt) else { continue };
            let held = self.mm.counted(leaf.pfn).filter(|meta| meta.count() > 1);
            if let Some(meta) = held.filter(|_| intact(Mutant::TakesBackHeld)) {
                meta.clear(PageFlags::EXCLUSIVE);
                self.replace(at, entry, |entry| read_only(entry, &leaf));
            }
        }
    }

    /// Copies what is in a shared table, copy-on-write: each frame has one entry more, and is exclusive no more. D goes to the
    /// frames, which are dirty for both (I7). No CPU writes through a shared table: no flush.
    fn copy_table(&self, shared: Pfn, copy: Pfn) {
        for (at, entry) in self.mm.entries(shared) {
            let entry = match entry.view(Level::Pt) {
                View::Leaf(leaf) => self.copy_leaf(at, entry, &leaf),
                View::Note(note) => {
                    if let Note::Swap(slot) = note {
                        self.mm.swap().add_note(slot);
                    }
                    entry
                }
                View::Empty | View::Table(_) => continue,
            };
            self.host().store(EntryRef::new(copy, at.index()), entry.bits());
        }
    }

    fn copy_leaf(&self, at: EntryRef, entry: HostEntry, leaf: &Leaf) -> HostEntry {
        if let Some(meta) = self.mm.counted(leaf.pfn) {
            if intact(Mutant::OwnLeavesExclusive) {
                meta.clear(PageFlags::EXCLUSIVE);
            }
            if leaf.dirty && intact(Mutant::NoDirtyOnOwn) {
                meta.mark_dirty();
            }
            meta.get();
            meta.add_entry();
        }
        if leaf.rights.write {
            self.replace(at, entry, |entry| read_only(entry, leaf));
        }
        read_only(entry, leaf).cleaned()
    }

    /// Lets go of shared tables that serve nothing but the range, and flushes.
    pub(super) fn drop_tables(&self, range: HvaRange, gather: &mut Gather<'_, H>) {
        let tables = self.tables.lock();
        self.drop_shared(&tables, range, gather);
        gather.flush();
    }

    /// Shared tables that serve nothing but the range go, at the cost of one entry each. The gather has the shares.
    pub(super) fn drop_shared(&self, _tables: &Tables<'_>, range: HvaRange, gather: &mut Gather<'_, H>) {
        let mut next = range.start().as_u64();
        while let Some(Visit { address, found }) = self.first_shared(next, range) {
            next = address + SPAN.bytes();
            let (start, table) = (Hva::new(address), found.entry.next_table());
            let whole = HvaRange::sized(start, SPAN.bytes()).is_some_and(|span| range.contains_span(&span));
            let Some(table) = table.filter(|_| whole) else { continue };
            if found.entry.is_counted() {
                self.uncount_table(table);
            }
            self.host().store(found.at, HostEntry::EMPTY.bits());
            self.shared.fetch_sub(1, Ordering::Relaxed);
            gather.share(start, table);
        }
    }

    /// Takes what is in a table into the counts.
    fn count_table(&self, table: Pfn) {
        let (pages, notes) = self.mm.tally(table);
        self.resident.fetch_add(pages, Ordering::Relaxed);
        (0..notes).for_each(|_| self.swapped.count_copy());
    }

    fn uncount_table(&self, table: Pfn) {
        let (pages, notes) = self.mm.tally(table);
        self.resident.fetch_sub(pages, Ordering::Relaxed);
        (0..notes).for_each(|_| self.swapped.count_drop());
    }
}

/// An entry that maps the leaf, without the right to write.
fn read_only(entry: HostEntry, leaf: &Leaf) -> HostEntry {
    entry.with_rights(Rights { write: false, ..leaf.rights })
}

impl<H: Host> Mm<H> {
    /// The entries of a page table.
    fn entries(&self, table: Pfn) -> impl Iterator<Item = (EntryRef, HostEntry)> {
        (0..ENTRIES).map(move |index| {
            let at = EntryRef::new(table, index);
            (at, HostEntry::from_bits(self.host().load(at)))
        })
    }

    /// How many entries of a page table are counted as resident, and how many name a swap slot.
    fn tally(&self, table: Pfn) -> (u64, u64) {
        self.entries(table).fold((0, 0), |(pages, notes), (_, entry)| match entry.view(Level::Pt) {
            View::Leaf(leaf) if self.counted(leaf.pfn).is_some() => (pages + 1, notes),
            View::Note(Note::Swap(_)) => (pages, notes + 1),
            View::Leaf(_) | View::Note(_) | View::Empty | View::Table(_) => (pages, notes),
        })
    }

    /// Lets go of a shared table that no CPU reaches from the space any more. The last who does puts what is in it: all others
    /// have flushed before (I6).
    pub(crate) fn put_table(&self, table: Pfn) {
        if self.host().frames().meta(table).remove_share() > 0 {
            return;
        }
        for (_, entry) in self.entries(table) {
            match entry.view(Level::Pt) {
                View::Leaf(leaf) if self.remove_entries(&leaf) => self.put(leaf.pfn),
                View::Note(Note::Swap(slot)) => drop(self.swap().remove_note(slot)),
                View::Leaf(_) | View::Note(_) | View::Empty | View::Table(_) => {}
            }
        }
        self.host().free_table(table);
    }
}
