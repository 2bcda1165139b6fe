//! A pass of aging over a shadow: which pages the processor has used through it.
//!
//! ```text
//!   gfn       n      n+1    n+2          the leaves of neighbours are neighbours in one page table, mostly, and the only ones: so that
//!   bucket    t, i   t, i+1 t, i+2       table is found once, and of each page its bucket, its link and its entry are looked at
//! ```

use super::areas::end_of;
use super::rmap::Named;
use super::table::Table;
use super::tables::Shadow;
use crate::entry;
use addr::GfnRange;
use mm::Host;
use mutants::{Mutant, intact};
use paging::EntryRef;

impl Shadow {
    /// As [`Self::age`], and tells which pages were used. The mmu lock is held, shared at least; the caller flushes.
    pub(crate) fn age_each<H: Host>(&self, host: &H, gfns: GfnRange, tell: &mut impl FnMut(GfnRange)) {
        for named in self.rmap.large(gfns).filter(|_| intact(Mutant::ShadowAgeMissesLarge)) {
            if let Some((first, size)) = named.page().filter(|_| self.age_page(host, named)) {
                tell(GfnRange::new(first, first.add(size.base_pages())));
            }
        }
        let mut rest = gfns;
        while let Some(first) = self.rmap.next_base(rest) {
            let end = end_of(first).min(gfns.end());
            self.age_base(host, GfnRange::new(first, end), tell);
            rest = GfnRange::new(end, gfns.end());
        }
    }

    /// The same of base leaves in 2 MiB.
    fn age_base<H: Host>(&self, host: &H, gfns: GfnRange, tell: &mut impl FnMut(GfnRange)) {
        let mut last: Option<(u16, &Table)> = None;
        for gfn in gfns.iter() {
            let named = Named::Frame(gfn);
            let Some(at) = self.rmap.first_leaf(named) else { continue };
            let (number, table) = match last {
                Some(known) if known.0 == at.table() => known,
                _ => (at.table(), self.table(at.table())),
            };
            last = Some((number, table));
            let link = table.link(at.index());
            let is_last = link.next.is_none() || !intact(Mutant::ShadowAgeSeesFirst);
            let is_only = link.named == named && is_last;
            let used = match is_only {
                true => entry::age_shadow(host, EntryRef::new(table.frame, at.index())),
                false => self.age_page(host, named),
            };
            if used {
                tell(GfnRange::new(gfn, gfn.add(1)));
            }
        }
    }

    fn age_page<H: Host>(&self, host: &H, named: Named) -> bool {
        let age = |used, at| used | entry::age_shadow(host, self.entry(at));
        self.rmap.leaves_of(&self.tables, named).fold(false, age)
    }
}
