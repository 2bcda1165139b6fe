//! The memory manager's operations on areas, each judged.

use super::areas::{Area, Backing as Backed, Run};
use super::{World, address, number, run, span};
use crate::Violation;
use crate::lab::Verdict;
use addr::{Hva, PAGE_SHIFT, PageSize};
use mm::{Advice, Change, MapError, MapRequest, Placement, Protection, VmaFlags, VmaKind};
use std::sync::Arc;

/// What is to be mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backing {
    /// Private memory in pages of this size.
    Anonymous(PageSize),
    /// A file from this page on, copied where it is written.
    Private {
        /// Which file.
        file: usize,
        /// Its first page.
        index: u64,
    },
    /// A file from this page on.
    Shared {
        /// Which file.
        file: usize,
        /// Its first page.
        index: u64,
    },
}

/// What the callback of `apply_to_page_range` does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Callback {
    /// The same to each page.
    Each(Change),
    /// Unmaps some pages, then fails.
    FailsAfter(u64),
}

impl World {
    /// mmap at a fixed place.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn mmap(
        &mut self,
        id: usize,
        (first, count): (u64, u64),
        protection: Protection,
        backing: Backing,
    ) -> Result<Verdict, Violation> {
        let pages = run(first, count);
        let shift = |index: u64| index.wrapping_sub(pages.0) as i64;
        let (kind, backed) = match backing {
            Backing::Anonymous(size) => (VmaKind::Anonymous(size), Backed::Anonymous(size)),
            Backing::Private { file, index } => (
                VmaKind::Private(Arc::clone(&self.files[file]), index),
                Backed::Private { file, shift: shift(index) },
            ),
            Backing::Shared { file, index } => (
                VmaKind::Shared(Arc::clone(&self.files[file]), index),
                Backed::Shared { file, shift: shift(index) },
            ),
        };
        let align = kind.page_size().base_pages();
        self.huge |= align > 1;
        // As Linux does: a length that is no whole number of huge pages is rounded up.
        let pages = (pages.0, pages.0 + count.next_multiple_of(align));
        let placement = Placement::Fixed(address(pages.0));
        let request = MapRequest { placement, len: span(pages).len(), protection, kind };
        let found = Verdict::of(self.space(id).mmap(request));
        self.absorb()?;
        let space = self.model.space(id);
        let aligned = pages.0.is_multiple_of(align);
        let expected = if !aligned || space.areas.cuts(pages) { Verdict::BadRange } else { Verdict::Done };
        if (expected, found) == (Verdict::Done, Verdict::Done) {
            space.unmap(pages);
            let flags = VmaFlags::empty();
            space.areas.insert(pages, Area { protection, backing: backed, flags });
        }
        self.judged(|| format!("mmap of {} {backing:?} in {id}", span(pages)), &[expected], found)
    }

    /// munmap.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn munmap(&mut self, id: usize, (first, count): (u64, u64)) -> Result<Verdict, Violation> {
        let pages = run(first, count);
        let found = Verdict::of(self.space(id).munmap(address(pages.0), span(pages).len()));
        self.absorb()?;
        let expected = self.unless_cut(id, pages, Verdict::Done);
        if (expected, found) == (Verdict::Done, Verdict::Done) {
            self.model.space(id).unmap(pages);
        }
        self.judged(|| format!("munmap of {} in {id}", span(pages)), &[expected], found)
    }

    /// mprotect.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn mprotect(
        &mut self,
        id: usize,
        (first, count): (u64, u64),
        protection: Protection,
    ) -> Result<Verdict, Violation> {
        let pages = run(first, count);
        let found = Verdict::of(self.space(id).mprotect(address(pages.0), span(pages).len(), protection));
        self.absorb()?;
        let expected = self.unless_cut(id, pages, self.done_or_hole(id, pages));
        if expected == found && found != Verdict::BadRange {
            let areas = &mut self.model.space(id).areas;
            let prefix = (pages.0, areas.covered_to(pages));
            let read_only: Vec<_> =
                areas.parts(prefix).filter(|(_, area)| area.protection != Protection::ReadWrite).collect();
            areas.change(prefix, |area| area.protection = protection);
            for (part, area) in read_only {
                self.bring_in(id, part, &Area { protection, ..area });
            }
        }
        self.judged(|| format!("mprotect {} {protection:?} in {id}", span(pages)), &[expected], found)
    }

    /// `madvise(DONTNEED)`.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn discard(&mut self, id: usize, (first, count): (u64, u64)) -> Result<Verdict, Violation> {
        let pages = run(first, count);
        let found = Verdict::of(self.space(id).discard(address(pages.0), span(pages).len()));
        self.absorb()?;
        let (end, verdict) = self.advised(id, pages, |_| None);
        let expected = self.unless_cut(id, pages, verdict);
        if expected == found && found != Verdict::BadRange {
            self.model.space(id).forget((pages.0, end));
        }
        self.judged(|| format!("discard of {} in {id}", span(pages)), &[expected], found)
    }

    /// How far advice comes that some areas refuse, and what it answers: the first refusal ends it, holes do not.
    fn advised(&self, id: usize, pages: Run, refuses: impl Fn(&Area) -> Option<Verdict>) -> (u64, Verdict) {
        let Some(space) = &self.model.spaces[id] else { return (pages.1, Verdict::Hole) };
        let refusal = space.areas.parts(pages).find_map(|((first, _), area)| {
            let locked = area.flags.contains(VmaFlags::LOCKED).then_some(Verdict::Locked);
            Some((first, locked.or_else(|| refuses(&area))?))
        });
        refusal.unwrap_or((pages.1, self.done_or_hole(id, pages)))
    }

    fn done_or_hole(&self, id: usize, pages: Run) -> Verdict {
        let covered = self.model.spaces[id].as_ref().is_some_and(|space| space.areas.covers(pages));
        if covered { Verdict::Done } else { Verdict::Hole }
    }

    fn unless_cut(&self, id: usize, pages: Run, verdict: Verdict) -> Verdict {
        let cut = self.model.spaces[id].as_ref().is_some_and(|space| space.areas.cuts(pages));
        if cut { Verdict::BadRange } else { verdict }
    }

    /// madvise.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn madvise(
        &mut self,
        id: usize,
        (first, count): (u64, u64),
        advice: Advice,
    ) -> Result<Verdict, Violation> {
        let pages = run(first, count);
        let found = Verdict::of(self.space(id).madvise(address(pages.0), span(pages).len(), advice));
        self.absorb()?;
        let small = Backed::Anonymous(PageSize::Size4K);
        let (end, verdict) = match advice {
            Advice::Free => {
                self.advised(id, pages, |area| (area.backing != small).then_some(Verdict::NotAnonymous))
            }
            Advice::Cold | Advice::PageOut => {
                self.advised(id, pages, |area| area.is_hugetlb().then_some(Verdict::NotAnonymous))
            }
            _ => (pages.1, self.done_or_hole(id, pages)),
        };
        let expected = self.unless_cut(id, pages, verdict);
        self.huge |= advice == Advice::HugePage;
        let tried =
            expected != Verdict::BadRange && (found != Verdict::OutOfMemory || advice == Advice::Free);
        if tried {
            let space = self.model.space(id);
            match advice {
                Advice::Free => space.free_lazily((pages.0, end)),
                Advice::Cold => self.machine.excuse_unaged_guests(),
                Advice::PageOut => {}
                Advice::HugePage => flag(space, pages, VmaFlags::HUGE, VmaFlags::NO_HUGE),
                Advice::NoHugePage => flag(space, pages, VmaFlags::NO_HUGE, VmaFlags::HUGE),
                Advice::Mergeable => flag(space, pages, VmaFlags::MERGEABLE, VmaFlags::empty()),
                Advice::Unmergeable => flag(space, pages, VmaFlags::empty(), VmaFlags::MERGEABLE),
            }
        }
        self.judged(|| format!("madvise {advice:?} of {} in {id}", span(pages)), &[expected], found)
    }

    /// mlock. Where a device or an allocation fails, the operation is tried again: how far it came is not known.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn mlock(&mut self, id: usize, (first, count): (u64, u64)) -> Result<Verdict, Violation> {
        let pages = run(first, count);
        let lock = |world: &Self| Verdict::of(world.space(id).mlock(address(pages.0), span(pages).len()));
        let mut found = lock(self);
        if matches!(found, Verdict::OutOfMemory | Verdict::DeviceFailed) {
            self.set_devices_failing(false);
            self.cancel_failure();
            found = lock(self);
        }
        self.absorb()?;
        let mut expected = self.unless_cut(id, pages, self.done_or_hole(id, pages));
        if expected != Verdict::BadRange {
            self.flag_to_hole(id, pages, VmaFlags::LOCKED, VmaFlags::empty());
        }
        if expected == Verdict::Done {
            expected = self.touch_locked(id, pages);
        }
        if (expected, found) == (Verdict::Done, Verdict::Done) {
            let absent = (pages.0..pages.1).find(|&page| {
                let in_place = self.model.area(id, page).is_some_and(|area| area.is_in_place());
                !in_place && self.living(id).space.lookup(address(page)).is_none()
            });
            if let Some(page) = absent {
                return self.judged(|| format!("page {page:#x}, locked in {id}"), &[], Verdict::NotResident);
            }
        }
        self.judged(|| format!("mlock of {} in {id}", span(pages)), &[expected], found)
    }

    /// Sets and clears flags up to the first hole.
    fn flag_to_hole(&mut self, id: usize, pages: Run, set: VmaFlags, clear: VmaFlags) {
        let space = self.model.space(id);
        let covered = space.areas.covered_to(pages);
        flag(space, (pages.0, covered), set, clear);
    }

    /// munlock.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn munlock(&mut self, id: usize, (first, count): (u64, u64)) -> Result<Verdict, Violation> {
        let pages = run(first, count);
        let found = Verdict::of(self.space(id).munlock(address(pages.0), span(pages).len()));
        let expected = self.unless_cut(id, pages, self.done_or_hole(id, pages));
        if expected == found && found != Verdict::BadRange {
            self.flag_to_hole(id, pages, VmaFlags::empty(), VmaFlags::LOCKED);
        }
        self.judged(|| format!("munlock of {} in {id}", span(pages)), &[expected], found)
    }

    /// msync.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn msync(&mut self, id: usize, (first, count): (u64, u64)) -> Result<Verdict, Violation> {
        let pages = run(first, count);
        let found = Verdict::of(self.space(id).msync(address(pages.0), span(pages).len()));
        let mut expected = vec![self.done_or_hole(id, pages)];
        expected.extend(self.disk.is_failing().then_some(Verdict::DeviceFailed));
        self.judged(|| format!("msync of {} in {id}", span(pages)), &expected, found)
    }

    /// `apply_to_page_range`.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn apply(
        &mut self,
        id: usize,
        (first, count): (u64, u64),
        callback: Callback,
    ) -> Result<Verdict, Violation> {
        let pages = run(first, count);
        let mut unmapped: Vec<Run> = Vec::new();
        let mut visit = |hva: Hva, size: PageSize| {
            let change = match callback {
                Callback::Each(change) => change,
                Callback::FailsAfter(pages) if unmapped.len() as u64 == pages => return Err(Failed::ByTest),
                Callback::FailsAfter(_) => Change::Unmap,
            };
            if change == Change::Unmap {
                let first = hva.as_u64() >> PAGE_SHIFT;
                unmapped.push((first, first + size.base_pages()));
            }
            Ok(change)
        };
        let space = self.space(id);
        let found =
            space.apply_to_page_range(address(pages.0), span(pages).len(), |hva, leaf| visit(hva, leaf.size));
        let found = match found {
            Ok(()) | Err(Failed::ByTest) => Verdict::Done,
            Err(Failed::Map(error)) => error.into(),
        };
        self.absorb()?;
        unmapped.iter().for_each(|&pages| self.model.space(id).forget(pages));
        let expected = self.unless_cut(id, pages, Verdict::Done);
        self.judged(|| format!("apply {callback:?} to {} in {id}", span(pages)), &[expected], found)
    }

    /// Stores to each page of a range. The oracle looks once.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn populate(&mut self, id: usize, (first, count): (u64, u64)) -> Result<Verdict, Violation> {
        let space = self.space(id);
        for page in number(first)..number(first) + count {
            if self.model.access(id, page, mm::Access::Write) != Verdict::Done {
                break;
            }
            let found = space.fault_in(address(page), mm::Access::Write);
            self.absorb()?;
            self.model.take_own(id, page, super::model::Certainty::Maybe);
            if found.is_err() {
                break;
            }
        }
        self.judged(
            || format!("populating {count} pages from {first} in {id}"),
            &[Verdict::Done],
            Verdict::Done,
        )
    }

    /// A collapse of the pages around one.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn collapse(&mut self, id: usize, page: u64) -> Result<Verdict, Violation> {
        let hva = address(number(page));
        let space = self.space(id);
        let (found, huge) = match space.collapse(hva) {
            Ok(collapsed) => (Verdict::Done, collapsed),
            Err(_) => (Verdict::OutOfMemory, false),
        };
        if huge && space.lookup(hva).is_some_and(|mapping| mapping.size != PageSize::Size2M) {
            let (what, found) = (format!("collapse at {hva}"), "small pages".into());
            return Err(Violation::Answer { what, expected: "a huge page".into(), found });
        }
        // Not every shortage of huge frames is one of frames.
        self.judged(|| format!("collapse at {hva} in {id}"), &[Verdict::Done, Verdict::OutOfMemory], found)
    }
}

/// Why `apply_to_page_range` ended.
enum Failed {
    ByTest,
    Map(MapError),
}

impl From<MapError> for Failed {
    fn from(error: MapError) -> Self {
        Self::Map(error)
    }
}

fn flag(space: &mut super::model::Space, pages: Run, set: VmaFlags, clear: VmaFlags) {
    let possible = |area: &Area| if area.is_mergeable() { VmaFlags::all() } else { !VmaFlags::MERGEABLE };
    space.areas.change(pages, |area| area.flags = (area.flags - clear) | (set & possible(area)));
}
