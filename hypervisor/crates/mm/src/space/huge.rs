//! Huge pages: hugetlb, and transparent ones with split and collapse.
//!
//! The base frames of a huge page are counted one by one (`frames/meta.rs`), so a split changes entries only:
//!
//! ```text
//!                 fault in a MADV_HUGEPAGE area, collapse
//!   512 entries ◄───────────────────────────────────────► one entry, same protection
//!                 split: partial munmap, mprotect, mremap, reclaim, a copy after fork
//! ```
//!
//! A split changes no translation, so it needs no flush (I9); the secondaries are told all the same, since none of
//! them may map more in one entry than the primary tables do. A collapse moves the pages, and is announced and
//! flushed like any other change of frames.

use super::entry::{Tables, same_leaf};
use super::fault::Fault;
use super::{AddressSpace, FaultError};
use crate::frames::PageFlags;
use crate::gather::Gather;
use crate::host::{Host, OutOfFrames};
use crate::vma::{Access, Vma, VmaFlags, VmaKind};
use addr::{Hva, HvaRange, PageSize, Pfn};
use mutants::{Mutant, RangeSite, intact};
use paging::{Found, HostEntry, Leaf, Level, OutOfTables, Rights, TableEntry, TableReserve, View};
use sync::atomic::{AtomicU32, Ordering};

/// The size of transparent huge pages.
const HUGE: PageSize = PageSize::Size2M;

/// Faults map no transparent huge page while this lives.
#[must_use]
pub(super) struct Barred<'a>(&'a AtomicU32);

impl Drop for Barred<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

impl<H: Host> AddressSpace<H> {
    /// First touch of a hugetlb page.
    pub(super) fn map_huge(&self, fault: &Fault<'_, H>, size: PageSize) -> Result<(), FaultError> {
        let mut reserve = TableReserve::new(&**self.host());
        let page = fault.page.align_down(size);
        reserve.top_up(self.missing_tables(page, size))?;
        let frame = self.mm.allocate_huge(size)?;
        self.install_huge(fault, page, frame, size, &mut reserve);
        Ok(())
    }

    /// First touch in a `MADV_HUGEPAGE` area; `false` where no huge page fits: at the area's edge, among base
    /// pages, or where no frame is to be had.
    pub(super) fn map_transparent_huge(&self, fault: &Fault<'_, H>) -> Result<bool, FaultError> {
        let page = fault.page.align_down(HUGE);
        let inside =
            HvaRange::sized(page, HUGE.bytes()).is_some_and(|range| fault.vma.range.contains_span(&range));
        let vacant = self.walk_owned(fault.page).level >= Level::of_leaf(HUGE);
        if !inside || !vacant || self.is_huge_barred() {
            return Ok(false);
        }
        let mut reserve = TableReserve::new(&**self.host());
        reserve.top_up(self.missing_tables(page, HUGE))?;
        let Ok(frame) = self.host().allocate_zeroed(HUGE) else { return Ok(false) };
        self.install_huge(fault, page, frame, HUGE, &mut reserve);
        Ok(true)
    }

    fn install_huge(
        &self,
        fault: &Fault<'_, H>,
        page: Hva,
        frame: Pfn,
        size: PageSize,
        reserve: &mut TableReserve<'_, H>,
    ) {
        self.own_huge(fault, page, frame, size);
        let rights = self.rights_for(fault.vma.protection, &fault.vma.kind, frame);
        let dirty = fault.access == Access::Write;
        let leaf = Leaf { pfn: frame, size, rights, accessed: false, dirty };
        let tables = self.tables.lock();
        let barred = fault.vma.kind.page_size() == PageSize::Size4K && self.is_huge_barred();
        let installed = !barred && self.install(&tables, page, HostEntry::EMPTY, leaf, reserve);
        drop(tables);
        if !installed {
            self.mm.put_page(frame, size);
        }
    }

    fn own_huge(&self, fault: &Fault<'_, H>, page: Hva, frame: Pfn, size: PageSize) {
        let owner = fault.vma.anon.owner_id();
        let first = fault.vma.index_of(page);
        let hugetlb = fault.vma.kind.page_size() != PageSize::Size4K;
        let kind = if hugetlb { PageFlags::HUGETLB } else { PageFlags::empty() };
        for index in 0..size.base_pages() {
            let meta = self.host().frames().meta(frame.add(index));
            meta.set_owner(owner, first + index);
            let dirty = if intact(Mutant::NoDirtyOnHuge) { PageFlags::DIRTY } else { PageFlags::empty() };
            meta.set(dirty | PageFlags::EXCLUSIVE | kind);
        }
    }

    /// A write to a hugetlb page that fork has shared: copied whole. v8 did not announce it, which mainline mended
    /// in 2010; begin and end, since `invalidate_page` names a base page.
    pub(super) fn copy_huge(
        &self,
        fault: &Fault<'_, H>,
        found: &Found<HostEntry>,
        leaf: &Leaf,
        size: PageSize,
    ) -> Result<(), FaultError> {
        let page = fault.page.align_down(size);
        if self.reuse_huge(fault, found, leaf) {
            return Ok(());
        }
        // The mmap lock keeps the area, and this entry the old frames: only an unmap could clear it.
        let copy = self.mm.allocate_huge(size)?;
        let _invalidation =
            self.chain.invalidate(RangeSite::HugetlbCow, HvaRange::new(page, page.add(size.bytes())));
        let tables = self.tables.lock();
        let now = self.walk(page);
        if !same_leaf(&now, found) {
            drop(tables);
            self.mm.put_page(copy, size);
            return Ok(());
        }
        for index in 0..size.base_pages() {
            self.host().copy(leaf.pfn.add(index), copy.add(index));
        }
        self.own_huge(fault, page, copy, size);
        let old = self.clear_flush(page, &now);
        let rights = self.rights_for(fault.vma.protection, &fault.vma.kind, copy);
        let new = Leaf { pfn: copy, size, rights, accessed: false, dirty: true };
        self.count_leaf(&new);
        self.host().store(now.at, HostEntry::leaf(new).bits());
        let unmapped = old.leaf().filter(|old| self.uncount_leaf(old));
        drop(tables);
        if let Some(old) = unmapped {
            self.mm.put_page(old.pfn, old.size);
        }
        Ok(())
    }

    /// Nobody else has the page any more.
    fn reuse_huge(&self, fault: &Fault<'_, H>, found: &Found<HostEntry>, leaf: &Leaf) -> bool {
        let tables = self.tables.lock();
        let now = self.walk(fault.page);
        let metas =
            || (0..leaf.size.base_pages()).map(|index| self.host().frames().meta(leaf.pfn.add(index)));
        let alone = same_leaf(&now, found) && metas().all(|meta| meta.count() == 1);
        if alone {
            metas().for_each(|meta| meta.set(PageFlags::EXCLUSIVE | PageFlags::DIRTY));
            self.make_writable(&tables, &now);
        }
        alone
    }

    /// Until the answer is dropped no fault maps a transparent huge page. For operations that split what lies across
    /// their range and hold the mmap lock for reading only: a fault must not put a new one there meanwhile.
    pub(super) fn bar_huge_pages(&self) -> Barred<'_> {
        let _tables = self.tables.lock();
        self.huge_barred.fetch_add(1, Ordering::Relaxed);
        Barred(&self.huge_barred)
    }

    fn is_huge_barred(&self) -> bool {
        self.huge_barred.load(Ordering::Relaxed) > 0 && intact(Mutant::HugeIgnoresBar)
    }

    /// Splits the transparent huge page that lies across `bound`, if one does. The mmap lock is held.
    pub(super) fn split_straddling(&self, bound: Hva) -> Result<(), OutOfTables> {
        let leaf = self.walk_owned(bound).leaf();
        if leaf.is_some_and(|leaf| leaf.size != PageSize::Size4K && !bound.is_aligned(leaf.size)) {
            return self.split_at(bound).map_err(|_| OutOfTables);
        }
        Ok(())
    }

    /// Splits the huge page that holds `address`, if it is one. The mmap lock is held.
    pub(super) fn split_at(&self, address: Hva) -> Result<(), FaultError> {
        let mut reserve = TableReserve::new(&**self.host());
        reserve.top_up(1)?;
        let page = address.align_down(HUGE);
        let _invalidation =
            self.chain.invalidate(RangeSite::Split, HvaRange::new(page, page.add(HUGE.bytes())));
        let _tables = self.tables.lock();
        let found = self.walk(address);
        if found.leaf().is_some_and(|leaf| leaf.size == HUGE) {
            let split = paging::split(&**self.host(), &found, &mut reserve);
            debug_assert!(split, "the reserve holds a table");
        }
        Ok(())
    }

    /// Splits every transparent huge page in `range`, which lies in one area. The mmap lock is held.
    pub(super) fn split_all(&self, vma: &Vma<H>, range: HvaRange) -> Result<(), OutOfTables> {
        if vma.kind.page_size() != PageSize::Size4K {
            return Ok(());
        }
        let mut next = range.start();
        loop {
            let huge = {
                let _tables = self.tables.lock();
                let mut leaves = self.cursor(HvaRange::new(next, range.end()));
                leaves.find(|visit| visit.found.level == Level::of_leaf(HUGE))
            };
            let Some(huge) = huge else { return Ok(()) };
            let page = Hva::new(huge.address);
            self.split_at(page).map_err(|_| OutOfTables)?;
            next = page.add(HUGE.bytes()).min(range.end());
        }
    }

    /// `MADV_COLLAPSE`, and what khugepaged does: makes one huge page of the base pages at `address`. `false` where
    /// they cannot be one: holes, pages that somebody else has or works on, another area. Takes the mmap lock for
    /// writing: the page table goes.
    ///
    /// # Errors
    /// [`OutOfFrames`]; nothing has changed then.
    pub fn collapse(&self, address: Hva) -> Result<bool, OutOfFrames> {
        let page = address.align_down(HUGE);
        let Some(range) = HvaRange::sized(page, HUGE.bytes()) else { return Ok(false) };
        let vmas = self.vmas.write();
        let Some(vma) = vmas.find(page).filter(|vma| collapsible(vma, range)) else { return Ok(false) };
        if self.own_table(page).is_err() || !self.are_sole(&self.tables.lock(), vma, range) {
            return Ok(false);
        }
        let huge = self.host().allocate_zeroed(HUGE)?;
        // The mmap lock keeps faults out, begin keeps the secondaries out; only reclaim can change an entry still.
        let invalidation = self.chain.invalidate(RangeSite::Collapse, range);
        let mut gather = self.gather(RangeSite::Collapse);
        let moved = self.move_to_huge(vma, range, huge, &mut gather);
        gather.flush();
        drop(invalidation);
        gather.settle();
        if !moved {
            self.mm.put_page(huge, HUGE);
        }
        Ok(moved)
    }

    /// Whether each base page of a range is there, and nobody else has it or works on it.
    fn are_sole(&self, _tables: &Tables<'_>, vma: &Vma<H>, range: HvaRange) -> bool {
        let sole = |visit: paging::Visit<HostEntry>| {
            visit.found.leaf().is_some_and(|leaf| {
                let meta = self.mm.counted(leaf.pfn).filter(|_| self.is_anonymous(vma, &leaf));
                leaf.size == PageSize::Size4K
                    && meta.is_some_and(|meta| meta.has(PageFlags::EXCLUSIVE) && meta.count() == 1)
            })
        };
        let mut count = 0;
        self.cursor(range).inspect(|_| count += 1).all(sole) && count == HUGE.base_pages()
    }

    /// Copies the pages and puts one entry in place of their table. Under one hold of the page-table lock: the
    /// entries are made unwritable and flushed before they are copied.
    fn move_to_huge(&self, vma: &Vma<H>, range: HvaRange, huge: Pfn, gather: &mut Gather<'_, H>) -> bool {
        let tables = self.tables.lock();
        if !self.are_sole(&tables, vma, range) {
            return false;
        }
        if intact(Mutant::CollapseCopiesWritable) {
            for visit in self.cursor(range) {
                self.replace(visit.found.at, visit.found.entry, |entry| entry.with_rights(Rights::NONE));
            }
        }
        if intact(Mutant::NoFlushBeforeCollapse) {
            self.flush_primary(range);
        }
        for (index, visit) in self.cursor(range).enumerate() {
            let Some(leaf) = visit.found.leaf() else { continue };
            let (old, new) = (self.host().frames().meta(leaf.pfn), huge.add(index as u64));
            self.host().copy(leaf.pfn, new);
            let meta = self.host().frames().meta(new);
            if let Some((owner, place)) = old.owner() {
                meta.set_owner(owner, place);
            }
            let dirty = if intact(Mutant::NoDirtyOnCollapse) { PageFlags::DIRTY } else { PageFlags::empty() };
            meta.set(dirty | PageFlags::EXCLUSIVE);
        }
        self.replace_table(vma, range, huge, gather);
        true
    }

    /// Unlinks the page table of a range and maps the huge page instead; the old frames and the table go to the
    /// gather (I11).
    fn replace_table(&self, vma: &Vma<H>, range: HvaRange, huge: Pfn, gather: &mut Gather<'_, H>) {
        let at = paging::walk_to::<HostEntry, H>(
            self.host(),
            self.root,
            range.start().as_u64(),
            Level::of_leaf(HUGE),
        );
        let View::Table(table) = at.view() else { return };
        // The table is unlinked before its entries are read: nobody finds them any more. A CPU that has cached the way to
        // it finds entries without rights, and faults, until the gather's flush.
        self.host().store(at.at, HostEntry::EMPTY.bits());
        for index in 0..HUGE.base_pages() as u16 {
            let entry = HostEntry::from_bits(self.host().load(paging::EntryRef::new(table, index)));
            if let View::Leaf(leaf) = entry.view(Level::Pt)
                && self.uncount_leaf(&leaf)
            {
                gather.frame(leaf.pfn, leaf.size);
            }
        }
        let rights = self.rights_for(vma.protection, &vma.kind, huge);
        let leaf = Leaf { pfn: huge, size: HUGE, rights, accessed: false, dirty: true };
        self.count_leaf(&leaf);
        self.host().store(at.at, HostEntry::leaf(leaf).bits());
        gather.table(range.start(), table);
    }
}

fn collapsible<H: Host>(vma: &Vma<H>, range: HvaRange) -> bool {
    vma.range.contains_span(&range)
        && matches!(vma.kind, VmaKind::Anonymous(PageSize::Size4K))
        && !vma.flags.contains(VmaFlags::NO_HUGE)
}
