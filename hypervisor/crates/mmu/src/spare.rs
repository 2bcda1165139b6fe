//! Tables taken out of the EPT, which wait for their next use.
//!
//! ```text
//!   first ─► table ─► directory ─► table      by the first entry of each: the next one's frame, its own level, no rights
//!                      └─► tables, in its other entries: they join the chain when it leaves
//! ```
//!
//! So a table is taken out at the same cost, whatever is below it. A CPU may walk it until the flush, under the mmu lock, and
//! finds there what was there before, or nothing. Nobody uses one before, since that needs the lock (I11).

use addr::{PAGE_SHIFT, PageSize, Pfn};
use alloc::vec::Vec;
use mm::Host;
use paging::{Entries, EntryRef, EptEntry, Level, OutOfTables, TableEntry, TableReserve};

/// Where the level is in the first entry: bits that mean nothing without rights (SDM vol. 3C 28.3.2).
const LEVEL_SHIFT: u32 = 3;
const _: () = assert!((Level::ROOT as u64) < 1 << (PAGE_SHIFT - LEVEL_SHIFT));

/// A chain of tables. What page tables in it hold is of no meaning.
#[derive(Debug)]
pub(crate) struct Spare {
    first: Option<Pfn>,
}

impl Spare {
    /// None.
    pub(crate) const fn new() -> Self {
        Self { first: None }
    }

    /// One more, and all that are below it. Frame 0 is no table.
    pub(crate) fn push<H: Host>(&mut self, host: &H, (table, level): (Pfn, Level)) {
        let first = EntryRef::new(table, 0);
        if let Some(below) = level.below()
            && let Some(child) = EptEntry::from_bits(host.load(first)).next_table()
        {
            self.push(host, (child, below));
        }
        let next = self.first.map_or(0, |next| next.as_u64() << PAGE_SHIFT);
        host.store(first, next | (level as u64) << LEVEL_SHIFT);
        self.first = Some(table);
    }

    /// One less.
    pub(crate) fn pop<H: Host>(&mut self, host: &H) -> Option<Pfn> {
        let table = self.first?;
        let (next, level) = link(host, table);
        self.first = next;
        children(host, (table, level), 1).for_each(|child| self.push(host, child));
        Some(table)
    }

    /// All of them.
    pub(crate) fn all<H: Host>(&self, host: &H) -> Vec<Pfn> {
        let mut all = Vec::new();
        let mut last = self.first;
        while let Some(table) = last {
            let (next, level) = link(host, table);
            all.push(table);
            children(host, (table, level), 1).for_each(|child| with_all_below(host, child, &mut all));
            last = next;
        }
        all
    }
}

/// What the first entry of a table in the chain says.
fn link<H: Host>(host: &H, table: Pfn) -> (Option<Pfn>, Level) {
    let bits = host.load(EntryRef::new(table, 0));
    let levels = [Level::Pt, Level::Pd, Level::Pdpt, Level::Pml4];
    let level = levels.into_iter().find(|&level| level as u64 == bits >> LEVEL_SHIFT & 7);
    let next = bits >> PAGE_SHIFT;
    ((next != 0).then_some(Pfn::new(next)), level.unwrap_or(Level::Pt))
}

/// The tables that entries name, from one on.
fn children<H: Host>(
    host: &H,
    (table, level): (Pfn, Level),
    from: u16,
) -> impl Iterator<Item = (Pfn, Level)> {
    let entries = host.entries(table);
    level.below().into_iter().flat_map(move |below| {
        let named = move |index| EptEntry::from_bits(entries.load(index)).next_table();
        (from..512).filter_map(named).map(move |child| (child, below))
    })
}

fn with_all_below<H: Host>(host: &H, table: (Pfn, Level), all: &mut Vec<Pfn>) {
    all.push(table.0);
    children(host, table, 0).for_each(|child| with_all_below(host, child, all));
}

/// Fills a reserve with so many tables: those that `spare` gives, then new ones.
///
/// # Errors
/// [`OutOfTables`]; what there was is in the reserve.
pub(crate) fn supply<H: Host>(
    host: &H,
    reserve: &mut TableReserve<'_, H>,
    count: usize,
    spare: impl FnMut() -> Option<Pfn>,
) -> Result<(), OutOfTables> {
    core::iter::repeat_with(spare).map_while(|table| table).take(count).for_each(|table| {
        host.zero(table, PageSize::Size4K);
        reserve.give_back(table);
    });
    reserve.top_up(count)
}
