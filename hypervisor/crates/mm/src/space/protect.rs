//! mprotect.

use super::map::{named_range_or_hole, refuse_too_many};
use super::{AddressSpace, MapError};
use crate::gather::Gather;
use crate::host::Host;
use crate::vma::{Access, Protection, Vma, VmaFlags};
use addr::{Hva, HvaRange};
use alloc::vec::Vec;
use mutants::{Mutant, RangeSite, intact};
use paging::{
    Entries, Found, HostEntry, HostRights, Leaf, Level, PageTable, Part, Rights, TableEntry, View, Visit,
};

impl<H: Host> AddressSpace<H> {
    /// Changes the protection of a range. As in Linux, areas before the first hole change even where there
    /// is one, and private pages that are locked and become writable are brought in, as far as that is possible: their
    /// first write is not to wait for a copy. Takes the mmap lock for writing.
    ///
    /// # Errors
    /// [`MapError::BadRange`], also where the range cuts a hugetlb page, [`MapError::OutOfTables`] where a huge page
    /// could not be split, [`MapError::TooManyAreas`]: nothing has changed. [`MapError::Hole`].
    pub fn mprotect(&self, start: Hva, len: u64, protection: Protection) -> Result<(), MapError> {
        let Some(range) = named_range_or_hole(start, len)? else { return Ok(()) };
        let mut vmas = self.vmas.write();
        refuse_too_many(&vmas, Some(range), 0)?;
        self.prepare_bounds(&vmas, range)?;
        let covered = vmas.covered_to(range);
        let prefix = HvaRange::new(range.start(), covered);
        let becomes_writable = |vma: &Vma<H>| {
            vma.flags.contains(VmaFlags::LOCKED)
                && vma.kind.is_private()
                && !vma.protection.allows(Access::Write)
                && protection.allows(Access::Write)
        };
        let parts = vmas.overlapping(prefix).filter(|(_, vma)| becomes_writable(vma));
        let wanted: Vec<_> = parts.map(|(part, _)| part).collect();
        self.own_tables(prefix).map_err(|_| MapError::OutOfTables)?;
        if !prefix.is_empty() {
            vmas.protect(prefix, protection);
            for (part, vma) in vmas.overlapping(prefix) {
                self.mprotect_fixup(part, vma);
            }
        }
        drop(vmas);
        for part in wanted {
            let _ = self.bring_in(part);
        }
        if covered == range.end() { Ok(()) } else { Err(MapError::Hole(range)) }
    }

    /// Patch site `mprotect_fixup`, normal and huge: begin and end around the change of the entries, which is
    /// flushed in between.
    fn mprotect_fixup(&self, range: HvaRange, vma: &Vma<H>) {
        let invalidation = self.chain.invalidate(RangeSite::MprotectFixup, range);
        let mut gather = self.gather(RangeSite::MprotectFixup);
        let tables = self.tables.lock();
        for part in self.parts(range) {
            match part {
                Part::Table(table) => self.protect_table(&table, vma, &mut gather),
                Part::Leaf(visit) => self.protect_leaf(&visit, vma, &mut gather),
            }
        }
        gather.flush();
        drop(tables);
        drop(invalidation);
    }

    fn protect_leaf(&self, visit: &Visit<HostEntry>, vma: &Vma<H>, gather: &mut Gather<'_, H>) {
        let Some(leaf) = visit.found.leaf() else { return };
        let rights = self.rights_again(vma, &leaf);
        let entry = self.replace(visit.found.at, visit.found.entry, |entry| entry.with_rights(rights));
        let old = Found { entry, ..visit.found };
        if old.leaf().is_some_and(|old| old.rights != rights) {
            gather.touch(Hva::new(visit.address), leaf.size);
        }
    }

    /// The pages of a table. What is read-only is so whatever the frame is, and of a private page the frame's word is enough:
    /// neither takes a look at what an entry says.
    fn protect_table(&self, table: &PageTable, vma: &Vma<H>, gather: &mut Gather<'_, H>) {
        let (most, least) = (HostRights::of(vma.protection.rights()), HostRights::of(Rights::READ));
        if !vma.protection.rights().write {
            return self.protect_pages(table, gather, |_| most);
        }
        if vma.kind.is_private() {
            let is_exclusive = self.host().frames().are_exclusive();
            let rights = move |entry: HostEntry| if is_exclusive(entry.page()) { most } else { least };
            return self.protect_pages(table, gather, rights);
        }
        self.protect_pages(table, gather, |entry| match entry.view(Level::Pt) {
            View::Leaf(leaf) => HostRights::of(self.rights_again(vma, &leaf)),
            View::Empty | View::Table(_) | View::Note(_) => HostRights::of(Rights::NONE),
        });
    }

    /// Each page of a table gets the rights that its entry shall have. A CPU may set A and D meanwhile, and nothing else. Apart, so
    /// that the loop has the registers to itself.
    #[inline(never)]
    fn protect_pages(
        &self,
        table: &PageTable,
        gather: &mut Gather<'_, H>,
        rights: impl Fn(HostEntry) -> HostRights,
    ) {
        let entries = self.host().entries(table.table);
        let mut changed = false;
        for index in table.entries.clone() {
            let mut old = HostEntry::from_bits(entries.load(index));
            if !old.is_page() {
                continue;
            }
            let rights = rights(old);
            if old.with(rights) == old {
                continue;
            }
            table.is_to_change();
            let exchange =
                |old: HostEntry| entries.compare_exchange(index, old.bits(), old.with(rights).bits());
            while let Err(now) = exchange(old) {
                old = HostEntry::from_bits(now);
            }
            changed = true;
        }
        if changed {
            gather.touch_pages(table, table.entries.clone());
        }
    }

    /// The rights of a present entry under its area's new protection. That a shared page of a file is dirty holds
    /// under the page lock only, write-back may be about to make it clean (I7): what is not writable becomes so by a
    /// fault, which takes that lock.
    fn rights_again(&self, vma: &Vma<H>, leaf: &Leaf) -> Rights {
        let rights = self.rights_for(vma.protection, &vma.kind, leaf.pfn);
        let dirty_in_doubt = !vma.kind.is_private() && self.mm.counted(leaf.pfn).is_some();
        if rights.write && !leaf.rights.write && dirty_in_doubt && intact(Mutant::MprotectTrustsDirty) {
            Rights::READ
        } else {
            rights
        }
    }
}
