//! mremap and `remap_file_pages`, each judged.

use super::areas::{Area, Backing, Run};
use super::model::Certainty;
use super::{ANNEX, World, address, number, run, span};
use crate::Violation;
use crate::lab::Verdict;
use addr::PAGE_SHIFT;
use mm::{Protection, Remap, VmaFlags};

/// Where mremap may put pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Move {
    /// They stay.
    InPlace,
    /// They stay if they can.
    MayMove,
    /// To this page.
    Fixed(u64),
}

impl World {
    /// The real area that holds a page: where equal neighbours are one is the manager's choice.
    fn real_area(&self, id: usize, page: u64) -> Option<Run> {
        let vmas = self.living(id).space.vmas();
        let vma = vmas.iter().find(|vma| vma.range.contains(address(page)))?;
        Some((vma.range.start().as_u64() >> PAGE_SHIFT, vma.range.end().as_u64() >> PAGE_SHIFT))
    }

    /// mremap.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn mremap(
        &mut self,
        id: usize,
        (first, count): (u64, u64),
        new: u64,
        to: Move,
    ) -> Result<Verdict, Violation> {
        let (old, wanted) = (run(first, count), run(first, new));
        let place = match to {
            Move::InPlace => Remap::InPlace,
            Move::MayMove => Remap::MayMove,
            Move::Fixed(page) => Remap::Fixed(address(number(page))),
        };
        let real = self.real_area(id, old.0);
        let moved = self.space(id).mremap(address(old.0), span(old).len(), span(wanted).len(), place);
        self.absorb()?;
        let target = match to {
            Move::Fixed(page) => Some(run(page, new)),
            Move::InPlace | Move::MayMove => None,
        };
        let found = Verdict::of(moved);
        if found == Verdict::OutOfMemory {
            // What a fixed target replaces may be gone, and so may the tail.
            target.into_iter().for_each(|target| self.follow(id, target));
            self.follow(id, (wanted.1.min(old.1), old.1));
        }
        let expected = match self.remapped(id, real, (old, wanted), (to, target), found) {
            Ok(start) => {
                let told = moved.map_or(start, |hva| hva.as_u64() >> PAGE_SHIFT);
                if told == start { Verdict::Done } else { Verdict::NoRoom }
            }
            Err(verdict) => verdict,
        };
        self.judged(|| format!("mremap of {} to {new} pages {to:?} in {id}", span(old)), &[expected], found)
    }

    /// What mremap must do; does it to the model where the product has done it.
    fn remapped(
        &mut self,
        id: usize,
        real: Option<Run>,
        (old, wanted): (Run, Run),
        (to, target): (Move, Option<Run>),
        found: Verdict,
    ) -> Result<u64, Verdict> {
        if target.is_some_and(|target| target.0 < old.1 && old.0 < target.1) {
            return Err(Verdict::BadRange);
        }
        let space = self.model.space(id);
        let area = space.areas.find(old.0).ok_or(Verdict::Hole)?;
        if area.is_hugetlb() {
            return Err(Verdict::BadRange);
        }
        let kept = (old.0, old.1.min(wanted.1));
        let real = real.ok_or(Verdict::Hole)?;
        // What merely shrinks need not be in one area.
        if kept.1 > real.1 && (target.is_some() || old.1 < wanted.1) {
            return Err(Verdict::Hole);
        }
        if target.is_some_and(|target| space.areas.cuts(target)) {
            return Err(Verdict::BadRange);
        }
        if found == Verdict::OutOfMemory {
            return Ok(old.0);
        }
        if let Some(target) = target {
            space.unmap(target);
        }
        if space.areas.cuts((kept.1, old.1)) {
            return Err(Verdict::BadRange);
        }
        if kept.1 < old.1 {
            space.unmap((kept.1, old.1));
        }
        let more = (old.1, wanted.1.max(old.1));
        if target.is_none() && more.0 == more.1 {
            return Ok(old.0);
        }
        if target.is_none() && real.1 == old.1 && space.areas.parts(more).next().is_none() {
            space.areas.insert(more, area);
            self.bring_in(id, more, &area);
            return Ok(old.0);
        }
        if to == Move::InPlace {
            return Err(Verdict::NoRoom);
        }
        let count = wanted.1 - wanted.0;
        let start = target.map_or_else(|| space.areas.gap(number(ANNEX), count), |target| target.0);
        space.relocate(kept, start);
        let by = start.wrapping_sub(old.0) as i64;
        let (behind, end) = (start + (kept.1 - kept.0), start + count);
        if behind < end {
            space.areas.insert((behind, end), area.moved(by));
            self.bring_in(id, (behind, end), &area);
        }
        Ok(start)
    }

    /// What is added to a locked area, or becomes writable in it, is brought in, as far as that is possible.
    pub(super) fn bring_in(&mut self, id: usize, added: Run, area: &Area) {
        if area.flags.contains(VmaFlags::LOCKED) && area.protection == Protection::ReadWrite {
            (added.0..added.1).for_each(|page| self.model.take_own(id, page, Certainty::Maybe));
        }
    }

    /// Unmaps in the model what the product has unmapped.
    fn follow(&mut self, id: usize, pages: Run) {
        let gone: Vec<_> = (pages.0..pages.1).filter(|&page| self.real_area(id, page).is_none()).collect();
        gone.into_iter().for_each(|page| self.model.space(id).unmap((page, page + 1)));
    }

    /// `remap_file_pages`. Where it runs out of memory it is tried again: how far it came is not known.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn remap_file_pages(
        &mut self,
        id: usize,
        (first, count): (u64, u64),
        index: u64,
    ) -> Result<Verdict, Violation> {
        let pages = run(first, count);
        let space = self.space(id);
        let whole = self.real_area(id, pages.0);
        let remap = || Verdict::of(space.remap_file_pages(address(pages.0), span(pages).len(), index));
        let mut found = remap();
        if found == Verdict::OutOfMemory && self.cancel_failure_that_fired() {
            found = remap();
        }
        self.absorb()?;
        let area = self.model.area(id, pages.0);
        let expected = match (whole, area) {
            (Some(whole), Some(Area { backing, .. })) if pages.1 <= whole.1 => match backing {
                Backing::Shared { file, .. } if file != super::IN_PLACE => {
                    let space = self.model.space(id);
                    space.areas.change(whole, |area| area.flags.insert(VmaFlags::NONLINEAR));
                    space.rearrange(pages, index);
                    Verdict::Done
                }
                _ => Verdict::NotShared,
            },
            _ => Verdict::Hole,
        };
        self.judged(|| format!("remap of {} to {index} in {id}", span(pages)), &[expected], found)
    }

    /// Whether the failure asked for has happened.
    fn cancel_failure_that_fired(&mut self) -> bool {
        let armed = self.armed;
        !self.cancel_failure() && armed
    }
}
