//! Non-linear file mappings (2008: `sys_remap_file_pages`).
//!
//! An area that was rearranged is flagged: from then on an entry's page is told by the entry alone. Where no frame
//! is mapped, a note in the entry says which page belongs there. Files that are execute-in-place have none: their
//! frames do not say which page they are.

use super::map::checked_range;
use super::{AddressSpace, MapError};
use crate::gather::Gather;
use crate::host::Host;
use crate::vma::{VmaFlags, VmaKind};
use addr::{Hva, HvaRange, PAGE_SHIFT, PageSize};
use mutants::RangeSite;
use paging::{Found, HostEntry, Level, Note, TableReserve, View, walk_or_grow};

impl<H: Host> AddressSpace<H> {
    /// Makes the pages `index..` of the file appear at `start..start + len`, which lies in one shared mapping. Takes
    /// the mmap lock for writing.
    ///
    /// # Errors
    /// [`MapError::BadRange`], [`MapError::Hole`] where the range is not in one area, [`MapError::NotShared`], also for
    /// an execute-in-place file, [`MapError::OutOfTables`]: the pages before the one that lacked a table are rearranged.
    pub fn remap_file_pages(&self, start: Hva, len: u64, index: u64) -> Result<(), MapError> {
        let range = checked_range(start, len, PageSize::Size4K)?;
        let bad = MapError::BadRange { start, len, align: PageSize::Size4K };
        index.checked_add(range.len() >> PAGE_SHIFT).filter(|&end| end < 1 << 36).ok_or(bad)?;
        let mut vmas = self.vmas.write();
        let vma = vmas.find(start).filter(|vma| vma.range.contains_span(&range));
        let vma = vma.ok_or(MapError::Hole(range))?;
        // Nor files that are execute-in-place (2008: no VM_CAN_NONLINEAR): reverse maps could not find their pages.
        if !matches!(&vma.kind, VmaKind::Shared(file, _) if !file.is_direct()) {
            return Err(MapError::NotShared(range));
        }
        if !vma.flags.contains(VmaFlags::NONLINEAR) {
            let whole = vma.range;
            vmas.flag(whole, VmaFlags::NONLINEAR, VmaFlags::empty());
        }
        self.populate_range(range, index)
    }

    /// Begin and end around the re-population, as in the patch. Each entry becomes a note; touches bring the pages.
    fn populate_range(&self, range: HvaRange, index: u64) -> Result<(), MapError> {
        self.own_tables(range).map_err(|_| MapError::OutOfTables)?;
        let _invalidation = self.chain.invalidate(RangeSite::RemapFilePages, range);
        let mut gather = self.gather(RangeSite::RemapFilePages);
        for (offset, page) in range.pages().enumerate() {
            let mut reserve = TableReserve::new(&**self.host());
            let missing = self.missing_tables(page, PageSize::Size4K);
            reserve.top_up(missing).map_err(|_| MapError::OutOfTables)?;
            self.install_file_pte(page, index + offset as u64, &mut reserve, &mut gather);
        }
        Ok(())
    }

    fn install_file_pte(
        &self,
        page: Hva,
        index: u64,
        reserve: &mut TableReserve<'_, H>,
        gather: &mut Gather<'_, H>,
    ) {
        let _tables = self.tables.lock();
        let found = walk_or_grow::<HostEntry, H>(self.host(), self.root, page.as_u64(), Level::Pt, reserve);
        let note = HostEntry::note(Note::Offset(index));
        let old = self.replace(found.at, found.entry, |_| note);
        if let View::Leaf(leaf) = (Found { entry: old, ..found }).view() {
            gather.touch(page, leaf.size);
            if self.uncount_leaf(&leaf) {
                gather.frame(leaf.pfn, leaf.size);
            }
            // Before the lock is dropped: write-back finds no entry here any more (I6).
            gather.flush();
        }
    }
}
