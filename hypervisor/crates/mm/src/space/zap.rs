//! Clearing many primary entries at once, each by a single atomic access (I5).

use super::AddressSpace;
use crate::gather::Gather;
use crate::host::Host;
use crate::vma::{Vma, VmaFlags};
use addr::{Hva, HvaRange, PageSize};
use core::sync::atomic::Ordering;
use mutants::{Mutant, RangeSite, intact};
use paging::{
    Cursor, Entries, Found, HostEntry, Level, Note, PageTable, Part, Parts, TableEntry, View, Visit,
};

/// What becomes of entries whose page the address alone does not tell: those of a non-linear mapping.
#[derive(Clone, Copy)]
pub(super) enum Keep {
    /// They go.
    Nothing,
    /// They remember which page of the file was there.
    Offsets,
}

impl Keep {
    /// What an area needs to keep where its pages go and it stays.
    pub(super) const fn of<H: Host>(vma: &Vma<H>) -> Self {
        if vma.flags.contains(VmaFlags::NONLINEAR) { Self::Offsets } else { Self::Nothing }
    }
}

impl<H: Host> AddressSpace<H> {
    /// Patch site `zap_page_range`: begin before the walk, end before the frames are freed. Primary
    /// translations are flushed before the end, and before the page-table lock is dropped, earlier than in v8: a
    /// fault after the end may map a new frame, and no CPU may then still use the old one. (A full batch is freed
    /// before the end, as in v8: the begin has left nothing that could reach it.)
    ///
    /// The caller holds the mmap lock, or the lock of the reverse map that led here.
    pub(super) fn zap_page_range(&self, range: HvaRange, keep: Keep) {
        let invalidation = self.chain.invalidate(RangeSite::ZapPageRange, range);
        let mut gather = self.gather(RangeSite::ZapPageRange);
        self.clear_range(range, &mut gather, keep);
        drop(invalidation);
        gather.settle();
    }

    /// Patch site `__unmap_hugepage_range`: the same; the frames are put after the end.
    pub(super) fn unmap_hugepage_range(&self, range: HvaRange) {
        self.zap_page_range(range, Keep::Nothing);
    }

    /// Drops the pages of one area in `range`, the area stays. No leaf straddles an end of the range.
    pub(super) fn zap_area(&self, range: HvaRange, vma: &Vma<H>) {
        if vma.kind.page_size() != PageSize::Size4K {
            return self.unmap_hugepage_range(range);
        }
        self.zap_page_range(range, Keep::of(vma));
    }

    /// Clears every entry in `range` and flushes; no shared table lies across one of its bounds. The entries' references pass to the gather. Whoever finds an entry
    /// empty under the page-table lock owes nothing for it (I6): not another discard that returns, not a write-back
    /// that takes the page for clean.
    pub(super) fn clear_range(&self, range: HvaRange, gather: &mut Gather<'_, H>, keep: Keep) {
        let tables = self.tables.lock();
        self.drop_shared(&tables, range, gather);
        for part in self.parts(range) {
            match part {
                Part::Table(table) => self.clear_table(&table, gather, keep),
                Part::Leaf(visit) => self.clear_leaf(&visit, gather, keep),
            }
        }
        if intact(Mutant::FlushesAfterLock) {
            gather.flush();
        }
    }

    /// The entries of a page table, as many at a time as the gather has room for.
    fn clear_table(&self, table: &PageTable, gather: &mut Gather<'_, H>, keep: Keep) {
        let mut next = table.entries.start;
        while next < table.entries.end {
            if gather.room() == 0 {
                gather.settle();
            }
            let until = table.entries.end.min(next + gather.room() as u16);
            let part = PageTable { entries: next..until, ..*table };
            match keep {
                Keep::Nothing => self.clear_pages(&part, gather),
                Keep::Offsets => self.clear_to_notes(&part, gather),
            }
            next = until;
        }
    }

    /// Entries of a page table whose pages fit into the gather. They are counted and touched once for all.
    fn clear_pages(&self, table: &PageTable, gather: &mut Gather<'_, H>) {
        let entries = self.host().entries(table.table);
        let (mut first, mut behind, room) = (table.entries.end, table.entries.start, gather.room());
        for index in table.entries.clone() {
            let mut old = entries.load(index);
            if !HostEntry::from_bits(old).is_page() {
                if old != 0 {
                    table.is_to_change();
                    self.clear_entry(&table.visit(index, HostEntry::from_bits(old)), gather, Keep::Nothing);
                }
                continue;
            }
            table.is_to_change();
            while let Err(now) = entries.compare_exchange(index, old, HostEntry::EMPTY.bits()) {
                old = now;
            }
            (first, behind) = (first.min(index), index + 1);
            let frame = HostEntry::from_bits(old).page();
            if self.mm.remove_page(frame) {
                gather.page(frame);
            }
        }
        gather.touch_pages(table, first..behind);
        self.resident.fetch_sub((room - gather.room()) as u64, Ordering::Relaxed);
    }

    /// The same where what goes is remembered.
    fn clear_to_notes(&self, table: &PageTable, gather: &mut Gather<'_, H>) {
        let entries = self.host().entries(table.table);
        for index in table.entries.clone() {
            let visit = table.visit(index, HostEntry::from_bits(entries.load(index)));
            if visit.found.entry == HostEntry::EMPTY {
                continue;
            }
            table.is_to_change();
            self.clear_entry(&visit, gather, Keep::Offsets);
        }
    }

    /// An entry of a page table.
    fn clear_entry(&self, visit: &Visit<HostEntry>, gather: &mut Gather<'_, H>, keep: Keep) {
        match visit.found.view() {
            View::Leaf(_) => self.clear_leaf(visit, gather, keep),
            View::Note(Note::Swap(slot)) => {
                self.host().store(visit.found.at, HostEntry::EMPTY.bits());
                self.mm.swap().remove_note(slot);
                self.swapped.count_drop();
            }
            View::Note(Note::Offset(_)) if matches!(keep, Keep::Nothing) => {
                self.host().store(visit.found.at, HostEntry::EMPTY.bits());
            }
            View::Note(Note::Offset(_)) | View::Empty | View::Table(_) => {}
        }
    }

    /// Unmaps the pages of a non-linear area that lie behind the end of the file, and flushes. Their notes stay: a touch
    /// is refused there, and not sent to another page.
    pub(super) fn clear_offsets_behind(&self, range: HvaRange, len: u64, gather: &mut Gather<'_, H>) {
        let _tables = self.tables.lock();
        for visit in self.cursor(range) {
            let note = self.offset_note(&visit.found).view(Level::Pt);
            if matches!(note, View::Note(Note::Offset(index)) if index >= len) {
                self.clear_leaf(&visit, gather, Keep::Offsets);
            }
        }
        gather.flush();
    }

    pub(super) fn clear_leaf(&self, visit: &Visit<HostEntry>, gather: &mut Gather<'_, H>, keep: Keep) {
        let instead = match keep {
            Keep::Nothing => HostEntry::EMPTY,
            Keep::Offsets => self.offset_note(&visit.found),
        };
        let old = self.replace(visit.found.at, visit.found.entry, |_| instead);
        let Some(leaf) = (Found { entry: old, ..visit.found }).leaf() else { return };
        gather.touch(Hva::new(visit.address), leaf.size);
        if self.uncount_leaf(&leaf) {
            gather.frame(leaf.pfn, leaf.size);
        }
    }

    /// A note of the page of a file that an entry maps; empty where it maps something else.
    pub(super) fn offset_note(&self, found: &Found<HostEntry>) -> HostEntry {
        let meta = found.leaf().and_then(|leaf| self.mm.counted(leaf.pfn));
        let index = meta.and_then(|meta| meta.owner()).map(|(_, index)| index);
        index.map_or(HostEntry::EMPTY, |index| HostEntry::note(Note::Offset(index)))
    }

    /// What an operation at `site` will owe.
    pub(super) fn gather(&self, site: RangeSite) -> Gather<'_, H> {
        Gather::new(&self.mm, self.root, site)
    }

    /// What is mapped in a range, a page table at a time.
    pub(super) fn parts(&self, range: HvaRange) -> Parts<'_, H, HostEntry> {
        Parts::new(self.host(), self.root, range.start().as_u64(), range.end().as_u64())
    }

    /// The leaves and notes in a range.
    pub(super) fn cursor(&self, range: HvaRange) -> Cursor<'_, H, HostEntry> {
        Cursor::new(self.host(), self.root, range.start().as_u64(), range.end().as_u64())
    }
}
