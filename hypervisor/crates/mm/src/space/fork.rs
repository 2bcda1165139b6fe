//! fork: a second address space with the same contents (2008: `dup_mmap`, `copy_page_range`).
//!
//! ```text
//!   parent                                     child
//!   begin                                      areas linked to the reverse maps, no entries yet
//!   page-table lock: a batch of entries
//!     write-protected, frames not exclusive
//!     a reference on each for the child ─────► page-table lock: the batch is installed, read-only
//!   ... next batch
//!   primary TLBs flushed
//!   end (also when a table is missing)
//! ```
//!
//! Where a page table serves one anonymous area only, the batch is of tables: from then on parent and child share them
//! (`share.rs`), so that a fork costs what the page directories hold, and not the pages.
//!
//! The two page-table locks are never held together: between them the reference keeps a frame alive, and whoever
//! reclaims it meanwhile finds it still in use. Pages of files are not copied, they fault in again.

use super::AddressSpace;
use crate::frames::PageFlags;
use crate::gather::Gather;
use crate::host::Host;
use crate::vma::{Vma, VmaFlags, Vmas};
use addr::{Hva, HvaRange, PageSize};
use alloc::sync::Arc;
use mutants::{Mutant, RangeSite, intact};
use paging::{
    Found, HostEntry, Leaf, Level, Note, OutOfTables, Rights, TableEntry, TableReserve, View, Visit,
};

/// Entries copied between two changes of lock.
const BATCH: usize = 64;

/// Entries on their way to the child, all below one page table of it.
type Batch = [Option<(Hva, View)>; BATCH];

impl<H: Host> AddressSpace<H> {
    /// Copies the address space, copy-on-write. Takes the mmap lock for writing. The child has no subscriber
    /// (patch site `mm_init`), and none of its memory is locked.
    ///
    /// # Errors
    /// [`OutOfTables`]; the parent has lost nothing but write permissions that the next fault gives back.
    pub fn fork(&self) -> Result<Arc<Self>, OutOfTables> {
        let vmas = self.vmas.write();
        let root = self.host().allocate_root()?;
        let child = Self::build(&self.mm, root, |space| vmas.fork(space, self.mm.rmaps()));
        for vma in vmas.iter() {
            self.copy_page_range(&vmas, vma, &child)?;
        }
        Ok(child)
    }

    /// Patch site `copy_page_range`: begin and end on the parent, around copy-on-write areas only. The guard ends
    /// it on every path; v8 forgot that where a table was missing.
    fn copy_page_range(&self, vmas: &Vmas<H>, vma: &Vma<H>, child: &Self) -> Result<(), OutOfTables> {
        let nonlinear = vma.flags.contains(VmaFlags::NONLINEAR);
        if !nonlinear && vma.chain().is_none() {
            return Ok(());
        }
        let _invalidation = vma.is_cow().then(|| self.chain.invalidate(RangeSite::CopyPageRange, vma.range));
        // Dropped first, so the flush comes before the end.
        let mut gather = self.gather(RangeSite::CopyPageRange);
        let mut next = vma.range.start();
        while let Some(first) = self.first_entry(HvaRange::new(next, vma.range.end())) {
            let start = Hva::new(first.address).max(next);
            if let Some(end) = self.share_tables((vmas, vma), start, child, &mut gather)? {
                next = end;
                continue;
            }
            if first.found.shared {
                self.own_table(start)?;
            }
            let size = first.found.level.leaf_size().unwrap_or(PageSize::Size4K);
            let mut reserve = TableReserve::new(&**self.host());
            reserve.top_up(child.missing_tables(start, size))?;
            let mut batch = [None; BATCH];
            next = self.copy_batch(vma, start, first.found.level, &mut gather, &mut batch);
            child.install_batch(&batch, &mut reserve);
        }
        Ok(())
    }

    /// The first entry of a range that is not empty.
    pub(super) fn first_entry(&self, range: HvaRange) -> Option<Visit<HostEntry>> {
        let _tables = self.tables.lock();
        self.cursor(range).next()
    }

    /// Prepares entries of one level below one table for the child; where to go on.
    fn copy_batch(
        &self,
        vma: &Vma<H>,
        start: Hva,
        level: Level,
        gather: &mut Gather<'_, H>,
        batch: &mut Batch,
    ) -> Hva {
        let table_span = level.span() << 9;
        let table_end = (start.as_u64() & !(table_span - 1)).saturating_add(table_span);
        let end = Hva::try_new(table_end).map_or(vma.range.end(), |end| end.min(vma.range.end()));
        let _tables = self.tables.lock();
        let mut used = 0;
        for visit in self.cursor(HvaRange::new(start, end)) {
            if used == BATCH || visit.found.level != level {
                return Hva::new(visit.address).max(start);
            }
            let address = Hva::new(visit.address);
            if let Some(copy) = self.copy_one(vma, address, &visit.found, gather) {
                batch[used] = Some((address, copy));
                used += 1;
            }
        }
        end
    }

    /// What the child gets for one entry. A reference on each base frame goes with a counted leaf. The page-table
    /// lock is held.
    fn copy_one(
        &self,
        vma: &Vma<H>,
        address: Hva,
        found: &Found<HostEntry>,
        gather: &mut Gather<'_, H>,
    ) -> Option<View> {
        match found.view() {
            View::Note(Note::Swap(slot)) => {
                self.mm.swap().add_note(slot);
                Some(View::Note(Note::Swap(slot)))
            }
            View::Note(note) => Some(View::Note(note)),
            View::Leaf(leaf) if self.is_anonymous(vma, &leaf) => {
                for index in 0..leaf.size.base_pages() {
                    let meta = self.host().frames().meta(leaf.pfn.add(index));
                    if intact(Mutant::ForkLeavesExclusive) {
                        meta.clear(PageFlags::EXCLUSIVE);
                    }
                    meta.get();
                }
                let rights = Rights { write: false, ..leaf.rights };
                let mut last = *found;
                if leaf.rights.write && intact(Mutant::ForkLeavesWritable) {
                    last.entry = self.replace(found.at, found.entry, |entry| entry.with_rights(rights));
                    gather.touch(address, leaf.size);
                }
                // The child's entry has no D: what was written since `MADV_FREE` is the frames' to know (I7).
                if last.leaf().is_some_and(|last| last.dirty) && intact(Mutant::NoDirtyOnFork) {
                    let frames = (0..leaf.size.base_pages()).map(|index| leaf.pfn.add(index));
                    frames.for_each(|frame| self.host().frames().meta(frame).mark_dirty());
                }
                Some(View::Leaf(Leaf { rights, accessed: false, dirty: false, ..leaf }))
            }
            // A page of a file: the child's fault finds it, where the note of a non-linear area says which.
            View::Leaf(_) => match self.offset_note(found).view(Level::Pt) {
                View::Note(note) if vma.flags.contains(VmaFlags::NONLINEAR) => Some(View::Note(note)),
                _ => None,
            },
            View::Empty | View::Table(_) => None,
        }
    }

    /// Whether a leaf maps an anonymous page of the area.
    pub(super) fn is_anonymous(&self, vma: &Vma<H>, leaf: &Leaf) -> bool {
        let meta = self.mm.counted(leaf.pfn);
        let owner = meta.and_then(|meta| meta.owner());
        if meta.is_some_and(|meta| meta.has(PageFlags::MERGED)) {
            return true;
        }
        match (owner, vma.chain()) {
            (Some((owner, _)), Some(chain)) => owner == chain.id(),
            _ => false,
        }
    }

    /// Installs what [`Self::copy_batch`] has prepared. Nobody else knows the address space yet, so that nothing
    /// stands where an entry goes.
    fn install_batch(&self, batch: &Batch, reserve: &mut TableReserve<'_, H>) {
        let tables = self.tables.lock();
        for &(address, copy) in batch.iter().flatten() {
            match copy {
                View::Leaf(leaf) => {
                    let installed = self.install(&tables, address, HostEntry::EMPTY, leaf, reserve);
                    assert!(installed, "{address} of a new address space is mapped, or lacks a table");
                }
                View::Note(note) => {
                    let found = paging::walk_or_grow::<HostEntry, H>(
                        self.host(),
                        self.root,
                        address.as_u64(),
                        Level::Pt,
                        reserve,
                    );
                    assert!(found.level == Level::Pt, "{address} of a new address space lacks a table");
                    self.host().store(found.at, HostEntry::note(note).bits());
                    if matches!(note, Note::Swap(_)) {
                        self.swapped.count_copy();
                    }
                }
                View::Empty | View::Table(_) => {}
            }
        }
    }
}
