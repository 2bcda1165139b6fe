//! Two-dimensional paging: the EPT of one guest, and what may be done to it under the mmu lock.
//!
//! Tables grow under the lock's shared side, and go under its exclusive side, to wait for their next use (`spare.rs`): whoever walks holds one of the
//! two. Who installs and lacks tables is told how many, and comes back with them: nothing allocates under the lock (I4).

use crate::entry::{self, Installed};
use crate::secondary::Locked;
use addr::{Gfn, GfnRange, PAGE_SHIFT, PageSize, Pfn};
use mm::Host;
use mm::frames::Uses;
use mutants::{Mutant, intact};
use paging::{
    BlockBits, Cursor, Entries, EntryRef, EptEntry, FlushScope, Found, Leaf, Level, TableEntry, TableReserve,
    View,
};

/// Whether the CPU sets A and D bits in EPT entries (EPTP bit 6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessedDirty {
    /// It does.
    Hardware,
    /// It does not, or was told not to: aging zaps.
    Absent,
}

/// Entries of a table.
const ENTRIES: u64 = 512;

/// So many tables are missing on the way to a leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Lacking(pub(crate) usize);

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

    /// The leaf of a guest frame, wherever a guest's own tables say that it is. These tables have 48 bits of an address: behind them
    /// nothing is mapped, not what the lower bits would find.
    pub(crate) fn ground<H: Host>(self, host: &H, gfn: Gfn) -> Option<Leaf> {
        self.whole_ground(host, gfn).map(|leaf| resize(leaf, gfn, PageSize::Size4K))
    }

    /// The same, as large as it is.
    pub(crate) fn whole_ground<H: Host>(self, host: &H, gfn: Gfn) -> Option<Leaf> {
        self.reach(host, gfn)?.leaf()
    }

    /// The same for somebody who uses it: no processor sets A there. Nor is it set above: as long as there are shadows, a pass of aging looks at
    /// each leaf.
    pub(crate) fn ground_in_use<H: Host>(self, host: &H, gfn: Gfn) -> Option<Leaf> {
        let use_it = |found: Found<EptEntry>| {
            let leaf = found.leaf()?;
            if !leaf.accessed && intact(Mutant::GroundUseUnseen) {
                entry::note_use(host, &found);
            }
            Some(leaf)
        };
        if !is_reached(gfn) {
            return None;
        }
        match self.walk_to_page(host, gfn) {
            Some(page) => use_it(page),
            None => use_it(self.walk(host, gfn)),
        }
    }

    /// The same as [`Self::ground`] for guest frames of which many lie in one page table, or in one huge leaf: that is found once. The mmu lock is held exclusively
    /// meanwhile, so that it stays.
    pub(crate) fn grounds<H: Host>(self, host: &H) -> impl FnMut(Gfn) -> Option<Leaf> + use<'_, H> {
        // The first guest frame of what the last entry of a directory spans, and what that said.
        let mut last: Option<(Gfn, View)> = None;
        move |gfn| {
            let first = gfn.align_down(PageSize::Size2M);
            let known = last.filter(|(known, _)| *known == first || !intact(Mutant::GroundsInOneTable));
            let (_, view) = match known {
                Some(known) => known,
                None => {
                    let found = self.reach(host, gfn)?;
                    let in_table = found.level == Level::Pt;
                    let view = if in_table { View::Table(found.at.table()) } else { found.view() };
                    *last.insert((first, view))
                }
            };
            match view {
                View::Table(table) => {
                    let at = EntryRef::new(table, Level::Pt.index(gfn.base().as_u64()));
                    let entry = EptEntry::from_bits(host.load(at));
                    Found { at, level: Level::Pt, entry, shared: false }.leaf()
                }
                View::Leaf(leaf) => Some(resize(leaf, gfn, PageSize::Size4K)),
                View::Empty | View::Note(_) => None,
            }
        }
    }

    fn reach<H: Host>(self, host: &H, gfn: Gfn) -> Option<Found<EptEntry>> {
        is_reached(gfn).then(|| self.walk(host, gfn))
    }

    /// The entry of a page table for a guest frame, where there is one: as [`Self::walk`], and nothing has to be looked at that tells of levels.
    #[inline(always)]
    pub(crate) fn walk_to_page<H: Host>(self, host: &H, gfn: Gfn) -> Option<Found<EptEntry>> {
        paging::walk_to_page(host, self.root, gfn.base().as_u64())
    }

    /// Where a walk for a guest frame ends.
    pub(crate) fn walk<H: Host>(self, host: &H, gfn: Gfn) -> Found<EptEntry> {
        paging::walk(host, self.root, gfn.base().as_u64())
    }

    /// Installs a leaf for `gfn`: as large as `leaf`, or smaller where a table stands in the way. Other CPUs may do the
    /// same at the same time.
    ///
    /// # Errors
    /// [`Lacking`]: the reserve was too small.
    #[inline(always)]
    pub(crate) fn install<H: Host>(
        self,
        host: &H,
        gfn: Gfn,
        leaf: Leaf,
        reserve: &mut TableReserve<'_, H>,
    ) -> Result<Installed, Lacking> {
        if leaf.size == PageSize::Size4K
            && let Some(found) = self.walk_to_page(host, gfn)
            && found.entry == EptEntry::EMPTY
            && entry::install_first(host, &found, leaf)
        {
            return Ok(Installed::New(found.at));
        }
        self.install_beside(host, gfn, leaf, reserve)
    }

    /// The same where something is there already, tables are missing, or the leaf is a huge one.
    #[inline(never)]
    fn install_beside<H: Host>(
        self,
        host: &H,
        gfn: Gfn,
        leaf: Leaf,
        reserve: &mut TableReserve<'_, H>,
    ) -> Result<Installed, Lacking> {
        let mut wanted = leaf;
        loop {
            let lowest = Level::of_leaf(wanted.size);
            let found = self.grow(gfn, lowest, reserve, host);
            match found.view() {
                View::Empty | View::Note(_) if found.level > lowest => {
                    return Err(Lacking(found.level as usize - lowest as usize));
                }
                View::Table(_) => wanted = resize(wanted, gfn, next_smaller(wanted.size)),
                // A huge entry is there already; the primary page must be as large, or somebody split it without
                // telling us. `entry::install` compares frames.
                View::Leaf(old) if old.size > wanted.size => wanted = resize(wanted, gfn, old.size),
                View::Empty | View::Note(_) | View::Leaf(_) => {
                    // Nothing was installed where a table has come meanwhile: the next round finds it.
                    if let Some(installed) = entry::install(host, &found, wanted) {
                        return Ok(installed);
                    }
                }
            }
        }
    }

    /// Zaps every leaf that overlaps `range`; returns how many entries went. A huge leaf goes whole, and so does a table
    /// whose whole span goes, by the one entry that names it: the cost is that of the range's ends, and of what is above
    /// the page tables. The caller flushes.
    #[inline(always)]
    #[must_use = "zapped entries are owed a flush (I6)"]
    pub(crate) fn zap<H: Host>(self, host: &H, range: GfnRange, locked: &mut Locked) -> u64 {
        if range.len() == 1 {
            return self.zap_page(host, range.start(), locked);
        }
        let range = (range.start().base().as_u64(), range.end().as_u64() << PAGE_SHIFT);
        zap_below(host, (self.root, Level::ROOT), range, locked)
    }

    /// The same for one frame: no table's whole span goes.
    #[inline(always)]
    fn zap_page<H: Host>(self, host: &H, gfn: Gfn, locked: &mut Locked) -> u64 {
        match self.walk_to_page(host, gfn) {
            Some(found) if found.entry == EptEntry::EMPTY => 0,
            _ => zap_one(host, self, gfn, locked),
        }
    }

    /// Tests and clears A on every leaf that overlaps `range`; `true` where one was set. The caller flushes.
    pub(crate) fn age<H: Host>(self, host: &H, range: GfnRange) -> bool {
        let mut young = false;
        self.each_leaf(host, range, |found, _| young |= entry::age(host, found));
        young
    }

    /// The same; tells of each leaf which guest frames it maps, and whether A was set.
    pub(crate) fn age_each<H: Host>(self, host: &H, range: GfnRange, mut tell: impl FnMut(GfnRange, bool)) {
        self.each_leaf(host, range, |found, gfns| {
            // What was not used by now, is not changed.
            let is_used = found.entry.aged() != found.entry;
            tell(gfns, is_used && entry::age(host, found));
        });
    }

    /// Calls `look` for each leaf that overlaps `range`, with the guest frames that it maps: page table by page table, for a fraction of what a cursor
    /// costs, where there are many.
    pub(crate) fn each_leaf<H: Host>(
        self,
        host: &H,
        range: GfnRange,
        mut look: impl FnMut(&Found<EptEntry>, GfnRange),
    ) {
        let (mut next, end) = (range.start().base().as_u64(), range.end().as_u64() << PAGE_SHIFT);
        while next < end {
            let found = paging::walk_to::<EptEntry, H>(host, self.root, next, Level::Pd);
            let gfns = spanned(next, found.level);
            let until = end.min(gfns.end().as_u64() << PAGE_SHIFT);
            match found.view() {
                View::Leaf(_) => look(&found, gfns),
                View::Table(table) => {
                    let entries = host.entries(table);
                    for index in Level::Pt.index(next)..=Level::Pt.index(until - 1) {
                        let entry = EptEntry::from_bits(entries.load(index));
                        let at = EntryRef::new(table, index);
                        let found = Found { at, level: Level::Pt, entry, shared: false };
                        if entry.is_leaf(Level::Pt) {
                            let gfn = gfns.start().add(u64::from(index));
                            look(&found, GfnRange::new(gfn, gfn.add(1)));
                        }
                    }
                }
                View::Empty | View::Note(_) => {}
            }
            next = until;
        }
    }

    /// Tests and clears A on every leaf that overlaps `range`, notes `uses` in the frames, and calls `used` for each block of 2 MiB:
    /// its first frame, and which of its pages had it. The caller flushes.
    pub(crate) fn collect_young<H: Host>(
        self,
        host: &H,
        range: GfnRange,
        uses: Uses<'_>,
        mut used: impl FnMut(Gfn, &BlockBits),
    ) {
        let (mut next, end) = (range.start().base().as_u64(), range.end().as_u64() << PAGE_SHIFT);
        while next < end {
            let first = next & !(Level::Pd.span() - 1);
            let until = end.min(first + Level::Pd.span());
            let note = move |frame| uses.note(frame);
            let found = paging::walk_to::<EptEntry, H>(host, self.root, next, Level::Pd);
            let bits = paging::collect_young(host, &found, (next, until), note);
            used(Gfn::new(first >> PAGE_SHIFT), &bits);
            next = until;
        }
    }

    /// Calls `used` with the part in `range` of each 2 MiB of guest frames any of which may have been used since they were last collected.
    pub(crate) fn find_used<H: Host>(self, host: &H, range: GfnRange, mut used: impl FnMut(GfnRange)) {
        let (start, end) = (range.start().base().as_u64(), range.end().as_u64() << PAGE_SHIFT);
        paging::find_used::<EptEntry, H>(host, self.root, (start, end), |first| {
            spanned(first, Level::Pd).intersection(&range).into_iter().for_each(&mut used);
        });
    }

    /// Every leaf that overlaps `range`, and the guest frames that it maps.
    pub(crate) fn leaves<H: Host>(
        self,
        host: &H,
        range: GfnRange,
    ) -> impl Iterator<Item = (GfnRange, Leaf)> + use<'_, H> {
        let (start, end) = (range.start().base().as_u64(), range.end().as_u64() << PAGE_SHIFT);
        Cursor::<H, EptEntry>::new(host, self.root, start, end)
            .filter_map(|visit| Some((spanned(visit.address, visit.found.level), visit.found.leaf()?)))
    }

    /// Drops every translation derived from the root, on every CPU.
    pub(crate) fn flush<H: Host>(self, host: &H) {
        host.flush(FlushScope::Secondary { root: self.root });
    }
}

/// Whether four levels translate it.
const fn is_reached(gfn: Gfn) -> bool {
    gfn.as_u64() < (Level::ROOT.span() * ENTRIES) >> PAGE_SHIFT
}

/// All that four levels translate.
pub(crate) fn every_gfn() -> GfnRange {
    GfnRange::new(Gfn::ZERO, Gfn::new(1 << (48 - PAGE_SHIFT)))
}

/// A leaf as a page of `size` around `gfn`: the part of it there, or the larger page that it is a part of.
pub(crate) fn resize(leaf: Leaf, gfn: Gfn, size: PageSize) -> Leaf {
    let (old, new) = (gfn.align_down(leaf.size).as_u64(), gfn.align_down(size).as_u64());
    // A frame too low to lie in such a page stays as it is, and is found to be another than is mapped.
    let pfn = (leaf.pfn.as_u64() + new).checked_sub(old).map_or(leaf.pfn, Pfn::new);
    Leaf { pfn, size, ..leaf }
}

/// Apart, so that who has nothing to zap does not pay for it.
#[inline(never)]
fn zap_one<H: Host>(host: &H, tdp: Tdp, gfn: Gfn, locked: &mut Locked) -> u64 {
    let found = tdp.walk(host, gfn);
    if found.entry == EptEntry::EMPTY {
        return 0;
    }
    entry::clear(host, found.at, found.entry, &mut locked.in_progress);
    if intact(Mutant::ZapLeavesShadow) {
        locked.forget(host, spanned(gfn.base().as_u64(), found.level));
    }
    1
}

fn next_smaller(size: PageSize) -> PageSize {
    match size {
        PageSize::Size1G => PageSize::Size2M,
        PageSize::Size2M | PageSize::Size4K => PageSize::Size4K,
    }
}

/// The guest frames that an entry spans.
pub(crate) fn spanned(address: u64, level: Level) -> GfnRange {
    let first = Gfn::new((address & !(level.span() - 1)) >> PAGE_SHIFT);
    GfnRange::new(first, first.add(level.span() >> PAGE_SHIFT))
}

fn zap_below<H: Host>(
    host: &H,
    (table, level): (Pfn, Level),
    (start, end): (u64, u64),
    locked: &mut Locked,
) -> u64 {
    let (mut address, mut zapped, entries) = (start & !(level.span() - 1), 0, host.entries(table));
    while address < end {
        let (index, next) = (level.index(address), address + level.span());
        let entry = EptEntry::from_bits(entries.load(index));
        if entry == EptEntry::EMPTY {
            address = next;
            continue;
        }
        let at = EntryRef::new(table, index);
        let whole = start <= address && next <= end;
        zapped += match (entry.view(level), level.below()) {
            (View::Table(child), Some(below)) if !whole => {
                zap_below(host, (child, below), (start.max(address), end.min(next)), locked)
            }
            (View::Empty | View::Note(_), _) => 0,
            (view, below) => {
                entry::clear(host, at, entry, &mut locked.in_progress);
                if intact(Mutant::ZapLeavesShadow) {
                    locked.forget(host, spanned(address, level));
                }
                if let (View::Table(child), Some(below)) = (view, below) {
                    locked.spare.push(host, (child, below));
                }
                1
            }
        };
        address = next;
    }
    zapped
}
