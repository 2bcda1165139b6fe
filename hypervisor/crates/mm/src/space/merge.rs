//! What merging does to one entry. The patch of 2008 was written for it too; its two sites, by Linux's names:
//!
//! ```text
//!   write_protect_page: a candidate becomes a merged page     replace_page: a page becomes a merged one
//!     page-table lock; page lock, tried                         the merged one's page lock, the same
//!     entry cleared, flushed, invalidate_page                   entry cleared, flushed, invalidate_page
//!     nobody else has it? ─ no ─► the entry returns             nobody else has it, equal? ─ no ─► the entry returns
//!     read-only, not exclusive, a number of the book            the merged frame, read-only (I8)
//! ```
//!
//! Between the clearing and the new entry nobody can reach the page by a translation, old or new; who holds a reference (a
//! pinned transfer, fork, write-out) counts in its frame, and the entry's is all that merging itself has. So what is equal then
//! stays equal.

use super::AddressSpace;
use super::age::blocks;
use crate::frames::{FrameMeta, PageFlags, PageTurn, TriedLock};
use crate::host::Host;
use crate::merge::{Added, Looked, MOST_SHARERS, Merged, Page, Sharer};
use crate::rmap::RmapId;
use crate::vma::{Access, VmaFlags, VmaKind, Vmas};
use addr::{Hva, HvaRange, PAGE_SHIFT, PageSize, Pfn};
use mutants::{Mutant, PageSite, intact};
use paging::{Entries, Found, HostEntry, Leaf, Level, Rights, TableEntry, walk_to};

/// Pages that are not merged, whatever they contain.
const SPECIAL: PageFlags = PageFlags::LAZY_FREE.union(PageFlags::HUGETLB).union(PageFlags::MERGED);

/// Blocks of 2 MiB without such a page that are passed over at a time.
const BLOCKS: usize = 4;

/// A page as its area and its reverse map know it.
struct Place {
    address: Hva,
    frame: Pfn,
    rmap: RmapId,
    index: u64,
}

impl<H: Host> AddressSpace<H> {
    /// Looks at base pages from `from` on that may be merged and are not, as many as `looked` has room for; where the next look
    /// begins, or nowhere. Takes the mmap lock for reading, and not for long.
    pub(crate) fn look_from(&self, from: Hva, looked: &mut Looked) -> Option<Hva> {
        let vmas = self.vmas.read();
        let rest = HvaRange::new(from, super::USER_END.max(from));
        let parts = vmas.overlapping(rest).filter(|(_, vma)| {
            vma.flags.contains(VmaFlags::MERGEABLE)
                && matches!(vma.kind, VmaKind::Anonymous(PageSize::Size4K))
        });
        let mut next = None;
        for block in parts.flat_map(|(part, _)| blocks(part)).take(BLOCKS) {
            self.split_where_it_pays(block);
            next = Some(self.look_in(block, looked));
            if !looked.is_empty() {
                break;
            }
        }
        next
    }

    /// The same in one block; where the next look begins.
    fn look_in(&self, block: HvaRange, looked: &mut Looked) -> Hva {
        let _tables = self.tables.lock();
        let above = walk_to::<HostEntry, H>(self.host(), self.root, block.start().as_u64(), Level::Pd);
        // Of a shared table nobody knows who all have its pages.
        let own = above.level == Level::Pd && !above.entry.is_shared_table();
        let Some(table) = above.entry.next_table().filter(|_| own) else { return block.end() };
        let entries = self.host().entries(table);
        let first = Level::Pt.index(block.start().as_u64());
        for (index, place) in (first..).zip(0..block.len() >> PAGE_SHIFT) {
            let entry = HostEntry::from_bits(entries.load(index));
            if !entry.is_page() {
                continue;
            }
            let frame = entry.page();
            let Some(meta) = self.unmerged(frame) else { continue };
            let page = block.start().add(place << PAGE_SHIFT);
            if looked.is_full() {
                return page;
            }
            looked.look(meta, (page, frame), self.host().checksum(frame));
        }
        block.end()
    }

    /// A frame that one entry has, and that may be merged.
    #[inline]
    fn unmerged(&self, frame: Pfn) -> Option<&FrameMeta> {
        let meta = self.mm.counted(frame)?;
        (!meta.flags().intersects(SPECIAL) && meta.map_count() == 1).then_some(meta)
    }

    /// Whether a page is one that merging has made: one for several, or the zero page.
    pub fn is_merged(&self, address: Hva) -> bool {
        let _tables = self.tables.lock();
        let leaf = self.walk(address).leaf();
        leaf.is_some_and(|leaf| match self.mm.counted(leaf.pfn) {
            Some(meta) => meta.has(PageFlags::MERGED),
            None => leaf.pfn == self.mm.zero_page(),
        })
    }

    /// Merged pages of a range become what they were, pages of this area alone, as if they were written (Linux:
    /// `unmerge_ksm_pages`). What must not be written stays merged, and so does what no frame is there for.
    pub(super) fn part_merged(&self, range: HvaRange) {
        for block in blocks(range) {
            let mut rest = block;
            while let Some(page) = self.merged_in(rest) {
                let _ = self.fault_in(page, Access::Write);
                rest = HvaRange::new(page.add(PageSize::Size4K.bytes()), block.end());
            }
        }
    }

    fn merged_in(&self, block: HvaRange) -> Option<Hva> {
        let _tables = self.tables.lock();
        self.cursor(block).find_map(|visit| {
            let meta = self.mm.counted(visit.found.leaf()?.pfn)?;
            meta.has(PageFlags::MERGED).then(|| Hva::new(visit.address))
        })
    }

    /// The place of a page that may be merged.
    fn place(&self, vmas: &Vmas<H>, address: Hva, frame: Pfn) -> Option<Place> {
        let vma = vmas.find(address).filter(|vma| vma.flags.contains(VmaFlags::MERGEABLE))?;
        Some(Place { address, frame, rmap: vma.anon.id(), index: vma.index_of(address) })
    }

    /// A page that nobody but this entry has, and its lock, if it is free. The entry keeps the page.
    fn sole_page<'a>(
        &'a self,
        turn: &'a PageTurn,
        found: &Found<HostEntry>,
        place: &Place,
    ) -> Option<(&'a FrameMeta, TriedLock<'a>)> {
        let leaf = found.leaf()?;
        if leaf.size != PageSize::Size4K || leaf.pfn != place.frame || found.shared {
            return None;
        }
        let meta = self.unmerged(place.frame)?;
        let owned = meta.owner() == Some((place.rmap, place.index));
        let lock = meta.try_lock(turn).filter(|_| owned)?;
        (meta.swap_slot().is_none() && is_sole(meta)).then_some((meta, lock))
    }

    /// Makes the page at `address` a merged one, if it is another one than that in frame `like`, and seems equal; a reference on its
    /// frame goes with the answer. The caller holds `like`.
    pub(crate) fn make_merged(&self, address: Hva, like: Pfn) -> Option<Merged> {
        let vmas = self.vmas.read();
        self.own_table(address).ok()?;
        let vma = vmas.find(address).filter(|vma| vma.flags.contains(VmaFlags::MERGEABLE))?;
        let (rmap, index) = (vma.anon.id(), vma.index_of(address));
        let host = &**self.host();
        let page = self.mm.book().begin(host, Sharer::new(rmap, index)?)?;
        let frame = self.protect_merged((address, rmap, index), like, page);
        if frame.is_none() {
            self.mm.book().end(host, page);
        }
        Some(Merged { frame: frame?, page })
    }

    /// Site `write_protect_page`: the frame that is `page` now. The caller gets a reference on it.
    fn protect_merged(
        &self,
        (address, rmap, index): (Hva, RmapId, u64),
        like: Pfn,
        page: RmapId,
    ) -> Option<Pfn> {
        let turn = PageTurn::take();
        let tables = self.tables.lock();
        let found = self.walk(address);
        let frame = found.leaf()?.pfn;
        let place = Place { address, frame, rmap, index };
        let (meta, _lock) = self.sole_page(&turn, &found, &place).filter(|_| frame != like)?;
        if intact(Mutant::MergeGuesses) && !self.host().equal(frame, like) {
            return None;
        }
        let old = self.clear_flush_notify(PageSite::MergeProtect, &tables, address, &found);
        let leaf = old.leaf().filter(|_| is_sole(meta));
        let Some(leaf) = leaf else {
            self.host().store(old.at, old.entry.bits());
            return None;
        };
        meta.get();
        meta.clear(PageFlags::EXCLUSIVE);
        meta.set(PageFlags::MERGED | PageFlags::DIRTY);
        meta.set_owner(page, 0);
        let rights = Rights { write: false, ..leaf.rights };
        self.host().store(old.at, old.entry.with_rights(rights).bits());
        Some(frame)
    }

    /// Makes a page the merged one, if they are equal; whether it did. The caller has a reference on the merged one.
    pub(crate) fn become_merged(&self, page: &Page, merged: &Merged) -> bool {
        let vmas = self.vmas.read();
        let owned = self.own_table(page.address).ok();
        let place = owned.and_then(|()| self.place(&vmas, page.address, page.frame));
        let Some((sharer, place)) =
            place.and_then(|place| Some((Sharer::new(place.rmap, place.index)?, place)))
        else {
            return false;
        };
        let turn = PageTurn::take();
        let target = self.host().frames().meta(merged.frame);
        let Some(_lock) = target.try_lock(&turn) else { return false };
        // On its way to swap, or gone from everywhere: not worth the while.
        if target.swap_slot().is_some() || target.map_count() == 0 {
            return false;
        }
        let (book, host) = (self.mm.book(), &**self.host());
        if !intact(Mutant::BookAddsLate) {
            let replaced = self.replace_page(&turn, &place, merged.frame);
            return replaced && book.add(host, merged.page, sharer, MOST_SHARERS) != Added::Refused;
        }
        let added = book.add(host, merged.page, sharer, MOST_SHARERS);
        let replaced = added != Added::Refused && self.replace_page(&turn, &place, merged.frame);
        if added == Added::New && !replaced {
            book.drop_newest(host, merged.page);
        }
        replaced
    }

    /// Makes a page the zero page, if it has nothing but zeros; whether it did.
    pub(crate) fn become_zero(&self, page: &Page) -> bool {
        let vmas = self.vmas.read();
        let owned = self.own_table(page.address).ok();
        let place = owned.and_then(|()| self.place(&vmas, page.address, page.frame));
        place.is_some_and(|place| self.replace_page(&PageTurn::take(), &place, self.mm.zero_page()))
    }

    /// Site `replace_page`: nobody writes to `target`.
    fn replace_page(&self, turn: &PageTurn, place: &Place, target: Pfn) -> bool {
        let tables = self.tables.lock();
        let found = self.walk(place.address);
        let Some((meta, lock)) = self.sole_page(turn, &found, place) else { return false };
        let equal = || self.host().equal(place.frame, target);
        let seen = intact(Mutant::MergeComparesWritable) || equal();
        let old = match intact(Mutant::MergeReplacesFirst) {
            true => self.clear_flush_notify(PageSite::MergeReplace, &tables, place.address, &found),
            false => self.clear_flush(place.address, &found),
        };
        let equal_now = || if intact(Mutant::MergeComparesWritable) { equal() } else { seen };
        let leaf = old.leaf().filter(|_| is_sole(meta) && equal_now());
        let Some(leaf) = leaf else {
            self.host().store(old.at, old.entry.bits());
            return false;
        };
        let owed = match self.mm.counted(target) {
            // One goes, one comes: as many are resident as before.
            Some(target) => {
                target.get();
                target.add_entry();
                self.mm.remove_page(place.frame)
            }
            None => self.uncount_leaf(&leaf),
        };
        let rights = Rights { write: false, ..leaf.rights };
        let new = Leaf { pfn: target, rights, dirty: false, ..leaf };
        self.host().store(old.at, HostEntry::leaf(new).bits());
        if !intact(Mutant::MergeReplacesFirst) {
            self.chain.invalidate_page(PageSite::MergeReplace, place.address);
        }
        drop(tables);
        drop(lock);
        if owed {
            self.mm.put(place.frame);
        }
        true
    }
}

/// Whether nobody has the page but one entry.
fn is_sole(meta: &FrameMeta) -> bool {
    meta.map_count() == 1 && (meta.count() == 1 || !intact(Mutant::MergeIgnoresReferences))
}
