//! Tables taken out of the EPT, which wait for their next use.
//!
//! ```text
//!   first ─► table ─► table ─► table      by the first entry of each: the next one's frame, and no rights
//! ```
//!
//! A CPU may walk such a table until the flush, under the mmu lock, and finds nothing there but what was there before, or
//! nothing. Nobody takes one before, since that needs the lock (I11); so they need no room while they are taken out.

use addr::{PAGE_SHIFT, PageSize, Pfn};
use mm::Host;
use paging::{EntryRef, OutOfTables, TableReserve};

/// A chain of tables. What they hold is of no meaning.
#[derive(Debug)]
pub(crate) struct Spare {
    first: Option<Pfn>,
}

impl Spare {
    /// None.
    pub(crate) const fn new() -> Self {
        Self { first: None }
    }

    /// All of them.
    pub(crate) fn iter<'h, H: Host>(&self, host: &'h H) -> impl Iterator<Item = Pfn> + 'h {
        core::iter::successors(self.first, |&table| next(host, table))
    }

    /// One more. Frame 0 is no table.
    pub(crate) fn push<H: Host>(&mut self, host: &H, table: Pfn) {
        host.store(EntryRef::new(table, 0), self.first.map_or(0, |next| next.as_u64() << PAGE_SHIFT));
        self.first = Some(table);
    }

    /// One less.
    pub(crate) fn pop<H: Host>(&mut self, host: &H) -> Option<Pfn> {
        let table = self.first?;
        self.first = next(host, table);
        Some(table)
    }
}

fn next<H: Host>(host: &H, table: Pfn) -> Option<Pfn> {
    let next = host.load(EntryRef::new(table, 0)) >> PAGE_SHIFT;
    (next != 0).then_some(Pfn::new(next))
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
