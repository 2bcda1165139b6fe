//! Which tables of a shadow stand for a guest's table, or for part of a large page.
//!
//! ```text
//!   gfn ─► bucket ─► table ─► table ─► ...      of every level and role, so that who writes a frame finds all at once
//! ```

use super::areas::Areas;
use super::origin::Origin;
use super::table::Table;
use addr::Gfn;
use alloc::boxed::Box;
use alloc::vec::Vec;
use paging::OutOfTables;

#[derive(Debug)]
pub(super) struct Index {
    buckets: Box<[Option<u16>]>,
    /// Where guests' tables are.
    guests: Areas,
}

impl Index {
    /// An empty one for about so many tables.
    ///
    /// # Errors
    /// [`OutOfTables`].
    pub(super) fn new(tables: usize) -> Result<Self, OutOfTables> {
        let (mut buckets, count) = (Vec::new(), tables.next_power_of_two());
        buckets.try_reserve_exact(count).map_err(|_| OutOfTables)?;
        buckets.resize(count, None);
        Ok(Self { buckets: buckets.into_boxed_slice(), guests: Areas::new(tables)? })
    }

    fn bucket(&self, gfn: Gfn) -> usize {
        // Parts of large pages begin at multiples of 512.
        (gfn.as_u64() ^ gfn.as_u64() >> 9) as usize & (self.buckets.len() - 1)
    }

    /// The first table in the bucket of a frame.
    pub(super) fn first(&self, gfn: Gfn) -> Option<u16> {
        self.buckets[self.bucket(gfn)]
    }

    /// Tables in the bucket of a frame.
    fn chain<'a>(&self, tables: &'a [Table], gfn: Gfn) -> impl Iterator<Item = u16> + use<'a> {
        let next = |&table: &u16| tables[usize::from(table)].next;
        core::iter::successors(self.first(gfn), next)
    }

    /// The table that stands for this.
    pub(super) fn find(&self, tables: &[Table], origin: Origin) -> Option<u16> {
        self.chain(tables, origin.gfn).find(|&table| tables[usize::from(table)].origin == Some(origin))
    }

    /// The tables that stand for a guest's table in this frame, whatever its level.
    pub(super) fn tables_of<'a>(&self, tables: &'a [Table], gfn: Gfn) -> impl Iterator<Item = u16> + use<'a> {
        let is_of = move |&table: &u16| tables[usize::from(table)].guest_table() == Some(gfn);
        self.chain(tables, gfn).filter(is_of)
    }

    /// Whether tables of the guest's may lie in the same 2 MiB as a frame, or in others like those.
    pub(super) const fn has_tables_near(&self, gfn: Gfn) -> bool {
        self.guests.has(gfn)
    }

    /// A table is about to stand for its origin.
    pub(super) fn insert(&mut self, tables: &mut [Table], table: u16, origin: Origin) {
        let bucket = self.bucket(origin.gfn);
        tables[usize::from(table)].next = self.buckets[bucket].replace(table);
        if origin.is_table() {
            self.guests.add(origin.gfn);
        }
    }

    /// A table stands for this no more.
    pub(super) fn remove(&mut self, tables: &mut [Table], table: u16, origin: Origin) {
        let gfn = origin.gfn;
        if origin.is_table() {
            self.guests.remove(gfn);
        }
        let next = tables[usize::from(table)].next.take();
        let before = self.chain(tables, gfn).find(|&other| tables[usize::from(other)].next == Some(table));
        match before {
            Some(before) => tables[usize::from(before)].next = next,
            None => {
                let bucket = self.bucket(gfn);
                self.buckets[bucket] = next;
            }
        }
    }
}
