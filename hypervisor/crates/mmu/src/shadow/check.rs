//! What has to be true of a shadow, for the oracle.
//!
//! ```text
//!   leaf ──── stands on ───► ground              the frame, no more rights, no larger; in the chain of its page
//!   table, kept ── says ───► the guest's         each entry; and no leaf lets a processor write that
//! ```

use super::format::{self, ShadowLeaf};
use super::origin::{Origin, still_says};
use super::rmap::{Named, Place};
use super::table::{Sync, Table};
use super::tables::Shadow;
use addr::{Gfn, Pfn};
use mm::Host;

impl Shadow {
    /// All leaves, the first guest frames that they map, and whether the chain of that page has them.
    pub(crate) fn leaves<H: Host>(&self, host: &H) -> impl Iterator<Item = (Gfn, ShadowLeaf, bool)> {
        let places = (0..self.tables.len() as u16)
            .flat_map(|table| self.table(table).present().map(move |index| Place::new(table, index)));
        places.filter_map(|at| {
            let named = self.table(at.table()).link(at.index()).named;
            let (gfn, size) = named.page()?;
            let leaf = ShadowLeaf::decode(host.load(self.entry(at)))?;
            let is_chained = self.rmap.leaves_of(&self.tables, named).any(|other| other == at);
            Some((gfn, leaf, is_chained && size == leaf.size))
        })
    }

    /// The guest's tables that are known to say what was derived from them.
    fn kept(&self) -> impl Iterator<Item = (&Table, Origin)> {
        let kept = self.tables.iter().filter(|table| table.sync == Sync::Kept);
        kept.filter_map(|table| Some((table, table.origin.filter(Origin::is_table)?)))
    }

    /// Whether a leaf lets the processor write a guest frame.
    fn may_write<H: Host>(&self, host: &H, gfn: Gfn) -> bool {
        let named = [Named::Frame(gfn), Named::around(gfn)].into_iter();
        let mut leaves = named.flat_map(|named| self.rmap.leaves_of(&self.tables, named));
        leaves.any(|at| format::is_writable(host.load(self.entry(at))))
    }
}

/// A guest's table that does not say what a shadow has of it, although it should: where it lies, the entry's number, and what it says.
pub(crate) fn unfaithful<H: Host>(
    host: &H,
    shadows: &[Shadow],
    ground: impl Fn(Gfn) -> Option<Pfn>,
) -> Option<(Gfn, u16, Option<u64>)> {
    let kept = shadows.iter().flat_map(Shadow::kept);
    for (table, origin) in kept {
        let frame = ground(origin.gfn);
        for index in table.present() {
            let now = frame.map(|frame| origin.guest_entry(host, frame, index));
            let bits = host.load(paging::EntryRef::new(table.frame, index));
            if !now.is_some_and(|now| still_says(now, table.link(index).from) && origin.allows(now, bits)) {
                return Some((origin.gfn, index, now));
            }
        }
    }
    None
}

/// A guest's table that a processor may write, although its shadow is to hear of that.
pub(crate) fn unprotected<H: Host>(host: &H, shadows: &[Shadow]) -> Option<Gfn> {
    let mut kept = shadows.iter().flat_map(Shadow::kept).map(|(_, origin)| origin.gfn);
    kept.find(|&gfn| shadows.iter().any(|shadow| shadow.may_write(host, gfn)))
}
