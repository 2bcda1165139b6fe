//! `apply_to_page_range`: a callback for each page of a range, with begin and end around all of it.

use super::map::checked_range;
use super::zap::Keep;
use super::{AddressSpace, MapError};
use crate::gather::Gather;
use crate::host::Host;
use addr::{Hva, HvaRange, PageSize};
use mutants::RangeSite;
use paging::{Leaf, Rights};

/// What the callback wants done with a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Nothing.
    Keep,
    /// Its entry allows no writes from now on; the next write faults.
    WriteProtect,
    /// Its entry goes; the next touch faults the page in again. The page of a private area is lost with it.
    Unmap,
}

impl<H: Host> AddressSpace<H> {
    /// Calls `change` for each page that is mapped in a range, with its address and its entry: transparent huge pages
    /// are split first, hugetlb pages are whole. Takes the mmap lock for reading. Patch site `apply_to_page_range`:
    /// begin and end over the whole range, also when the callback fails.
    ///
    /// # Errors
    /// [`MapError::BadRange`], [`MapError::OutOfTables`] where a huge page could not be split; the callback's error,
    /// at which it ends: what was changed before stays so.
    pub fn apply_to_page_range<E: From<MapError>>(
        &self,
        start: Hva,
        len: u64,
        mut change: impl FnMut(Hva, &Leaf) -> Result<Change, E>,
    ) -> Result<(), E> {
        let range = checked_range(start, len, PageSize::Size4K)?;
        let vmas = self.vmas.read();
        let _small = self.bar_huge_pages();
        self.prepare_bounds(&vmas, range)?;
        for (part, vma) in vmas.overlapping(range) {
            self.split_all(vma, part).map_err(|_| MapError::OutOfTables)?;
            self.own_tables(part).map_err(|_| MapError::OutOfTables)?;
        }
        let _invalidation = self.chain.invalidate(RangeSite::ApplyToPageRange, range);
        let mut gather = self.gather(RangeSite::ApplyToPageRange);
        vmas.overlapping(range)
            .try_for_each(|(part, vma)| self.apply_changes(part, Keep::of(vma), &mut gather, &mut change))
    }

    fn apply_changes<E>(
        &self,
        range: HvaRange,
        keep: Keep,
        gather: &mut Gather<'_, H>,
        change: &mut impl FnMut(Hva, &Leaf) -> Result<Change, E>,
    ) -> Result<(), E> {
        let _tables = self.tables.lock();
        let outcome = self.cursor(range).try_for_each(|visit| {
            let address = Hva::new(visit.address);
            let Some(leaf) = visit.found.leaf() else { return Ok(()) };
            match change(address, &leaf)? {
                Change::WriteProtect if leaf.rights.write => {
                    self.replace(visit.found.at, visit.found.entry, |entry| entry.with_rights(Rights::READ));
                    gather.touch(address, leaf.size);
                }
                Change::Keep | Change::WriteProtect => {}
                Change::Unmap => self.clear_leaf(&visit, gather, keep),
            }
            Ok(())
        });
        // Before the lock is dropped: whoever finds an entry changed owes nothing for it (I6).
        gather.flush();
        outcome
    }
}
