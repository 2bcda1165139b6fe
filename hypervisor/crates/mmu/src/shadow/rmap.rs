//! Which entries of a shadow name a guest frame, or one of its tables.
//!
//! ```text
//!   gfn, size ─► bucket ─► leaf ─► leaf ─► ...          doubly linked through the links of the tables that they are in
//!                table  ─► entry ─► entry ─► ...
//! ```
//!
//! A frame is mapped by base leaves, in its chain, and by large ones, in that of the 2 MiB around it. Where no base leaf is near, only the latter is looked at.
//!
//! All there is was allocated with the tables: nothing is under the mmu lock (I4).

use super::areas::{AREA, Areas, pieces};
use super::table::{ENTRIES, Table};
use addr::{Gfn, GfnRange, PAGE_SHIFT, PageSize};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::num::NonZeroU32;
use mutants::{Mutant, intact};
use paging::OutOfTables;

/// log2 of the entries of a table.
const BITS: u32 = 9;

/// The place of an entry: the number of its table, and its index there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place(NonZeroU32);

impl Place {
    pub(super) const fn new(table: u16, index: u16) -> Self {
        Self(NonZeroU32::MIN.saturating_add((table as u32) << BITS | index as u32))
    }

    pub(super) const fn table(self) -> u16 {
        ((self.0.get() - 1) >> BITS) as u16
    }

    pub(super) const fn index(self) -> u16 {
        ((self.0.get() - 1) & ((1 << BITS) - 1)) as u16
    }
}

/// What an entry names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Named {
    /// Nothing: it is empty.
    #[default]
    Nothing,
    /// A table, by number.
    Table(u16),
    /// What a leaf maps.
    Page(Page),
}

/// A page that a leaf maps: its first guest frame, and its size.
pub(super) type Page = (Gfn, PageSize);

/// The large page around a guest frame.
pub(super) const fn around(gfn: Gfn) -> Page {
    (gfn.align_down(AREA), AREA)
}

/// What belongs to an entry: what it names, the guest's entry that it was derived from, and its neighbours in the chain.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Link {
    pub(super) named: Named,
    /// With A and D as they were by then. Of no meaning in parts of a large page.
    pub(super) from: u64,
    pub(super) next: Option<Place>,
    /// `None`: it is the first.
    previous: Option<Place>,
}

/// The chains of leaves; those of tables begin at the tables.
#[derive(Debug)]
pub(super) struct ReverseMap {
    buckets: Box<[Option<Place>]>,
    leaves: u64,
    /// Where base leaves are.
    base: Areas,
}

impl ReverseMap {
    /// Empty chains for the leaves of about so many tables, of which an eighth is used.
    ///
    /// # Errors
    /// [`OutOfTables`].
    pub(super) fn new(tables: usize) -> Result<Self, OutOfTables> {
        let (mut buckets, count) = (Vec::new(), (tables * ENTRIES / 8).next_power_of_two());
        buckets.try_reserve_exact(count).map_err(|_| OutOfTables)?;
        buckets.resize(count, None);
        Ok(Self { buckets: buckets.into_boxed_slice(), leaves: 0, base: Areas::new(tables)? })
    }

    /// How many leaves there are.
    pub(super) const fn leaves(&self) -> u64 {
        self.leaves
    }

    fn bucket(&self, (gfn, size): Page) -> usize {
        (gfn.as_u64() >> (size.shift() - PAGE_SHIFT)) as usize & (self.buckets.len() - 1)
    }

    /// The first leaf in the bucket of a page.
    pub(super) fn first_leaf(&self, page: Page) -> Option<Place> {
        self.buckets[self.bucket(page)]
    }

    /// Whether base leaves may be in the area of a frame.
    pub(super) const fn has_base_leaves(&self, gfn: Gfn) -> bool {
        self.base.has(gfn)
    }

    /// Where the chain of what is named begins.
    fn first<'a>(&'a mut self, tables: &'a mut [Table], named: Named) -> Option<&'a mut Option<Place>> {
        match named {
            Named::Nothing => None,
            Named::Table(table) => Some(&mut tables[usize::from(table)].parents),
            Named::Page(page) => {
                let bucket = self.bucket(page);
                Some(&mut self.buckets[bucket])
            }
        }
    }

    /// An entry is about to name something.
    pub(super) fn insert(&mut self, tables: &mut [Table], at: Place, (named, from): (Named, u64)) {
        let next = self.first(tables, named).and_then(|first| first.replace(at));
        if let Some(next) = next {
            link(tables, next).previous = Some(at);
        }
        *link(tables, at) = Link { named, from, next, previous: None };
        if let Named::Page((gfn, size)) = named {
            self.leaves += 1;
            if size == PageSize::Size4K {
                self.base.add(gfn);
            }
        }
    }

    /// An entry has become empty; what it named.
    pub(super) fn remove(&mut self, tables: &mut [Table], at: Place) -> Named {
        let Link { named, next, previous, .. } = core::mem::take(link(tables, at));
        if let Some(next) = next {
            link(tables, next).previous = previous;
        }
        match previous {
            Some(before) => link(tables, before).next = next,
            None => {
                if let Some(first) = self.first(tables, named) {
                    *first = next;
                }
            }
        }
        if let Named::Page((gfn, size)) = named {
            self.leaves -= 1;
            if size == PageSize::Size4K {
                self.base.remove(gfn);
            }
        }
        named
    }

    /// The leaves that map a page, as one of its size. Others may be in its chain.
    pub(super) fn leaves_of<'a>(
        &self,
        tables: &'a [Table],
        page: Page,
    ) -> impl Iterator<Item = Place> + use<'a> {
        let mut at = self.first_leaf(page);
        core::iter::from_fn(move || {
            loop {
                let place = at?;
                let Link { named, next, .. } = tables[usize::from(place.table())].link(place.index());
                at = next;
                if named == Named::Page(page) {
                    return Some(place);
                }
            }
        })
    }

    /// The leaves that map any of these guest frames, of whatever size.
    pub(super) fn leaves_in<'a>(
        &'a self,
        tables: &'a [Table],
        gfns: GfnRange,
    ) -> impl Iterator<Item = Place> + use<'a> {
        pieces(gfns).flat_map(move |piece| {
            let large = intact(Mutant::ShadowAgeMissesLarge).then(|| around(piece.start()));
            let base = self.has_base_leaves(piece.start()).then_some(piece);
            let base = base.into_iter().flat_map(|piece| piece.iter()).map(|gfn| (gfn, PageSize::Size4K));
            large.into_iter().chain(base).flat_map(|page| self.leaves_of(tables, page))
        })
    }
}

fn link(tables: &mut [Table], at: Place) -> &mut Link {
    tables[usize::from(at.table())].link_mut(at.index())
}
