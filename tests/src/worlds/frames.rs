//! What is done to the frame at a page: reclaim, aging, migration.

use super::{World, address, number};
use crate::Violation;
use crate::lab::Verdict;
use addr::{PAGE_SHIFT, PageSize, Pfn};
use mm::{Host, Spared, VmaFlags};
use std::cell::Cell;

/// How hard reclaim tries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reclaim {
    /// A page that was used lately stays.
    Old,
    /// Every page goes.
    Any,
}

impl World {
    /// The counted frame that a page maps, with a reference, and the size of its mapping.
    fn frame_at(&self, id: usize, page: u64) -> Option<(Pfn, PageSize)> {
        self.machine.settle();
        let hva = address(number(page));
        let mapping = self.living(id).space.lookup(hva)?;
        let frame = mapping.pfn.add(hva.offset_in(mapping.size) >> PAGE_SHIFT);
        self.mm.counted(frame)?.get();
        Some((frame, mapping.size))
    }

    /// Drops the reference; whether it was the last.
    fn put(&self, frame: Pfn) -> bool {
        let last = self.machine.frames().meta(frame).put();
        if last {
            self.machine.retire(frame, PageSize::Size4K);
        }
        last
    }

    fn is_locked(&self, id: usize, page: u64) -> bool {
        self.model.area(id, number(page)).is_some_and(|area| area.flags.contains(VmaFlags::LOCKED))
    }

    /// Whether any page of any space is locked.
    fn locks(&self) -> bool {
        let mut spaces = self.model.spaces.iter().flatten();
        spaces.any(|space| space.areas.iter().any(|(_, area)| area.flags.contains(VmaFlags::LOCKED)))
    }

    /// Reclaims the frame that a page maps.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn reclaim(&mut self, id: usize, page: u64, how: Reclaim) -> Result<Verdict, Violation> {
        let Some((frame, size)) = self.frame_at(id, page) else { return Ok(Verdict::NotResident) };
        let result = match how {
            Reclaim::Old => self.mm.reclaim(frame),
            Reclaim::Any => self.mm.page_out(frame),
        };
        let freed = self.put(frame);
        let found = result.map_or_else(Verdict::Spared, |()| Verdict::Done);
        let small = size == PageSize::Size4K;
        let fits = match result {
            Ok(()) => freed && !self.is_locked(id, page) && !self.is_hugetlb(id, number(page)),
            Err(Spared::Unevictable) => self.locks() || self.is_hugetlb(id, number(page)),
            Err(Spared::Young) => how == Reclaim::Old,
            // A table of one's own comes before an entry in it goes (I18).
            Err(Spared::Busy) => !small || self.has_huge_pages() || self.is_short(),
            Err(Spared::NoSlot) => true,
            Err(Spared::Swap(_)) => self.swap.is_failing(),
            // This device takes anything.
            Err(Spared::Refused) => false,
            // Shared anonymous memory has nowhere to go.
            Err(Spared::Store(_)) => true,
        };
        let expected = if fits { vec![found] } else { vec![Verdict::Done] };
        if fits || freed {
            return self.judged(|| format!("reclaim at {page} in {id}"), &expected, found);
        }
        let (what, found) = (format!("reclaim at {page} in {id}: {how:?}"), format!("{result:?}"));
        Err(Violation::Answer { what, expected: "another answer".into(), found })
    }

    /// Whether huge pages may be mapped anywhere: one is split before it is reclaimed, which can fail.
    fn has_huge_pages(&self) -> bool {
        self.huge
    }

    /// Asks twice whether anybody has used the frame at a page.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn referenced(&mut self, id: usize, page: u64) -> Result<Verdict, Violation> {
        let Some((frame, _)) = self.frame_at(id, page) else { return Ok(Verdict::NotResident) };
        let _ = self.mm.page_referenced(frame);
        let found = Verdict::Young(self.mm.page_referenced(frame));
        self.put(frame);
        self.judged_idle(|| format!("second page_referenced at {page} in {id}"), found)
    }

    /// Asks twice whether anybody has used a page.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn age(&mut self, id: usize, page: u64) -> Result<Verdict, Violation> {
        let space = self.space(id);
        let hva = address(number(page));
        let first = space.test_and_clear_young(hva);
        let found = space.test_young(hva);
        assert_eq!(first.is_some(), found.is_some(), "aging unmapped {hva}");
        let Some(young) = found else { return Ok(Verdict::NotResident) };
        self.judged_idle(|| format!("second aging of {hva} in {id}"), Verdict::Young(young))
    }

    /// Nobody has used a page since: it is old, but where hardware speculates.
    fn judged_idle(&mut self, what: impl FnOnce() -> String, found: Verdict) -> Result<Verdict, Violation> {
        let expected =
            if self.speculates() { vec![found] } else { vec![Verdict::Young(false), Verdict::NotResident] };
        self.judged(what, &expected, found)
    }

    /// A load, and then whether the page counts as used.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn use_and_age(&mut self, id: usize, cpu: mm::CpuIndex, page: u64) -> Result<Verdict, Violation> {
        let loaded = self.load(id, cpu, page, 0)?;
        if !matches!(loaded, Verdict::Value(_)) {
            return Ok(loaded);
        }
        let young = self.space(id).test_young(address(number(page)));
        let found = young.map_or(Verdict::NotResident, Verdict::Young);
        self.judged(|| format!("aging of {page} in {id} after its use"), &[Verdict::Young(true)], found)
    }

    /// A pass of aging over all spaces.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn age_all(&mut self) -> Result<Verdict, Violation> {
        self.mm.age_all();
        self.judged(|| "aging of all spaces".into(), &[Verdict::Done], Verdict::Done)
    }

    /// Has equal pages merged: two looks at the next so many, or at all. Nothing is seen of it.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn merge(&mut self, pages: u64) -> Result<Verdict, Violation> {
        (0..2).for_each(|_| _ = self.mm.merge(pages));
        self.judged(|| "merging".into(), &[Verdict::Done], Verdict::Done)
    }

    /// Lets the policy of reclaim choose `goal` pages. Nothing is seen of it.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn shrink(&mut self, goal: u64) -> Result<Verdict, Violation> {
        self.machine.settle();
        // What is retired pushes others out of quarantine, a huge page perhaps.
        let retired = || self.machine.frames().free_count() + self.machine.quarantined_frames();
        let before = retired();
        let shrunk = self.mm.shrink(goal);
        let gained = retired().saturating_sub(before);
        let found = if gained <= shrunk.reclaimed { Verdict::Done } else { Verdict::OutOfMemory };
        self.judged(
            || format!("shrinking by {goal}: {shrunk:?}, {gained} frames gained"),
            &[Verdict::Done],
            found,
        )
    }

    /// An idle CPU zeroes so many free frames, if so many are wanted. Nothing is seen of it.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn zero_ahead(&mut self, frames: u64) -> Result<Verdict, Violation> {
        let left = Cell::new(frames);
        mm::zero_ahead(&*self.machine, || left.replace(left.get().saturating_sub(1)) > 0);
        self.judged(|| "zeroing ahead".into(), &[Verdict::Done], Verdict::Done)
    }

    /// Migrates a page. Nothing is seen of it.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn migrate(&mut self, id: usize, page: u64) -> Result<Verdict, Violation> {
        let found = Verdict::of(self.space(id).migrate_page(address(number(page))));
        let expected = [Verdict::Done, Verdict::NotResident, Verdict::Huge, Verdict::Shared];
        self.judged(|| format!("migration of {page} in {id}"), &expected, found)
    }
}
