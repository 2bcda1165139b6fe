//! Writes to pages that are present and not writable (2008: `do_wp_page`).
//!
//! | page | what happens |
//! |---|---|
//! | shared mapping of a file | the frame becomes dirty, then the entry writable |
//! | shared mapping, hole of an execute-in-place file | the hole is filled, the zero page unmapped everywhere |
//! | private, exclusive, or nobody else has it any more | the entry becomes writable: reuse, no notice |
//! | private, else | copied: the old entry is cleared, flushed, the secondaries lose the page, the new one is set |
//!
//! A page may be reused only if no other address space can reach it: the frame is exclusive, or it has one entry
//! and one reference, looked at under the page-table lock of that entry. A copy that is still referenced by whoever
//! works on the page (write-out, a pinned DMA) is never reused (CVE-2020-29374).

use super::entry::{Tables, same_leaf};
use super::fault::{Fault, Mapped};
use super::{AddressSpace, FaultError};
use crate::frames::{FrameMeta, PageFlags};
use crate::host::Host;
use addr::{PageSize, Pfn};
use mutants::{Mutant, PageSite, intact};
use paging::{Found, HostEntry, Leaf, Rights, TableEntry};

impl<H: Host> AddressSpace<H> {
    /// A write met a present entry that allows reads only.
    #[inline(always)]
    pub(super) fn write_protected(
        &self,
        fault: &Fault<'_, H>,
        found: &Found<HostEntry>,
        leaf: &Leaf,
    ) -> Mapped {
        if !fault.vma.kind.is_private() {
            return self.write_shared(fault, found, leaf).map(|()| None);
        }
        let source = match self.reuse(fault, found, leaf) {
            Reuse::Changed => return Ok(None),
            Reuse::Reused(leaf) => return Ok(Some(leaf)),
            Reuse::Not(source) => source,
        };
        match (leaf.size, fault.vma.kind.page_size()) {
            (PageSize::Size4K, _) => self.copy_page(fault, found, leaf, source),
            (_, PageSize::Size4K) => self.split_at(fault.page).map(|()| None),
            (size, _) => self.copy_huge(fault, found, leaf, size).map(|()| None),
        }
    }

    /// The same of a huge leaf, as is seldom: apart.
    #[inline(never)]
    pub(super) fn write_protected_huge(
        &self,
        fault: &Fault<'_, H>,
        found: &Found<HostEntry>,
        leaf: &Leaf,
    ) -> Mapped {
        self.write_protected(fault, found, leaf)
    }

    /// Makes the entry writable where the page is this area's alone. A base page that has to be copied is held, under the same lock.
    #[inline(always)]
    fn reuse(&self, fault: &Fault<'_, H>, found: &Found<HostEntry>, leaf: &Leaf) -> Reuse<'_> {
        // Nobody's to have alone, and never free: whether the entry has changed is looked at when there is a copy.
        if leaf.pfn == self.mm.zero_page() {
            return Reuse::Not(Source(None));
        }
        if !intact(Mutant::CopyAsksUnlocked) && self.mm.counted(leaf.pfn).is_none() {
            return Reuse::Not(Source(None));
        }
        let tables = self.tables.lock();
        let now = self.again(&tables, found);
        if !same_leaf(&now, found) {
            return Reuse::Changed;
        }
        // Asked while the entry keeps the frame: one that is free is not counted either.
        let Some(meta) = self.mm.counted(leaf.pfn) else { return Reuse::Not(Source(None)) };
        let anonymous = meta.owner().is_some_and(|(owner, _)| owner == fault.vma.anon.id());
        let last = leaf.size == PageSize::Size4K
            && (meta.count() == 1 || !intact(Mutant::ReuseIgnoresReferences))
            && meta.map_count() == 1
            && meta.swap_slot().is_none();
        if anonymous && (meta.has(PageFlags::EXCLUSIVE) || last) {
            let dirty = if intact(Mutant::NoDirtyOnReuse) { PageFlags::DIRTY } else { PageFlags::empty() };
            meta.set(PageFlags::EXCLUSIVE | dirty);
            self.make_writable(&tables, &now);
            return Reuse::Reused(Leaf { rights: Rights::READ_WRITE, ..*leaf });
        }
        let base = leaf.size == PageSize::Size4K;
        if base {
            meta.get();
        }
        Reuse::Not(Source(base.then_some((leaf.pfn, meta))))
    }

    /// More rights on the same frame: no flush, a CPU that has cached less faults and finds out.
    pub(super) fn make_writable(&self, _tables: &Tables<'_>, found: &Found<HostEntry>) {
        self.replace(found.at, found.entry, |entry| entry.with_rights(Rights::READ_WRITE));
    }

    /// The copying part. Patch site `do_wp_page`: under the page-table lock the old entry is cleared and the TLBs
    /// flushed, `invalidate_page`, and only then is the new entry set (I8).
    #[inline(always)]
    fn copy_page(
        &self,
        fault: &Fault<'_, H>,
        found: &Found<HostEntry>,
        leaf: &Leaf,
        source: Source<'_>,
    ) -> Mapped {
        let copy = match self.private_copy(fault, leaf.pfn) {
            Ok(copy) => copy,
            Err(error) => {
                source.release(self);
                return Err(error);
            }
        };
        let Some(new) = self.exchange(fault, found, &source, copy) else {
            source.release(self);
            self.mm.put(copy);
            return Ok(None);
        };
        let is_in_swap = source.0.is_some_and(|(_, meta)| meta.swap_slot().is_some());
        source.release_with_entry(self);
        // The old page's copy there may be nobody's now.
        if is_in_swap {
            self.mm.drop_orphans();
        }
        Ok(Some(new))
    }

    /// A copy of a page that nobody writes meanwhile: all its entries are read-only. The caller has a reference.
    #[inline(always)]
    pub(super) fn private_copy(&self, fault: &Fault<'_, H>, source: Pfn) -> Result<Pfn, FaultError> {
        let copy = match source == self.mm.zero_page() {
            true => self.host().allocate_zeroed(PageSize::Size4K)?,
            false => self.host().allocate_copy(source)?,
        };
        self.own(fault, copy);
        Ok(copy)
    }

    /// Points the entry at the copy, which is this area's alone; its reference on the old page is the caller's then. `None`: the entry has
    /// changed.
    #[inline(always)]
    fn exchange(
        &self,
        fault: &Fault<'_, H>,
        found: &Found<HostEntry>,
        source: &Source<'_>,
        copy: Pfn,
    ) -> Option<Leaf> {
        let tables = self.tables.lock();
        let now = self.again(&tables, found);
        // Swapped out and in again since it was copied, the page may have become this area's own, been written, and
        // write-protected again: the entry looks the same, the contents are not.
        let reusable = source.0.is_some_and(|(_, meta)| meta.has(PageFlags::EXCLUSIVE));
        if !same_leaf(&now, found) || reusable && intact(Mutant::CopyIgnoresExclusive) {
            return None;
        }
        self.clear_flush_notify(PageSite::DoWpPage, &tables, fault.page, &now);
        fault.announced.set(u64::from(!self.chain.is_empty()));
        let rights = fault.vma.protection.rights();
        let leaf = Leaf { pfn: copy, size: PageSize::Size4K, rights, accessed: false, dirty: true };
        self.host().frames().meta(copy).add_entry();
        self.host().store(now.at, HostEntry::leaf(leaf).bits());
        // A page for a page, where the old one is counted.
        match source.0 {
            Some((_, meta)) => self.mm.remove_from(meta),
            None if intact(Mutant::CopyOfZeroUncounted) => self.count_pages(1),
            None => {}
        }
        Some(leaf)
    }
}

/// What has become of the attempt to write where the page is.
enum Reuse<'a> {
    /// The entry is another one by now: the fault looks again.
    Changed,
    /// It is writable.
    Reused(Leaf),
    /// Others have the page, too.
    Not(Source<'a>),
}

/// A reference on the page that is copied, and its metadata; none where the frame is not counted.
#[must_use = "a reference is to be released"]
struct Source<'a>(Option<(Pfn, &'a FrameMeta)>);

impl Source<'_> {
    fn release<H: Host>(self, space: &AddressSpace<H>) {
        if let Some((frame, _)) = self.0 {
            space.mm.put(frame);
        }
    }

    /// The same, and the reference of the entry that mapped it.
    fn release_with_entry<H: Host>(self, space: &AddressSpace<H>) {
        if let Some((frame, meta)) = self.0
            && meta.put_both()
        {
            space.host().retire(frame, PageSize::Size4K);
        }
    }
}
