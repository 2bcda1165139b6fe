//! Which leaves of a shadow map a guest frame.
//!
//! ```text
//!   gfn ─► bucket ─► leaf ─► leaf ─► ...        doubly linked through the links of the tables that they are in
//! ```
//!
//! All there is was allocated with the tables: nothing is under the mmu lock (I4). To forget everything, the buckets get a new
//! generation.

use super::tables::Table;
use addr::Gfn;
use alloc::boxed::Box;
use alloc::vec::Vec;
use paging::OutOfTables;

/// The place of a leaf: the number of its table, and its index there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) table: u16,
    pub(super) index: u16,
}

/// What belongs to an entry: for a leaf, the frame that it maps and its neighbours in the chain; for an entry that names a
/// table, that table's number.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Link {
    /// The entry is empty.
    #[default]
    None,
    /// A table.
    Table(u16),
    /// A leaf.
    Leaf {
        /// The guest frame.
        gfn: Gfn,
        /// The next in the chain.
        next: Option<Place>,
        /// The one before; `None`: the bucket.
        previous: Option<Place>,
    },
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    generation: u32,
    first: Option<Place>,
}

/// The chains.
#[derive(Debug)]
pub(super) struct ReverseMap {
    buckets: Box<[Bucket]>,
    generation: u32,
    len: u64,
}

impl ReverseMap {
    /// Empty chains for about so many leaves.
    ///
    /// # Errors
    /// [`OutOfTables`].
    pub(super) fn new(leaves: usize) -> Result<Self, OutOfTables> {
        let (mut buckets, count) = (Vec::new(), leaves.next_power_of_two());
        buckets.try_reserve_exact(count).map_err(|_| OutOfTables)?;
        buckets.resize(count, Bucket { generation: 0, first: None });
        Ok(Self { buckets: buckets.into_boxed_slice(), generation: 0, len: 0 })
    }

    /// How many leaves there are.
    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    fn bucket(&self, gfn: Gfn) -> usize {
        gfn.as_u64() as usize & (self.buckets.len() - 1)
    }

    /// The first leaf in the chain of a frame; others of the chain may map other frames.
    pub(super) fn first(&self, gfn: Gfn) -> Option<Place> {
        let bucket = self.buckets[self.bucket(gfn)];
        bucket.first.filter(|_| bucket.generation == self.generation)
    }

    /// A leaf is about to appear.
    pub(super) fn insert(&mut self, tables: &mut [Table], at: Place, gfn: Gfn) {
        let (first, bucket) = (self.first(gfn), self.bucket(gfn));
        if let Some(first) = first {
            set_previous(tables, first, Some(at));
        }
        *link(tables, at) = Link::Leaf { gfn, next: first, previous: None };
        self.buckets[bucket] = Bucket { generation: self.generation, first: Some(at) };
        self.len += 1;
    }

    /// A leaf has gone.
    pub(super) fn remove(&mut self, tables: &mut [Table], at: Place) {
        let Link::Leaf { gfn, next, previous } = core::mem::take(link(tables, at)) else { return };
        if let Some(next) = next {
            set_previous(tables, next, previous);
        }
        match previous {
            Some(before) => {
                if let Link::Leaf { next: its, .. } = link(tables, before) {
                    *its = next;
                }
            }
            None => {
                let bucket = self.bucket(gfn);
                self.buckets[bucket].first = next;
            }
        }
        self.len -= 1;
    }

    /// All leaves have gone. Their links are of no meaning any more.
    pub(super) fn clear(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.len = 0;
        if self.generation == 0 {
            self.buckets.fill(Bucket { generation: 0, first: None });
        }
    }
}

fn link(tables: &mut [Table], at: Place) -> &mut Link {
    &mut tables[usize::from(at.table)].links[usize::from(at.index)]
}

fn set_previous(tables: &mut [Table], of: Place, to: Option<Place>) {
    if let Link::Leaf { previous, .. } = link(tables, of) {
        *previous = to;
    }
}
