//! A pass of aging over an address space: every page that was used since the last one is young again, by its own A bit or by
//! what the subscribers say.
//!
//! ```text
//!   each 1 GiB, under the page-table lock: the A bits of the entries that name page tables, and what the subscribers say
//!   each block of 2 MiB any page of which may have been used, under the page-table lock:
//!     primary A bits ─────► the frame in each entry: used in this generation
//!     collect_young  ──┬──► the same, by who maps frames himself
//!                      └──► pages without: their frames, by the primary entries
//!   then one flush for all: the next use sets A again (I12)
//! ```

use super::AddressSpace;
use crate::host::Host;
use crate::notifier::{UsedBlocks, YoungPages};
use crate::vma::{Vma, VmaFlags};
use addr::{Hva, HvaRange, PageSize, Pfn};
use alloc::vec::Vec;
use core::ops::ControlFlow;
use mutants::{Mutant, intact};
use paging::{Entries, EntryRef, FlushScope, HostEntry, Level, Part, TableEntry, View, walk_to};

impl<H: Host> AddressSpace<H> {
    /// Notes `generation` in the frames of all base pages, and transparent huge ones, that were used since the last pass.
    /// Takes the mmap lock for reading.
    pub(crate) fn collect_young(&self, generation: u32) {
        let vmas = self.vmas.read();
        for vma in vmas.iter().filter(|vma| can_age(vma)) {
            for region in pieces(vma.range, PageSize::Size1G) {
                for block in self.find_used(region).iter() {
                    let _young = self.collect_block(block, generation);
                }
            }
        }
        drop(vmas);
        self.host()
            .flush(FlushScope::Primary { root: self.root, range: HvaRange::new(Hva::ZERO, super::USER_END) });
        self.chain.flush_young();
    }

    /// Which pages of a cluster were used since they were last asked, by anybody: they are of this `generation` now, if
    /// that counts. One flush for all of them, so that the next use is seen.
    pub(crate) fn take_young(&self, cluster: HvaRange, generation: u32) -> YoungPages {
        let young = self.collect_block(cluster, generation);
        if !young.is_empty() {
            if intact(Mutant::NoFlushOfAged) {
                self.flush_primary(cluster);
            }
            self.chain.flush_young();
        }
        young
    }

    /// The blocks of a naturally aligned 1 GiB, or of a part of it, any page of which may have been used since a pass last asked for all of it.
    fn find_used(&self, region: HvaRange) -> UsedBlocks {
        let _tables = self.tables.lock();
        let mut used = UsedBlocks::none(region);
        let (start, end) = (region.start().as_u64(), region.end().as_u64());
        paging::find_used::<HostEntry, H>(self.host(), self.root, (start, end), |first| {
            used.add(HvaRange::new(Hva::new(first), Hva::new(first + Level::Pd.span())));
        });
        self.chain.find_used(&mut used);
        used
    }

    /// A block of 2 MiB, or a part of it.
    fn collect_block(&self, block: HvaRange, generation: u32) -> YoungPages {
        let _tables = self.tables.lock();
        let mut young = YoungPages::none(block, generation);
        let (start, end) = (block.start().as_u64(), block.end().as_u64());
        let found = walk_to::<HostEntry, H>(self.host(), self.root, start, Level::Pd);
        if !matches!(found.view(), View::Table(_) | View::Leaf(_)) {
            return young;
        }
        let uses = self.host().frames().uses(generation);
        let note = move |frame| uses.note(frame);
        let own = paging::collect_young(&**self.host(), &found, (start, end), note);
        young.add_noted(block.start().align_down(PageSize::Size2M), &own);
        self.chain.collect_young(&mut young);
        for index in young.without_note() {
            if let Some(frame) = frame_in(&**self.host(), found.view(), index) {
                note(frame.as_u64());
            }
        }
        young
    }

    /// Calls `take` for each base page in `bounds` whose frame `is_old`, in the order of their addresses, with a reference on
    /// the frame for the caller. Takes the page-table lock.
    pub(crate) fn old_frames(
        &self,
        bounds: HvaRange,
        is_old: impl Fn(Pfn) -> bool,
        mut take: impl FnMut(Hva, Pfn) -> ControlFlow<()>,
    ) {
        let _tables = self.tables.lock();
        for part in self.parts(bounds) {
            let Part::Table(table) = part else { continue };
            let entries = self.host().entries(table.table);
            for index in table.entries.clone() {
                let entry = HostEntry::from_bits(entries.load(index));
                if !entry.is_page() {
                    continue;
                }
                let frame = entry.page();
                let Some(meta) = self.mm.counted(frame).filter(|_| is_old(frame)) else { continue };
                meta.get();
                if take(Hva::new(table.address_of(index)), frame).is_break() {
                    return;
                }
            }
        }
    }
}

impl<H: Host> AddressSpace<H> {
    /// The first base page in `bounds` whose frame `is_old`, with a reference for the caller. Takes the page-table lock.
    pub(crate) fn first_old(&self, bounds: HvaRange, is_old: impl Fn(Pfn) -> bool) -> Option<(Hva, Pfn)> {
        let mut first = None;
        self.old_frames(bounds, is_old, |address, frame| {
            first = Some((address, frame));
            ControlFlow::Break(())
        });
        first
    }

    /// What can be reclaimed, in blocks of 2 MiB, those from `hand` on first. Takes the mmap lock for reading.
    pub(crate) fn blocks_from(&self, hand: Hva) -> Vec<HvaRange> {
        let vmas = self.vmas.read();
        let mut all: Vec<_> =
            vmas.iter().filter(|vma| can_age(vma)).flat_map(|vma| blocks(vma.range)).collect();
        let ahead = all.partition_point(|block| block.start() < hand);
        all.rotate_left(ahead);
        all
    }
}

/// The frame of a page of a block, by what the entry of the block says.
fn frame_in<H: Host>(host: &H, block: View, index: u64) -> Option<Pfn> {
    match block {
        View::Table(table) => {
            let entry = HostEntry::from_bits(host.load(EntryRef::new(table, index as u16)));
            match entry.view(Level::Pt) {
                View::Leaf(leaf) => Some(leaf.pfn),
                View::Empty | View::Table(_) | View::Note(_) => None,
            }
        }
        View::Leaf(leaf) => Some(leaf.pfn.add(index)),
        View::Empty | View::Note(_) => None,
    }
}

/// What is never reclaimed has no age.
fn can_age<H: Host>(vma: &Vma<H>) -> bool {
    vma.kind.page_size() == PageSize::Size4K && !vma.flags.contains(VmaFlags::LOCKED)
}

/// A range, cut at multiples of 2 MiB.
pub(super) fn blocks(range: HvaRange) -> impl Iterator<Item = HvaRange> {
    pieces(range, PageSize::Size2M)
}

/// A range, cut at multiples of this size.
fn pieces(range: HvaRange, size: PageSize) -> impl Iterator<Item = HvaRange> {
    let mut next = range.start();
    core::iter::from_fn(move || {
        let start = next;
        let piece = start.align_down(size).add(size.bytes());
        next = piece.min(range.end());
        (start < range.end()).then(|| HvaRange::new(start, next))
    })
}
