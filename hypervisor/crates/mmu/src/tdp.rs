//! Two-dimensional paging: the EPT of one guest, and what may be done to it under the mmu lock.

use crate::entry::{self, Installed};
use addr::{Gfn, GfnRange, PAGE_SHIFT, PageSize, Pfn};
use mm::Host;
use paging::{Cursor, EntryRef, EptEntry, FlushScope, Found, Leaf, Level, TableEntry, TableReserve, View};

/// Whether the CPU sets A and D bits in EPT entries (EPTP bit 6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessedDirty {
    /// It does.
    Hardware,
    /// It does not, or was told not to: aging zaps.
    Absent,
}

/// The tables below one EPT root.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tdp {
    pub(crate) root: Pfn,
}

impl Tdp {
    /// The entry of level `lowest` for a guest frame, or the leaf above it.
    pub(crate) fn grow<H: Host>(
        self,
        gfn: Gfn,
        lowest: Level,
        reserve: &mut TableReserve<'_, H>,
        host: &H,
    ) -> Found<EptEntry> {
        paging::walk_or_grow(host, self.root, gfn.base().as_u64(), lowest, reserve)
    }

    /// Where a walk for a guest frame ends.
    pub(crate) fn walk<H: Host>(self, host: &H, gfn: Gfn) -> Found<EptEntry> {
        paging::walk(host, self.root, gfn.base().as_u64())
    }

    /// Installs a leaf for `gfn`: huge where `leaf` is and no table stands in the way, else the base page.
    pub(crate) fn install<H: Host>(
        self,
        host: &H,
        gfn: Gfn,
        leaf: Leaf,
        reserve: &mut TableReserve<'_, H>,
    ) -> Option<Installed> {
        let lowest = Level::of_leaf(leaf.size);
        let found = self.grow(gfn, lowest, reserve, host);
        match found.entry.view(found.level) {
            View::Empty | View::Note(_) if found.level > lowest => None,
            View::Table(_) => {
                let small = resize(leaf, gfn, PageSize::Size4K);
                let found = self.grow(gfn, Level::Pt, reserve, host);
                (found.level == Level::Pt).then(|| entry::install(host, &found, small))
            }
            View::Leaf(old) if old.size > leaf.size => {
                // A huge entry is there already; the primary page must be as large, or somebody split it
                // without telling us. `entry::install` compares frames.
                let offset = gfn.as_u64() % old.size.base_pages();
                let base = leaf.pfn.as_u64().checked_sub(offset).map_or(leaf.pfn, Pfn::new);
                Some(entry::install(host, &found, Leaf { pfn: base, size: old.size, ..leaf }))
            }
            View::Empty | View::Note(_) | View::Leaf(_) => Some(entry::install(host, &found, leaf)),
        }
    }

    /// Zaps every leaf that overlaps `range`; returns how many. A huge leaf goes whole. The caller flushes.
    #[must_use = "zapped entries are owed a flush (I6)"]
    pub(crate) fn zap<H: Host>(self, host: &H, range: GfnRange) -> u64 {
        let (start, end) = (range.start().base().as_u64(), range.end().as_u64() << PAGE_SHIFT);
        let mut zapped = 0;
        for visit in Cursor::<H, EptEntry>::new(host, self.root, start, end) {
            entry::clear(host, &visit.found);
            zapped += 1;
        }
        zapped
    }

    /// Tests and clears A on every leaf that overlaps `range`; `true` where one was set. The caller flushes.
    pub(crate) fn age<H: Host>(self, host: &H, range: GfnRange) -> bool {
        let (start, end) = (range.start().base().as_u64(), range.end().as_u64() << PAGE_SHIFT);
        Cursor::<H, EptEntry>::new(host, self.root, start, end)
            .fold(false, |young, visit| young | entry::age(host, &visit.found))
    }

    /// Whether a leaf that overlaps `range` was used; without A bits, whether there is one.
    pub(crate) fn is_young<H: Host>(self, host: &H, range: GfnRange, bits: AccessedDirty) -> bool {
        let (start, end) = (range.start().base().as_u64(), range.end().as_u64() << PAGE_SHIFT);
        Cursor::<H, EptEntry>::new(host, self.root, start, end)
            .filter_map(|visit| visit.found.leaf())
            .any(|leaf| leaf.accessed || bits == AccessedDirty::Absent)
    }

    /// Drops every translation derived from the root, on every CPU.
    pub(crate) fn flush<H: Host>(self, host: &H) {
        host.flush(FlushScope::Secondary { root: self.root });
    }

    /// Frees all tables. No CPU uses the root any more, and it has been flushed.
    pub(crate) fn free<H: Host>(self, host: &H) {
        free_below(host, self.root, Level::ROOT);
    }
}

/// All that four levels translate.
pub(crate) fn every_gfn() -> GfnRange {
    GfnRange::new(Gfn::ZERO, Gfn::new(1 << (48 - PAGE_SHIFT)))
}

/// The part of a leaf that maps a page of `size` around `gfn`.
pub(crate) fn resize(leaf: Leaf, gfn: Gfn, size: PageSize) -> Leaf {
    let offset = gfn.align_down(size).as_u64() % leaf.size.base_pages();
    Leaf { pfn: leaf.pfn.add(offset), size, ..leaf }
}

fn free_below<H: Host>(host: &H, table: Pfn, level: Level) {
    if let Some(below) = level.below() {
        for index in 0..512 {
            let entry = EptEntry::from_bits(host.load(EntryRef::new(table, index)));
            if let View::Table(child) = entry.view(level) {
                free_below(host, child, below);
            }
        }
    }
    host.free_table(table);
}
