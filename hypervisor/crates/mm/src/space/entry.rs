//! Single changes of primary entries: each one atomic access (I5), each under the page-table lock.

use super::AddressSpace;
use crate::frames::{FrameMeta, GROUP};
use crate::host::Host;
use crate::mm::Mm;
use crate::vma::{Protection, VmaKind};
use addr::{Hva, HvaRange, PageSize, Pfn};
use core::sync::atomic::Ordering;
use mutants::{Mutant, PageSite, intact};
use paging::{
    EntryRef, FlushScope, Found, HostEntry, Leaf, Level, Rights, TableEntry, TableReserve, walk_or_grow,
};

/// What a page-table lock that is held lets do. The value proves that it is.
pub(super) type Tables<'a> = sync::MutexGuard<'a, ()>;

impl<H: Host> AddressSpace<H> {
    /// Replaces one live entry and returns what it was. The page-table lock is held: only the CPU's own
    /// updates of A and D can interfere, and none of them is lost.
    pub(super) fn replace(
        &self,
        at: EntryRef,
        seen: HostEntry,
        change: impl Fn(HostEntry) -> HostEntry,
    ) -> HostEntry {
        let mut old = seen;
        while let Err(now) = self.host().compare_exchange(at, old.bits(), change(old).bits()) {
            old = HostEntry::from_bits(now);
        }
        old
    }

    /// An entry that a look has found, as it is by now. The mmap lock is held since, so that its table, which nobody shares, still
    /// is where it was.
    pub(super) fn again(&self, _tables: &Tables<'_>, found: &Found<HostEntry>) -> Found<HostEntry> {
        Found { entry: HostEntry::from_bits(self.host().load(found.at)), ..*found }
    }

    /// Writes a leaf where the entry for `address` still is what `seen` was, and counts it. The entry takes over
    /// the caller's reference on each base frame. `false`: somebody was faster, and the reference stays the
    /// caller's.
    pub(super) fn install(
        &self,
        _tables: &Tables<'_>,
        address: Hva,
        seen: HostEntry,
        leaf: Leaf,
        reserve: &mut TableReserve<'_, H>,
    ) -> bool {
        let lowest = Level::of_leaf(leaf.size);
        let mut found = self.walk(address);
        if found.level > lowest {
            found = walk_or_grow::<HostEntry, H>(self.host(), self.root, address.as_u64(), lowest, reserve);
        }
        let expected = found.level == lowest && found.entry == seen;
        debug_assert!(!found.shared, "{address} is to change in a shared table (I18)");
        if expected {
            self.count_leaf(&leaf);
            // Not present to present: no CPU can have cached the entry, no flush (SDM vol. 3A 4.10.4.3).
            self.host().store(found.at, HostEntry::leaf(leaf).bits());
        }
        expected
    }

    /// Counts an entry that is about to be written.
    pub(super) fn count_leaf(&self, leaf: &Leaf) {
        let Some(meta) = self.mm.counted(leaf.pfn) else { return };
        match leaf.size {
            PageSize::Size4K => meta.add_entry(),
            size => self.host().frames().metas(leaf.pfn, size).iter().for_each(FrameMeta::add_entry),
        }
        self.count_pages(leaf.size.base_pages());
    }

    /// So many base pages are resident besides.
    #[inline]
    pub(super) fn count_pages(&self, pages: u64) {
        self.resident.fetch_add(pages, Ordering::Relaxed);
    }

    /// Takes an entry that was cleared out of the count; whether the caller owes a reference on each base frame.
    #[must_use = "the entry's references are the caller's now"]
    pub(super) fn uncount_leaf(&self, leaf: &Leaf) -> bool {
        let counted = self.mm.remove_entries(leaf);
        if counted {
            self.resident.fetch_sub(leaf.size.base_pages(), Ordering::Relaxed);
        }
        counted
    }

    /// Clears a live entry and flushes the primary TLBs; the secondaries are the caller's to tell. What the entry
    /// was, with its last A and D.
    pub(super) fn clear_flush(&self, address: Hva, found: &Found<HostEntry>) -> Found<HostEntry> {
        let entry = self.replace(found.at, found.entry, |_| HostEntry::EMPTY);
        if intact(Mutant::NoFlushOfCleared) {
            self.flush_primary(HvaRange::new(address, address.add(found.level.span())));
        }
        Found { entry, ..*found }
    }

    /// `ptep_clear_flush_notify` of the patch: the entry is cleared, the primary TLBs flushed, and then every
    /// subscriber has lost the page. Only now may a new entry be set (I8) or the frame be put (I6).
    pub(super) fn clear_flush_notify(
        &self,
        site: PageSite,
        _tables: &Tables<'_>,
        address: Hva,
        found: &Found<HostEntry>,
    ) -> Found<HostEntry> {
        let old = self.clear_flush(address, found);
        self.chain.invalidate_page(site, address);
        old
    }

    pub(super) fn flush_primary(&self, range: HvaRange) {
        self.host().flush(FlushScope::Primary { root: self.root, range });
    }

    /// The rights of an entry for a frame in an area: writable only where a write needs no more thought (I7).
    pub(super) fn rights_for(&self, protection: Protection, kind: &VmaKind<H>, frame: Pfn) -> Rights {
        let most = protection.rights();
        let is_zero = || frame == self.mm.zero_page();
        let writable = if kind.is_private() {
            self.host().frames().are_exclusive()(frame) && !is_zero()
        } else {
            match self.mm.counted(frame) {
                Some(meta) => meta.is_dirty() || !intact(Mutant::SharedMappedWritable),
                // An execute-in-place frame; the zero page never.
                None => !is_zero(),
            }
        };
        if most.write && !writable { Rights::READ } else { most }
    }

    /// Tables that an entry of `size` at `address` may need. By a lock-free walk: the mmap lock keeps tables from
    /// vanishing.
    pub(super) fn missing_tables(&self, address: Hva, size: PageSize) -> usize {
        (self.walk_owned(address).level as usize).saturating_sub(Level::of_leaf(size) as usize)
    }
}

impl<H: Host> Mm<H> {
    /// One entry of a page table less maps this frame; as [`Self::remove_entries`].
    #[inline]
    #[must_use = "the entry's reference is the caller's now"]
    pub(super) fn remove_page(&self, frame: Pfn) -> bool {
        let Some(meta) = self.counted(frame) else { return false };
        self.remove_from(meta);
        true
    }

    /// One entry less maps the frame with this metadata; its reference is the caller's now.
    #[inline]
    pub(super) fn remove_from(&self, meta: &FrameMeta) {
        if meta.remove_entry() == 0
            && let Some(slot) = meta.swap_slot()
        {
            self.note_unmapped(slot);
        }
    }

    /// Apart, so that loops over entries are short.
    #[cold]
    #[inline(never)]
    fn note_unmapped(&self, slot: u64) {
        self.swap().unmapped(slot);
    }

    /// One entry less maps these frames; whether they are counted, and the caller owes a reference on each.
    #[must_use = "the entry's references are the caller's now"]
    pub(super) fn remove_entries(&self, leaf: &Leaf) -> bool {
        if leaf.size == PageSize::Size4K {
            return self.remove_page(leaf.pfn);
        }
        if self.counted(leaf.pfn).is_none() {
            return false;
        }
        let (groups, _) = self.host().frames().metas(leaf.pfn, leaf.size).as_chunks::<GROUP>();
        groups.iter().for_each(|group| group.iter().for_each(|meta| self.remove_from(meta)));
        true
    }
}

/// Whether two entries map the same frame with the same rights, whatever their A and D; or are the same otherwise.
pub(super) fn same_leaf(a: &Found<HostEntry>, b: &Found<HostEntry>) -> bool {
    let used = |entry: HostEntry| entry.aged().cleaned();
    used(a.entry) == used(b.entry) && (a.level, a.shared) == (b.level, b.shared)
}
