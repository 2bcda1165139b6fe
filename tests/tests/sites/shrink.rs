//! The policy of reclaim: what was used stays, what was not goes, and a fault that finds no frame waits for that.

use crate::Outcome;
use crate::bench::{Bench, Plan, SMALL, answer, bytes};
use crate::races::{finish, meanwhile};
use addr::PageSize;
use mm::{Advice, CpuIndex, Host, Spared};
use mmu::AccessedDirty;
use paging::{HostEntry, Note, View};
use std::sync::Arc;
use tests::lab::{Verdict, page};
use tests::machine::Event;

pub(crate) const PAGES: u64 = 64;
pub(crate) const WIDE: Plan = Plan { ram: PAGES, swap: PAGES, ..SMALL };
const WITHOUT_BITS: Plan = Plan { accessed_dirty: AccessedDirty::Absent, ..WIDE };

impl Bench {
    pub(crate) fn ages(&self) -> Outcome {
        self.mm.age_all();
        self.check()
    }

    /// Reclaims so many pages.
    pub(crate) fn shrinks(&self, goal: u64) -> Outcome {
        let shrunk = self.mm.shrink(goal);
        self.check()?;
        let differs = || answer("shrinking", format!("{goal} pages at least"), format!("{shrunk:?}"));
        if shrunk.reclaimed >= goal { Ok(()) } else { Err(differs()) }
    }

    /// Just these pages are there.
    pub(crate) fn resident(&self, there: impl Fn(u64) -> bool) -> Outcome {
        let wrong = (0..PAGES).find(|&index| self.frame(0, index).is_some() != there(index));
        wrong.map_or(Ok(()), |index| {
            let expected = if there(index) { "there" } else { "gone" };
            Err(answer(&format!("page {index}"), expected, "the opposite"))
        })
    }

    /// The swap slot of a page.
    fn slot_of(&self, index: u64) -> u64 {
        let root = self.space(0).space.root();
        let found = paging::walk::<HostEntry, _>(&*self.machine, root, page(index).as_u64());
        match found.view() {
            View::Note(Note::Swap(slot)) => slot,
            other => panic!("page {index}: {other:?}"),
        }
    }

    /// Runs with no more than so many free frames.
    fn with_frames<T>(&self, left: u64, run: impl FnOnce() -> T) -> T {
        let frames = self.machine.frames();
        let count = frames.free_count() - left;
        let held: Vec<_> =
            (0..count).map(|_| frames.allocate(CpuIndex(0), PageSize::Size4K).expect("a frame")).collect();
        let result = run();
        for frame in held {
            assert!(frames.meta(frame).put());
            frames.free(CpuIndex(0), frame, PageSize::Size4K);
        }
        result
    }
}

/// Filled by the guest, and long ago.
pub(crate) fn filled(plan: Plan) -> Result<Bench, tests::Violation> {
    let b = Bench::new(plan);
    b.map_pages(0, 0, PAGES)?;
    for index in 0..PAGES {
        b.guest_writes(0, index, 100 + index)?;
    }
    b.ages()?;
    Ok(b)
}

/// Pages that a stream has brought ahead go first, without a pass of aging; one that was used since stays.
#[test]
fn pages_ahead_that_nobody_has_used_go_first() -> Outcome {
    let b = Bench::new(Plan { needs_young: true, ..WIDE });
    b.map_pages(0, 0, PAGES)?;
    for index in 0..10 {
        b.guest_writes(0, index, 100 + index)?;
    }
    b.resident(|index| index < 17)?;
    b.guest_writes(0, 12, 112)?;
    let passes = b.machine.frames().generation();
    b.shrinks(6)?;
    assert_eq!(b.machine.frames().generation(), passes);
    b.resident(|index| index < 10 || index == 12)?;
    b.both_read(0, 12, 112)?;
    b.both_read(0, 11, 0)?;
    b.finish()
}

/// Every other page is used in some way since the last pass but one; the others go.
fn what_is_used_stays(plan: Plan, use_it: impl Fn(&Bench, u64) -> Outcome) -> Outcome {
    let b = filled(plan)?;
    b.ages()?;
    (0..PAGES).step_by(2).try_for_each(|index| use_it(&b, index))?;
    b.ages()?;
    b.shrinks(PAGES / 2)?;
    b.resident(|index| index % 2 == 0)?;
    for index in 0..PAGES {
        b.both_read(0, index, 100 + index)?;
    }
    b.finish()
}

#[test]
fn what_the_guest_uses_stays() -> Outcome {
    what_is_used_stays(WIDE, |b, index| b.guest_reads(0, index, 100 + index))
}

#[test]
fn what_the_guest_uses_stays_without_accessed_bits() -> Outcome {
    what_is_used_stays(WITHOUT_BITS, |b, index| b.guest_reads(0, index, 100 + index))
}

#[test]
fn what_herald_uses_stays() -> Outcome {
    what_is_used_stays(WIDE, |b, index| b.herald_reads(0, index, 100 + index))
}

/// A pass has seen an entry, and is about to clear A in it: what Herald stores then is only in the entry's D.
#[test]
fn what_herald_writes_in_the_middle_of_a_pass_is_kept() -> Outcome {
    let b = Arc::new(filled(WIDE)?);
    b.does(0, "MADV_FREE", |space| space.madvise(page(0), bytes(1), Advice::Free))?;
    b.ages()?;
    b.herald_reads(0, 0, 100)?;
    let root = b.space(0).space.root();
    let at = paging::walk::<HostEntry, _>(&*b.machine, root, page(0).as_u64()).at;
    let entry = move |event| matches!(event, Event::Change(changed) if changed == at);
    meanwhile(&b, entry, |b| {
        b.machine.store_linear(b.space(0).herald_cpu, page(0), 200).expect("an entry");
    });
    (0..2).try_for_each(|_| b.ages())?;
    b.ages()?;
    b.shrinks(PAGES)?;
    b.both_read(0, 0, 200)?;
    finish(b)
}

/// A page that was used before the last pass goes at the first attempt: the pass has taken note of that use.
#[test]
fn what_was_used_long_ago_goes_before_what_was_used_lately() -> Outcome {
    let b = filled(WIDE)?;
    (1..PAGES).step_by(2).try_for_each(|index| b.guest_reads(0, index, 100 + index))?;
    b.ages()?;
    (0..PAGES).step_by(2).try_for_each(|index| b.guest_reads(0, index, 100 + index))?;
    b.ages()?;
    b.ages()?;
    let asked = b.mm.shrink(PAGES / 2).reclaimed;
    b.check()?;
    assert_eq!(asked, PAGES / 2);
    b.resident(|index| index % 2 == 0)?;
    b.finish()
}

#[test]
fn neighbours_are_next_to_each_other_in_swap() -> Outcome {
    let b = filled(WIDE)?;
    b.ages()?;
    b.shrinks(PAGES)?;
    let slots: Vec<_> = b.mm.swap_notes().into_iter().map(|(slot, _)| slot).collect();
    assert_eq!(slots, (0..PAGES).collect::<Vec<_>>());
    // In the order of their addresses, a cluster at a time: read ahead would find them.
    for cluster in (0..PAGES).step_by(16) {
        let first = b.slot_of(cluster);
        (0..16).for_each(|index| assert_eq!(b.slot_of(cluster + index), first + index));
    }
    b.finish()
}

#[test]
fn a_fault_that_finds_no_frame_makes_room() -> Outcome {
    // An eighth of all frames are in quarantine, once they have been used.
    let b = Bench::new(Plan { frames: 256, ..WIDE });
    b.map_pages(0, 0, PAGES)?;
    b.guest_writes(0, 0, 100)?;
    b.with_frames(PAGES * 3 / 4, || -> Outcome {
        for index in 0..PAGES {
            same(Verdict::Done, b.guest_store(0, index, 100 + index))?;
        }
        for index in 0..PAGES {
            same(Verdict::Value(100 + index), b.guest_load(0, index))?;
        }
        Ok(())
    })?;
    b.finish()
}

fn same(expected: Verdict, found: Verdict) -> Outcome {
    let differs = || answer("an access", format!("{expected:?}"), format!("{found:?}"));
    if found == expected { Ok(()) } else { Err(differs()) }
}

/// Page 2 goes and comes back so often that page 0 is long gone; page 1 is just gone.
fn one_is_missed_soon_and_one_late() -> Result<Bench, tests::Violation> {
    let b = Bench::new(Plan { frames: 512, ..WIDE });
    b.map_pages(0, 0, PAGES)?;
    b.fill(0, 0..3, 10)?;
    b.page_out(0, 0)?;
    // No more frames than all can be in use.
    for _ in 0..=b.machine.frames().total() {
        b.page_out(0, 2)?;
        assert_eq!(b.load(0, 2), Verdict::Value(12));
    }
    b.page_out(0, 1)?;
    let before = b.mm.refaults();
    b.guest_reads(0, 0, 10)?;
    assert_eq!(b.mm.refaults(), before, "page 0 was not missed for long");
    b.guest_reads(0, 1, 11)?;
    assert_eq!(b.mm.refaults(), before + 1, "page 1 is needed now");
    Ok(b)
}

#[test]
fn what_comes_back_soon_stays_and_what_comes_back_late_goes() -> Outcome {
    let b = one_is_missed_soon_and_one_late()?;
    assert_eq!(b.mm.shrink(1).reclaimed, 1);
    b.check()?;
    assert_eq!([0, 1, 2].map(|index| b.frame(0, index).is_some()), [false, true, true]);
    (0..3).try_for_each(|index| b.both_read(0, index, 10 + index))?;
    b.finish()
}

/// It has come back late, and is used again: it is as good as the others.
#[test]
fn a_second_use_counts() -> Outcome {
    let b = one_is_missed_soon_and_one_late()?;
    b.ages()?;
    b.guest_reads(0, 0, 10)?;
    b.ages()?;
    b.ages()?;
    b.shrinks(2)?;
    assert_eq!([0, 1, 2].map(|index| b.frame(0, index).is_some()), [true, false, false]);
    (0..3).try_for_each(|index| b.both_read(0, index, 10 + index))?;
    b.finish()
}

#[test]
fn locked_pages_stay() -> Outcome {
    let b = filled(WIDE)?;
    b.does(0, "mlock", |space| space.mlock(page(0), bytes(PAGES / 2)))?;
    b.ages()?;
    b.ages()?;
    assert_eq!(b.mm.shrink(PAGES).reclaimed, PAGES / 2);
    b.resident(|index| index < PAGES / 2)?;
    b.finish()
}

#[test]
fn full_swap_is_told() -> Outcome {
    let b = filled(Plan { swap: 5, ..WIDE })?;
    let shrunk = b.mm.shrink(PAGES);
    assert_eq!((shrunk.reclaimed, shrunk.swap_is_full), (5, true));
    assert_eq!(b.reclaim(0, 60)?, Err(Spared::NoSlot));
    (0..PAGES).try_for_each(|index| b.both_read(0, index, 100 + index))?;
    b.finish()
}
