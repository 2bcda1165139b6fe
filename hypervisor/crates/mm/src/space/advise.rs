//! madvise and mlock.

use super::map::{named_range, named_range_or_hole, refuse_locked, refuse_too_many};
use super::{AddressSpace, FaultError, MapError};
use crate::batch::Few;
use crate::frames::PageFlags;
use crate::host::Host;
use crate::shrink::cluster_at;
use crate::vma::{Access, Vma, VmaFlags};
use addr::{Hva, HvaRange, PageSize, Pfn};
use alloc::vec::Vec;
use core::ops::ControlFlow;
use mutants::{Mutant, RangeSite, intact};
use paging::HostEntry;

/// What madvise says of a range. `MADV_DONTNEED` is [`AddressSpace::discard`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Advice {
    /// `MADV_FREE`: private anonymous pages whose contents do not matter until they are written again.
    Free,
    /// `MADV_COLD`: not used for a while.
    Cold,
    /// `MADV_PAGEOUT`: to be swapped out or written back now.
    PageOut,
    /// `MADV_HUGEPAGE`.
    HugePage,
    /// `MADV_NOHUGEPAGE`.
    NoHugePage,
    /// `MADV_MERGEABLE`.
    Mergeable,
    /// `MADV_UNMERGEABLE`.
    Unmergeable,
}

/// What comes of areas behind a hole in the range of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holes {
    /// They change like those before.
    Skipped,
    /// The first hole ends the call.
    Final,
}

impl<H: Host> AddressSpace<H> {
    /// Takes advice on a range. Takes the mmap lock, for writing where areas change.
    ///
    /// # Errors
    /// [`MapError::BadRange`], [`MapError::OutOfTables`] where a huge page could not be split; [`MapError::Hole`]:
    /// what has an area took the advice; [`MapError::Locked`], [`MapError::NotAnonymous`]: what lies before took it;
    /// [`MapError::TooManyAreas`], where areas change.
    pub fn madvise(&self, start: Hva, len: u64, advice: Advice) -> Result<(), MapError> {
        let Some(range) = named_range(start, len)? else { return Ok(()) };
        let (none, skipped) = (VmaFlags::empty(), Holes::Skipped);
        match advice {
            Advice::Free => self.for_parts(range, |part, vma| self.free_lazily(part, vma)),
            Advice::Cold => self.for_parts(range, |part, vma| self.make_cold(part, vma)),
            Advice::PageOut => self.page_out(range),
            Advice::HugePage => self.flag(range, skipped, VmaFlags::HUGE, VmaFlags::NO_HUGE),
            Advice::NoHugePage => self.flag(range, skipped, VmaFlags::NO_HUGE, VmaFlags::HUGE),
            Advice::Mergeable => self.flag(range, skipped, VmaFlags::MERGEABLE, none),
            Advice::Unmergeable => {
                self.flag(range, skipped, none, VmaFlags::MERGEABLE)?;
                self.part_merged(range);
                Ok(())
            }
        }
    }

    /// Nothing in the range is merged any more; what has been stays so. Takes the mmap lock for writing.
    ///
    /// # Errors
    /// [`MapError::Hole`]; [`MapError::TooManyAreas`], [`MapError::OutOfTables`], where areas are cut.
    pub fn stop_merging(&self, range: HvaRange) -> Result<(), MapError> {
        self.flag(range, Holes::Skipped, VmaFlags::empty(), VmaFlags::MERGEABLE)
    }

    fn flag(&self, range: HvaRange, holes: Holes, set: VmaFlags, clear: VmaFlags) -> Result<(), MapError> {
        let mut vmas = self.vmas.write();
        refuse_too_many(&vmas, Some(range), 0)?;
        // The areas are cut at the bounds, and no page may lie across two of them.
        self.prepare_bounds(&vmas, range)?;
        let covered = vmas.covered_to(range);
        let end = if holes == Holes::Skipped { range.end() } else { covered };
        vmas.flag(HvaRange::new(range.start(), end), set, clear);
        if covered == range.end() { Ok(()) } else { Err(MapError::Hole(range)) }
    }

    fn for_parts(
        &self,
        range: HvaRange,
        mut advise: impl FnMut(HvaRange, &Vma<H>) -> Result<(), MapError>,
    ) -> Result<(), MapError> {
        let vmas = self.vmas.read();
        let _small = self.bar_huge_pages();
        self.prepare_bounds(&vmas, range)?;
        vmas.overlapping(range).try_for_each(|(part, vma)| advise(part, vma))?;
        if vmas.covered_to(range) == range.end() { Ok(()) } else { Err(MapError::Hole(range)) }
    }

    /// Pages become clean and old, in the entries and in the frames: reclaim may drop those that stay so. The
    /// secondaries lose them, so that the next write through one of them makes the frame dirty again (I7).
    fn free_lazily(&self, range: HvaRange, vma: &Vma<H>) -> Result<(), MapError> {
        refuse_locked(range, vma)?;
        if vma.kind.file().is_some() || vma.kind.page_size() != PageSize::Size4K {
            return Err(MapError::NotAnonymous(range));
        }
        self.split_all(vma, range).map_err(|_| MapError::OutOfTables)?;
        self.own_tables(range).map_err(|_| MapError::OutOfTables)?;
        let _invalidation = self.chain.invalidate(RangeSite::FreeLazily, range);
        // Dropped first: flushed before the end.
        let mut gather = self.gather(RangeSite::FreeLazily);
        let _tables = self.tables.lock();
        for visit in self.cursor(range) {
            let Some(leaf) = visit.found.leaf() else { continue };
            let Some(meta) = self.mm.counted(leaf.pfn) else { continue };
            if !meta.has(PageFlags::EXCLUSIVE) || meta.count() != 1 {
                continue;
            }
            meta.clear(PageFlags::DIRTY);
            meta.set(PageFlags::LAZY_FREE);
            self.replace(visit.found.at, visit.found.entry, |entry: HostEntry| {
                if intact(Mutant::FreeLeavesDirty) { entry.aged().cleaned() } else { entry.aged() }
            });
            gather.touch(Hva::new(visit.address), leaf.size);
        }
        gather.flush();
        Ok(())
    }

    /// Pages become old, for all who use them.
    fn make_cold(&self, range: HvaRange, vma: &Vma<H>) -> Result<(), MapError> {
        refuse_unlisted(range, vma)?;
        let _tables = self.tables.lock();
        for visit in self.cursor(range) {
            if visit.found.leaf().is_some() {
                self.replace(visit.found.at, visit.found.entry, HostEntry::aged);
            }
        }
        if intact(Mutant::NoFlushOfCold) {
            self.flush_primary(range);
        }
        self.chain.clear_young(range);
        Ok(())
    }

    fn page_out(&self, range: HvaRange) -> Result<(), MapError> {
        self.for_parts(range, |part, vma| {
            refuse_unlisted(part, vma)?;
            self.split_all(vma, part).map_err(|_| MapError::OutOfTables)?;
            let mut rest = part;
            while let Some(cluster) = self.page_out_cluster(rest) {
                if !intact(Mutant::PageOutStopsEarly) {
                    break;
                }
                rest = HvaRange::new(cluster.end().min(part.end()), part.end());
            }
            Ok(())
        })
    }

    /// Reclaims the first pages of a range that are there, as far as they are of one cluster: which that is, `None`: there are none. A page
    /// that does not go stays; nothing is lost.
    fn page_out_cluster(&self, range: HvaRange) -> Option<HvaRange> {
        let (first, frame) = self.first_old(range, |_| true)?;
        let cluster = cluster_at(first);
        let mut pages: Few<(Hva, Pfn)> = Few::new();
        let wanted =
            if intact(Mutant::PageOutTakesCluster) { cluster.intersection(&range)? } else { cluster };
        self.old_frames(
            wanted,
            |_| true,
            |address, frame| {
                let _ = pages.push((address, frame));
                ControlFlow::Continue(())
            },
        );
        self.mm.put(frame);
        self.mm.page_out_together(self.myself()?, &pages);
        pages.iter().for_each(|&(_, frame)| self.mm.put(frame));
        Some(cluster)
    }

    /// `mlock`: the pages of a range are there, and stay. As in Linux, what a bound cuts counts in whole, and areas before
    /// the first hole are locked even where there is one. Takes the mmap lock.
    ///
    /// # Errors
    /// [`MapError::BadRange`], also where the range cuts a hugetlb page, [`MapError::OutOfTables`], [`MapError::Hole`],
    /// [`MapError::TooManyAreas`]; [`MapError::Fault`]: the area is locked, and a page could not be brought in, or may
    /// not be touched.
    pub fn mlock(&self, start: Hva, len: u64) -> Result<(), MapError> {
        let Some(range) = touched_range(start, len)? else { return Ok(()) };
        self.flag(range, Holes::Final, VmaFlags::LOCKED, VmaFlags::empty())?;
        self.bring_in(range).map_err(MapError::Fault)
    }

    /// Touches each page of a range up to the first that cannot be brought in: private pages that may be written by a
    /// write, which makes them the area's own; shared ones by a read, which makes none dirty for nothing.
    pub(super) fn bring_in(&self, range: HvaRange) -> Result<(), FaultError> {
        range.pages().try_for_each(|page| {
            let copies = |vma: &Vma<H>| vma.kind.is_private() && vma.protection.allows(Access::Write);
            let own = self.vmas.read().find(page).is_some_and(copies);
            let access = if own { Access::Write } else { Access::Read };
            self.fault_in(page, access).map(|_| ())
        })
    }

    /// `munlock`. Takes the mmap lock.
    ///
    /// # Errors
    /// [`MapError::BadRange`], [`MapError::OutOfTables`], [`MapError::TooManyAreas`]; [`MapError::Hole`]: what lies before
    /// it is unlocked.
    pub fn munlock(&self, start: Hva, len: u64) -> Result<(), MapError> {
        let Some(range) = touched_range(start, len)? else { return Ok(()) };
        self.flag(range, Holes::Final, VmaFlags::empty(), VmaFlags::LOCKED)
    }

    /// `msync(MS_SYNC)`: pages of shared files that are mapped in a range are written back. Takes the mmap lock for
    /// reading.
    ///
    /// # Errors
    /// [`MapError::BadRange`], [`MapError::Hole`]: what has an area was written; [`MapError::Store`]: a page stays
    /// dirty.
    pub fn msync(&self, start: Hva, len: u64) -> Result<(), MapError> {
        let Some(range) = named_range_or_hole(start, len)? else { return Ok(()) };
        let (files, covered) = {
            let vmas = self.vmas.read();
            let shared = vmas.overlapping(range).filter(|(_, vma)| !vma.kind.is_private());
            let files: Vec<_> = shared.filter_map(|(_, vma)| vma.kind.file().cloned()).collect();
            (files, vmas.covered_to(range) == range.end())
        };
        for file in files {
            self.mm.write_back(&file).map_err(MapError::Store)?;
        }
        if covered { Ok(()) } else { Err(MapError::Hole(range)) }
    }
}

/// The pages that a range touches.
fn touched_range(start: Hva, len: u64) -> Result<Option<HvaRange>, MapError> {
    let offset = start.offset_in(PageSize::Size4K);
    let bad = MapError::BadRange { start, len, align: PageSize::Size4K };
    named_range(start.align_down(PageSize::Size4K), len.checked_add(offset).ok_or(bad)?)
}

/// Pages that reclaim never looks at have no age, and do not go.
fn refuse_unlisted<H: Host>(part: HvaRange, vma: &Vma<H>) -> Result<(), MapError> {
    refuse_locked(part, vma)?;
    if vma.kind.page_size() == PageSize::Size4K { Ok(()) } else { Err(MapError::NotAnonymous(part)) }
}
