//! Changes of many primary entries at once, each a single atomic access (I5).

use super::AddressSpace;
use crate::gather::Gather;
use crate::host::Host;
use addr::{Hva, HvaRange};
use core::sync::atomic::Ordering;
use paging::{Cursor, EntryRef, HostEntry, TableEntry};

impl<H: Host> AddressSpace<H> {
    /// Patch site `zap_page_range`: begin before the walk, end before the frames are freed. Primary
    /// translations are flushed before the end, earlier than in v8: a fault after the end may map a new
    /// frame, and no CPU may then still use the old one. (A full batch is freed before the end, as in v8:
    /// the begin has left nothing that could reach it.)
    pub(super) fn zap_page_range(&self, range: HvaRange) {
        let invalidation = self.chain.invalidate(range);
        let mut gather = Gather::new(&*self.host, self.root);
        self.clear_range(range, &mut gather);
        gather.flush();
        drop(invalidation);
        gather.settle();
    }

    /// Clears every entry in `range`; the frames pass to the gather.
    pub(super) fn clear_range(&self, range: HvaRange, gather: &mut Gather<'_, H>) {
        let _tables = self.tables.lock();
        for visit in
            Cursor::<H, HostEntry>::new(&self.host, self.root, range.start().as_u64(), range.end().as_u64())
        {
            let old = self.replace(visit.found.at, visit.found.entry, |_| HostEntry::EMPTY);
            let found = paging::Found { entry: old, ..visit.found };
            if let Some(leaf) = found.leaf() {
                gather.frame(Hva::new(visit.address), leaf.pfn, leaf.size);
                self.resident.fetch_sub(leaf.size.base_pages(), Ordering::Relaxed);
            }
        }
    }

    /// Changes every entry in `range`.
    pub(super) fn change_range(
        &self,
        range: HvaRange,
        gather: &mut Gather<'_, H>,
        change: impl Fn(HostEntry) -> HostEntry,
    ) {
        let _tables = self.tables.lock();
        for visit in
            Cursor::<H, HostEntry>::new(&self.host, self.root, range.start().as_u64(), range.end().as_u64())
        {
            let old = self.replace(visit.found.at, visit.found.entry, &change);
            if let Some(leaf) = (paging::Found { entry: old, ..visit.found }).leaf() {
                gather.touch(Hva::new(visit.address), leaf.size);
            }
        }
    }

    /// Replaces one live entry and returns what it was. The page-table lock is held: only the CPU's own
    /// updates of A and D can interfere, and none of them is lost.
    pub(super) fn replace(
        &self,
        at: EntryRef,
        seen: HostEntry,
        change: impl Fn(HostEntry) -> HostEntry,
    ) -> HostEntry {
        let mut old = seen;
        while let Err(now) = self.host.compare_exchange(at, old.bits(), change(old).bits()) {
            old = HostEntry::from_bits(now);
        }
        old
    }
}
