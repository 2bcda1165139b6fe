//! Which pages are there without a touch, as far as that is defined.
//!
//! | page | rule |
//! |---|---|
//! | anonymous | there on both sides, or on neither |
//! | of a file | there on Linux, if it is there in `mm`: Linux also maps pages around a fault |
//! | touched just now, or locked | there on both |
//! | of a range just discarded | there on neither |
//! | after `FREE`, `COLD`, `PAGEOUT`, until its next touch; where huge pages were asked for; inherited untouched | open |

use super::{Bench, Outcome, pages};
use crate::answer::Answer;
use crate::areas::{Area, Backed, find, joined};
use crate::bench::Difference;
use crate::herald::Presence;
use crate::step::{Advised, Place, Range, Raw, To, What};
use crate::{END, SPACES};
use addr::{PAGE_SIZE, PageSize};
use mm::{Advice, Protection, VmaFlags};
use std::collections::BTreeSet;

/// What is known of a space's pages.
#[derive(Clone, Default, Debug)]
pub(super) struct Notes {
    /// Pages whose presence is open.
    open: BTreeSet<u64>,
    /// Pages that either side may drop at any time (`MADV_FREE`).
    pub(super) freed: BTreeSet<u64>,
}

impl Notes {
    /// The presence of these pages is open from now on.
    pub(super) fn open(&mut self, pages: impl IntoIterator<Item = u64>) {
        self.open.extend(pages);
    }

    /// A page was touched.
    pub(super) fn touched(&mut self, page: u64, area: &Area) {
        if area.flags.contains(VmaFlags::HUGE) {
            let huge = page & !(PageSize::Size2M.bytes() - 1);
            self.open((huge..huge + PageSize::Size2M.bytes()).step_by(PAGE_SIZE as usize));
        } else {
            self.open.remove(&page);
        }
    }

    fn forget(&mut self, range: std::ops::Range<u64>) {
        for set in [&mut self.open, &mut self.freed] {
            take(set, &range);
        }
    }

    fn relocate(&mut self, from: std::ops::Range<u64>, to: u64) {
        for set in [&mut self.open, &mut self.freed] {
            let moved = take(set, &from);
            set.extend(moved.into_iter().map(|page| page - from.start + to));
        }
    }
}

fn can_be_freed(area: &Area) -> bool {
    area.backed == Backed::Anonymous && !area.flags.contains(VmaFlags::LOCKED)
}

fn take(set: &mut BTreeSet<u64>, range: &std::ops::Range<u64>) -> BTreeSet<u64> {
    let mut taken = set.split_off(&range.start);
    let mut rest = taken.split_off(&range.end);
    set.append(&mut rest);
    taken
}

impl Bench<'_> {
    /// What a call that was made means for the pages of a space; `before` are the areas that were there.
    pub(super) fn note(&mut self, id: usize, what: What, answer: Answer, before: &[Area]) {
        let notes = &mut self.notes[id];
        match (what, answer) {
            (What::Mmap { place: Place::Fixed(start), len, .. }, Ok(_)) => {
                notes.forget(pages(Range { start, len }));
            }
            (What::Munmap(range), Ok(_)) => notes.forget(pages(range)),
            (What::Mremap { range, new_len, to }, Ok(now)) => {
                let (old, new) = (pages(range), pages(Range { start: range.start, len: new_len }));
                notes.forget(new.end.min(old.end)..old.end);
                if let (To::Fixed(_), _) | (To::MayMove, true) = (to, now != range.start.0) {
                    notes.forget(pages(Range { start: Raw(now), len: new_len }));
                    notes.relocate(old.start..old.end.min(new.end), now);
                }
            }
            (What::Madvise(range, Advised::Discard), Ok(_)) => notes.forget(pages(range)),
            (What::Madvise(range, Advised::Other(advice)), _) => {
                let inside: Vec<_> =
                    before.iter().flat_map(Area::pages).filter(|page| pages(range).contains(page)).collect();
                if advice == Advice::Free {
                    // The first area that refuses ends it.
                    let frees = |page: &&u64| find(before, **page).is_some_and(can_be_freed);
                    notes.freed.extend(inside.iter().take_while(frees));
                }
                notes.open(inside);
            }
            _ => {}
        }
    }

    /// Presence of the pages that a call has named, where the call says what it must be.
    pub(super) fn compare_named(&mut self, id: usize, what: What, answer: Answer) -> Outcome {
        let (range, expected) = match (what, answer) {
            (What::Madvise(range, Advised::Discard), Ok(_)) => (range, false),
            (What::Mlock(range), Ok(_)) => (range, true),
            _ => return Ok(()),
        };
        let areas = joined(&self.herald.areas(id));
        let named = |page: &u64| {
            let area = find(&areas, *page);
            pages(range).contains(page) && area.is_some_and(|area| area.protection != Protection::None)
        };
        let named: Vec<_> = areas.iter().flat_map(Area::pages).filter(named).collect();
        self.expect_presence(id, &named, expected)
    }

    pub(super) fn expect_presence(&mut self, id: usize, pages: &[u64], expected: bool) -> Outcome {
        let Some(present) = self.kernel.presence(id, pages) else { return Ok(()) };
        self.report.pages += pages.len() as u64;
        for (&page, linux) in pages.iter().zip(present) {
            let herald = self.herald.presence(id, page);
            if linux != expected || (herald != Presence::Absent) != expected {
                return Err(Difference::Presence { space: id, page, linux, herald });
            }
        }
        Ok(())
    }

    /// Presence of all pages of a space, where it is defined.
    pub(super) fn compare_presence(&mut self, id: usize) -> Outcome {
        for area in joined(&self.herald.areas(id)) {
            if area.start >= END || area.flags.contains(VmaFlags::HUGE) {
                continue;
            }
            let pages: Vec<_> = area.pages().filter(|page| !self.notes[id].open.contains(page)).collect();
            let Some(present) = self.kernel.presence(id, &pages) else { return Ok(()) };
            self.report.pages += pages.len() as u64;
            for (page, linux) in pages.into_iter().zip(present) {
                let herald = self.herald.presence(id, page);
                let there = herald != Presence::Absent;
                let fits = if area.backed == Backed::Anonymous { linux == there } else { linux || !there };
                if !fits {
                    return Err(Difference::Presence { space: id, page, linux, herald });
                }
            }
        }
        Ok(())
    }

    /// A page that `MADV_FREE` has given up, and that one side has dropped: the other may drop it, too, and does.
    pub(super) fn settle_freed(&mut self) -> Outcome {
        for id in 0..SPACES {
            if self.notes[id].freed.is_empty() {
                continue;
            }
            // What is locked since is not dropped any more.
            let areas = joined(&self.herald.areas(id));
            let freed = self.notes[id].freed.iter().copied();
            let freed: Vec<_> = freed.filter(|&page| find(&areas, page).is_some_and(can_be_freed)).collect();
            // Without a word on presence nothing is known to have gone.
            let present = self.kernel.presence(id, &freed);
            for (page, linux) in freed.into_iter().zip(present.into_iter().flatten()) {
                let herald = self.herald.presence(id, page) != Presence::Absent;
                let what = What::Madvise(Range { start: Raw(page), len: Raw(PAGE_SIZE) }, Advised::Discard);
                let dropped = match (linux, herald) {
                    (true, false) => self.kernel.call(id, what),
                    (false, true) => self.herald.call(id, what),
                    _ => continue,
                };
                dropped.map_err(|_| Difference::Kept { space: id, page })?;
            }
        }
        Ok(())
    }
}
