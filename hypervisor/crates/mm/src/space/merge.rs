//! What merging does to one entry. The patch of 2008 was written for it too; its two sites, by Linux's names:
//!
//! ```text
//!   write_protect_page: a candidate becomes a merged page     replace_page: a page becomes a merged one
//!     page lock, page-table lock                                both page locks, tried; page-table lock
//!     entry cleared, flushed, invalidate_page                   entry cleared, flushed, invalidate_page
//!     nobody else has it? ─ no ─► the entry returns             nobody else has it, equal? ─ no ─► the entry returns
//!     read-only, not exclusive, its own reverse map             the merged frame, read-only (I8)
//! ```
//!
//! Between the clearing and the new entry nobody can reach the page by a translation, old or new; who holds a reference (a
//! pinned transfer, fork, write-out) counts in its frame. So what is equal then stays equal.

use super::AddressSpace;
use super::age::blocks;
use super::entry::Tables;
use crate::frames::{FrameMeta, PageFlags, PageTurn};
use crate::host::Host;
use crate::merge::{MOST_SHARERS, Merged};
use crate::rmap::Rmap;
use crate::vma::{Access, VmaFlags, VmaKind, VmaTree};
use addr::{Hva, HvaRange, PageSize, Pfn};
use alloc::sync::Arc;
use mutants::{Mutant, PageSite, intact};
use paging::{Found, HostEntry, Leaf, Rights, TableEntry};
use sync::Rank;

/// Pages that are not merged, whatever they contain.
const SPECIAL: PageFlags = PageFlags::LAZY_FREE.union(PageFlags::HUGETLB).union(PageFlags::MERGED);

/// Blocks of 2 MiB that are looked at for the next page under one lock.
const BLOCKS: usize = 4;

/// Where the next page is that may be merged.
pub(crate) enum Next {
    /// Here, with a reference on its frame.
    Page(Hva, Pfn),
    /// Not below this address.
    Later(Hva),
    /// Nowhere.
    None,
}

/// A page as its area and its reverse map know it.
struct Place<'v, H: Host> {
    address: Hva,
    frame: Pfn,
    rmap: &'v Arc<Rmap<H>>,
    index: u64,
}

impl<H: Host> AddressSpace<H> {
    /// The next base page from `from` on that may be merged and is not. Takes the mmap lock for reading, and not for long.
    pub(crate) fn next_mergeable(&self, from: Hva) -> Next {
        let vmas = self.vmas.read();
        let rest = HvaRange::new(from, super::USER_END.max(from));
        let parts = vmas.overlapping(rest).filter(|(_, vma)| {
            vma.flags.contains(VmaFlags::MERGEABLE)
                && matches!(vma.kind, VmaKind::Anonymous(PageSize::Size4K))
        });
        let mut blocks = parts.flat_map(|(part, _)| blocks(part));
        let found = blocks.by_ref().take(BLOCKS).find_map(|block| {
            self.split_where_it_pays(block);
            self.unmerged_in(block)
        });
        match found {
            Some((address, frame)) => Next::Page(address, frame),
            None => blocks.next().map_or(Next::None, |block| Next::Later(block.start())),
        }
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

    fn unmerged_in(&self, block: HvaRange) -> Option<(Hva, Pfn)> {
        let _tables = self.tables.lock();
        self.cursor(block).find_map(|visit| {
            let leaf = visit.found.leaf().filter(|leaf| leaf.size == PageSize::Size4K)?;
            // Of a shared table nobody knows who all have its pages.
            let meta = self.mm.counted(leaf.pfn).filter(|_| !visit.found.shared)?;
            let mergeable = meta.map_count() == 1 && !meta.flags().intersects(SPECIAL);
            mergeable.then(|| {
                meta.get();
                (Hva::new(visit.address), leaf.pfn)
            })
        })
    }

    /// The place of a page that may be merged.
    fn place<'v>(&self, vmas: &'v VmaTree<H>, address: Hva, frame: Pfn) -> Option<Place<'v, H>> {
        let vma = vmas.find(address).filter(|vma| vma.flags.contains(VmaFlags::MERGEABLE))?;
        Some(Place { address, frame, rmap: vma.anon.get()?, index: vma.index_of(address) })
    }

    /// The entry of a page that nobody but this entry and the caller has.
    fn sole_entry(&self, tables: &Tables<'_>, place: &Place<'_, H>) -> Option<(Found<HostEntry>, Leaf)> {
        let meta = self.host().frames().meta(place.frame);
        let owned = meta.owner() == Some((place.rmap.id(), place.index));
        let plain = meta.swap_slot().is_none() && !meta.flags().intersects(SPECIAL);
        self.mapped_here(tables, place.address, place.frame).filter(|_| owned && plain && is_sole(meta))
    }

    /// Makes the page at `address` a merged one, if it equals `other`, as far as that can be seen; a reference on its frame
    /// goes with the answer.
    pub(crate) fn make_merged(&self, address: Hva, other: Pfn) -> Option<Merged<H>> {
        let vmas = self.vmas.read();
        self.own_table(address).ok()?;
        let (_, frame) = self.unmerged_in(HvaRange::new(address, address.add(PageSize::Size4K.bytes())))?;
        let likely = frame != other && self.host().equal(frame, other);
        let rmap = self
            .place(&vmas, address, frame)
            .filter(|_| likely)
            .and_then(|place| self.protect_merged(&place));
        if rmap.is_none() {
            self.mm.put(frame);
        }
        Some(Merged { frame, rmap: rmap? })
    }

    /// Site `write_protect_page`. The caller has a reference.
    fn protect_merged(&self, place: &Place<'_, H>) -> Option<Arc<Rmap<H>>> {
        let merged = self.mm.rmaps().create(Rank::Rmap);
        merged.set_sharer(Arc::clone(place.rmap), place.index);
        let meta = self.host().frames().meta(place.frame);
        let _lock = meta.lock();
        let tables = self.tables.lock();
        let (found, _) = self.sole_entry(&tables, place)?;
        let old = self.clear_flush_notify(PageSite::MergeProtect, &tables, place.address, &found);
        let leaf = old.leaf().filter(|_| is_sole(meta));
        let Some(leaf) = leaf else {
            self.host().store(old.at, old.entry.bits());
            return None;
        };
        meta.clear(PageFlags::EXCLUSIVE);
        meta.set(PageFlags::MERGED | PageFlags::DIRTY);
        meta.set_owner(merged.id(), 0);
        let rights = Rights { write: false, ..leaf.rights };
        self.host().store(old.at, old.entry.with_rights(rights).bits());
        Some(merged)
    }

    /// Makes the page at `address` the merged one, if they are equal; whether it did. The caller has references on both
    /// frames.
    pub(crate) fn become_merged(&self, address: Hva, frame: Pfn, merged: &Merged<H>) -> bool {
        let vmas = self.vmas.read();
        let owned = self.own_table(address).ok();
        let Some(place) = owned.and_then(|()| self.place(&vmas, address, frame)) else { return false };
        let turn = PageTurn::take();
        let target = self.host().frames().meta(merged.frame);
        let Some(_lock) = target.try_lock(&turn) else { return false };
        // On its way to swap, or gone from everywhere: not worth the while.
        let settled = target.swap_slot().is_none() && target.map_count() > 0;
        settled
            && merged.rmap.add_sharer(place.rmap, place.index, MOST_SHARERS)
            && self.replace_page(&turn, &place, merged.frame)
    }

    /// Makes the page at `address` the zero page, if it has nothing but zeros; whether it did. The caller has a reference.
    pub(crate) fn become_zero(&self, address: Hva, frame: Pfn) -> bool {
        let vmas = self.vmas.read();
        let owned = self.own_table(address).ok();
        let place = owned.and_then(|()| self.place(&vmas, address, frame));
        place.is_some_and(|place| self.replace_page(&PageTurn::take(), &place, self.mm.zero_page()))
    }

    /// Site `replace_page`: nobody writes to `target`.
    fn replace_page(&self, turn: &PageTurn, place: &Place<'_, H>, target: Pfn) -> bool {
        let meta = self.host().frames().meta(place.frame);
        let Some(_lock) = meta.try_lock(turn) else { return false };
        let tables = self.tables.lock();
        let Some((found, _)) = self.sole_entry(&tables, place) else { return false };
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
        let owed = self.uncount_leaf(&leaf);
        let rights = Rights { write: false, ..leaf.rights };
        let new = Leaf { pfn: target, rights, dirty: false, ..leaf };
        if let Some(meta) = self.mm.counted(target) {
            meta.get();
            self.count_leaf(&new);
        }
        self.host().store(old.at, HostEntry::leaf(new).bits());
        if !intact(Mutant::MergeReplacesFirst) {
            self.chain.invalidate_page(PageSite::MergeReplace, place.address);
        }
        drop(tables);
        if owed {
            self.mm.put(place.frame);
        }
        true
    }
}

/// Whether nobody has the page but one entry and the caller.
fn is_sole(meta: &FrameMeta) -> bool {
    meta.map_count() == 1 && (meta.count() == 2 || !intact(Mutant::MergeIgnoresReferences))
}
