//! The part of fork that shares page tables with the child instead of copying them (`share.rs`).
//!
//! ```text
//!   parent, page-table lock: a batch of tables                  child
//!     a share for each of the two, entries read-only, S
//!     primary TLBs flushed ─────────────────────────────────► page-table lock: the batch is linked
//! ```
//!
//! The flush comes first: whoever reaches a table by the child finds that no CPU writes through it any more.

use super::AddressSpace;
use super::USER_END;
use super::entry::Tables;
use super::share::SPAN;
use crate::gather::Gather;
use crate::host::Host;
use crate::vma::{Vma, VmaFlags, VmaKind, Vmas};
use addr::{Hva, HvaRange, PageSize, Pfn};
use core::sync::atomic::Ordering;
use paging::{
    Entries, EntryRef, HostEntry, Level, OutOfTables, TableEntry, TableReserve, View, walk_or_grow, walk_to,
};

/// Tables shared between two changes of lock.
const BATCH: usize = 64;

/// Tables on their way to the child, all below one page directory of it, and what they serve.
type Batch = [Option<(Hva, Pfn)>; BATCH];

impl<H: Host> AddressSpace<H> {
    /// Shares page tables of an area from `start` on, where something is mapped; where to go on. `None`: what is mapped there
    /// has to be copied.
    ///
    /// # Errors
    /// [`OutOfTables`]: the child has no way to them. What the parent shares with nobody is its own again at the next fault.
    pub(super) fn share_tables(
        &self,
        (vmas, vma): (&Vmas<H>, &Vma<H>),
        start: Hva,
        child: &Self,
        gather: &mut Gather<'_, H>,
    ) -> Result<Option<Hva>, OutOfTables> {
        let first = start.align_down(SPAN);
        if span_at(first).is_none_or(|span| !serves_alone(vmas, vma, span)) {
            return Ok(None);
        }
        let mut reserve = TableReserve::new(&**self.host());
        reserve.top_up(child.missing_tables(first, PageSize::Size2M))?;
        let mut batch = [None; BATCH];
        let end = self.share_batch((vmas, vma), first, gather, &mut batch);
        child.link_batch(&batch, &mut reserve);
        Ok((end > first).then(|| end.min(vma.range.end())))
    }

    /// Makes tables below one page directory shared ones, up to something that is not to be shared.
    fn share_batch(
        &self,
        (vmas, vma): (&Vmas<H>, &Vma<H>),
        first: Hva,
        gather: &mut Gather<'_, H>,
        batch: &mut Batch,
    ) -> Hva {
        let tables = self.tables.lock();
        let directory = walk_to::<HostEntry, H>(self.host(), self.root, first.as_u64(), Level::Pd);
        let (mut next, mut last, mut used) = (first, first, 0);
        if directory.level != Level::Pd {
            return next;
        }
        let entries = self.host().entries(directory.at.table());
        let directory_end = (first.as_u64() & !(PageSize::Size1G.bytes() - 1)) + PageSize::Size1G.bytes();
        let end = vma.range.end().as_u64().min(directory_end);
        while next.as_u64() < end && used < BATCH {
            let index = Level::Pd.index(next.as_u64());
            let entry = HostEntry::from_bits(entries.load(index));
            // The most of a large guest's directories, often.
            if entry == HostEntry::EMPTY {
                next = next.add(SPAN.bytes());
                continue;
            }
            let Some(span) = span_at(next).filter(|&span| serves_alone(vmas, vma, span)) else { break };
            let at = EntryRef::new(directory.at.table(), index);
            match entry.view(Level::Pd) {
                View::Table(table) => {
                    self.share_table(&tables, (at, entry), table);
                    batch[used] = Some((next, table));
                    (last, used) = (next, used + 1);
                }
                View::Empty | View::Leaf(_) | View::Note(_) => break,
            }
            next = span.end();
        }
        if used > 0 {
            gather.touch(first, SPAN);
            gather.touch(last, SPAN);
        }
        gather.flush();
        next
    }

    /// One share more for the child; if the table was the parent's own, one for the parent, too.
    fn share_table(&self, _tables: &Tables<'_>, (at, entry): (EntryRef, HostEntry), table: Pfn) {
        let meta = self.host().frames().meta(table);
        if entry.is_shared_table() {
            return meta.add_shares(1);
        }
        meta.add_shares(2);
        self.shared.fetch_add(1, Ordering::Relaxed);
        self.replace(at, entry, HostEntry::sharing);
    }

    /// Links what the parent has shared, all of it below one page directory. Nothing stands there: nobody has touched the new
    /// address space.
    fn link_batch(&self, batch: &Batch, reserve: &mut TableReserve<'_, H>) {
        let _tables = self.tables.lock();
        let Some((first, _)) = batch[0] else { return };
        let (root, first) = (self.root, first.as_u64());
        let directory = walk_or_grow::<HostEntry, H>(self.host(), root, first, Level::Pd, reserve);
        assert!(directory.level == Level::Pd, "{first:#x} of a new address space lacks a table");
        let mut linked = 0;
        for &(address, table) in batch.iter().flatten() {
            let at = EntryRef::new(directory.at.table(), Level::Pd.index(address.as_u64()));
            self.host().store(at, HostEntry::shared_table(table).bits());
            linked += 1;
        }
        self.shared.fetch_add(linked, Ordering::Relaxed);
    }
}

/// What a page table spans, if all of it may be mapped.
fn span_at(start: Hva) -> Option<HvaRange> {
    HvaRange::sized(start, SPAN.bytes()).filter(|span| span.end() <= USER_END)
}

/// Whether a page table for the span serves this area and no other, and is copied whole.
fn serves_alone<H: Host>(vmas: &Vmas<H>, vma: &Vma<H>, span: HvaRange) -> bool {
    matches!(vma.kind, VmaKind::Anonymous(PageSize::Size4K))
        && !vma.flags.contains(VmaFlags::NONLINEAR)
        && (vma.range.contains_span(&span) || vmas.overlapping(span).nth(1).is_none())
}
