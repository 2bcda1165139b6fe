//! Which entries of a shadow name a guest frame, or one of its tables.
//!
//! ```text
//!   gfn, size ─► bucket ─► leaf ─► leaf ─► ...           doubly linked through the links of the tables that they are in
//!                table  ─► entry ─► entry ─► ...
//! ```
//!
//! A frame is mapped by base leaves, in its chain, and by large ones, in that of the 2 MiB around it. Where no base leaf is near, only the latter is looked at.
//!
//! All there is was allocated with the tables: nothing is under the mmu lock (I4).

use super::areas::{AREA, Areas, end_of};
use super::table::{ENTRIES, Table};
use addr::{Gfn, GfnRange, PageSize};
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
    /// A guest frame.
    Frame(Gfn),
    /// As many as a large leaf maps, from this one on.
    Large(Gfn),
}

impl Named {
    /// What the large leaf around a guest frame names.
    pub(super) const fn around(gfn: Gfn) -> Self {
        Self::Large(gfn.align_down(AREA))
    }

    /// The page that a leaf maps: its first guest frame, and its size.
    pub(super) const fn page(self) -> Option<(Gfn, PageSize)> {
        match self {
            Self::Nothing | Self::Table(_) => None,
            Self::Frame(gfn) => Some((gfn, PageSize::Size4K)),
            Self::Large(gfn) => Some((gfn, AREA)),
        }
    }
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
    /// Where base leaves are.
    base: Areas,
    /// How many large ones there are.
    large: usize,
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
        Ok(Self { buckets: buckets.into_boxed_slice(), base: Areas::new(tables)?, large: 0 })
    }

    /// The bucket of a page with this number among those of its size.
    const fn bucket(&self, number: u64) -> usize {
        number as usize & (self.buckets.len() - 1)
    }

    /// The first leaf in the bucket of what is named.
    pub(super) fn first_leaf(&self, named: Named) -> Option<Place> {
        match named {
            Named::Nothing | Named::Table(_) => None,
            Named::Frame(gfn) => self.buckets[self.bucket(gfn.as_u64())],
            Named::Large(gfn) => self.buckets[self.bucket(gfn.as_u64() / AREA.base_pages())],
        }
    }

    /// The first of these guest frames that base leaves may map.
    pub(super) fn next_base(&self, mut gfns: GfnRange) -> Option<Gfn> {
        while !gfns.is_empty() {
            if self.base.has(gfns.start()) {
                return Some(gfns.start());
            }
            gfns = GfnRange::new(end_of(gfns.start()).min(gfns.end()), gfns.end());
        }
        None
    }

    /// What large leaves may name that map any of these guest frames.
    pub(super) fn large(&self, gfns: GfnRange) -> impl Iterator<Item = Named> + use<> {
        let first = Some(gfns.start()).filter(|gfn| *gfn < gfns.end() && self.large > 0);
        let next = move |gfn: &Gfn| Some(end_of(*gfn)).filter(|next| *next < gfns.end());
        core::iter::successors(first, next).map(Named::around)
    }

    /// Where the chain of what is named begins.
    fn first<'a>(&'a mut self, tables: &'a mut [Table], named: Named) -> Option<&'a mut Option<Place>> {
        match named {
            Named::Nothing => None,
            Named::Table(table) => Some(&mut tables[usize::from(table)].parents),
            Named::Frame(gfn) => {
                let bucket = self.bucket(gfn.as_u64());
                Some(&mut self.buckets[bucket])
            }
            Named::Large(gfn) => {
                let bucket = self.bucket(gfn.as_u64() / AREA.base_pages());
                Some(&mut self.buckets[bucket])
            }
        }
    }

    /// An entry is about to name something.
    #[inline(always)]
    pub(super) fn insert(&mut self, tables: &mut [Table], at: Place, (named, from): (Named, u64)) {
        let next = self.first(tables, named).and_then(|first| first.replace(at));
        if let Some(next) = next {
            link(tables, next).previous = Some(at);
        }
        *link(tables, at) = Link { named, from, next, previous: None };
        match named {
            Named::Frame(gfn) => self.base.add(gfn),
            Named::Large(_) => self.large += 1,
            Named::Nothing | Named::Table(_) => {}
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
        match named {
            Named::Frame(gfn) => self.base.remove(gfn),
            Named::Large(_) => self.large -= 1,
            Named::Nothing | Named::Table(_) => {}
        }
        named
    }

    /// The leaves that name this. Others may be in its chain.
    pub(super) fn leaves_of<'a>(
        &self,
        tables: &'a [Table],
        wanted: Named,
    ) -> impl Iterator<Item = Place> + use<'a> {
        let mut at = self.first_leaf(wanted);
        core::iter::from_fn(move || {
            loop {
                let place = at?;
                let Link { named, next, .. } = tables[usize::from(place.table())].link(place.index());
                at = next;
                if named == wanted {
                    return Some(place);
                }
            }
        })
    }

    /// Calls `look` for each leaf that maps any of these guest frames, of whatever size.
    pub(super) fn each_leaf(&self, tables: &[Table], gfns: GfnRange, mut look: impl FnMut(Place)) {
        for named in self.large(gfns).filter(|_| intact(Mutant::ShadowAgeMissesLarge)) {
            self.leaves_of(tables, named).for_each(&mut look);
        }
        let mut rest = gfns;
        while let Some(gfn) = self.next_base(rest) {
            self.leaves_of(tables, Named::Frame(gfn)).for_each(&mut look);
            rest = GfnRange::new(gfn.add(1), gfns.end());
        }
    }
}

fn link(tables: &mut [Table], at: Place) -> &mut Link {
    tables[usize::from(at.table())].link_mut(at.index())
}
