//! Sites that the patch has no word for: transparent huge pages are split and collapsed.

use crate::Outcome;
use crate::bench::{Bench, LARGE, SMALL, answer, bytes};
use crate::scenario::Scenario;
use addr::PageSize;
use mm::{Advice, Host, Protection, Remap, Spared};
use tests::lab::{Notice, Verdict, page};

impl Bench {
    /// The size of the page that holds this one.
    fn size(&self, id: usize, index: u64) -> Option<PageSize> {
        self.space(id).space.lookup(page(index)).map(|mapping| mapping.size)
    }

    /// Every tenth page of a huge page holds `value` + its number, for guest and Herald.
    fn tenths_read(&self, id: usize, value: u64, except: &[u64]) -> Outcome {
        for index in (0..512).step_by(10).filter(|index| !except.contains(index)) {
            self.same("a guest's load", Verdict::Value(value + index), self.guest_load(id, index))?;
            self.same("Herald's load", Verdict::Value(value + index), self.load(id, index))?;
        }
        Ok(())
    }
}

/// A transparent huge page: every tenth base page of it is 1000 + its number.
fn one_huge_page(b: &Bench) -> Outcome {
    b.map_pages(0, 0, 1024)?;
    b.does(0, "MADV_HUGEPAGE", |space| space.madvise(page(0), bytes(1024), Advice::HugePage))?;
    for index in (0..512).step_by(10) {
        assert_eq!(b.store(0, index, 1000 + index), Verdict::Done);
        assert_eq!(b.guest_store(0, index, 1000 + index), Verdict::Done);
    }
    assert_eq!(b.size(0, 5), Some(PageSize::Size2M));
    b.check()
}

/// 512 base pages, the same contents.
fn base_pages(b: &Bench) -> Outcome {
    b.map_pages(0, 0, 1024)?;
    for index in 0..512 {
        assert_eq!(b.store(0, index, 1000 + index), Verdict::Done);
        assert_eq!(b.guest_load(0, index), Verdict::Value(1000 + index));
    }
    b.check()
}

pub(crate) const SPLIT_BY_PROTECT: Scenario = Scenario {
    name: "split: a part of a huge page becomes read-only",
    plan: LARGE,
    prepare: one_huge_page,
    act: |b| {
        b.does(0, "mprotect", |space| space.mprotect(page(10), bytes(1), Protection::Read))?;
        assert_eq!(b.size(0, 5), Some(PageSize::Size4K));
        b.same("a guest's store", Verdict::Denied, b.guest_store(0, 10, 1))?;
        b.guest_writes(0, 20, 77)?;
        b.tenths_read(0, 1000, &[20])
    },
};

pub(crate) const SPLIT_BY_MUNMAP: Scenario = Scenario {
    name: "split: a part of a huge page is unmapped",
    plan: LARGE,
    prepare: one_huge_page,
    act: |b| {
        b.does(0, "munmap", |space| space.munmap(page(10), bytes(1)))?;
        b.same("a guest's load", Verdict::Unmapped, b.guest_load(0, 10))?;
        b.tenths_read(0, 1000, &[10])?;
        b.map_pages(0, 10, 1)?;
        b.both_read(0, 10, 0)
    },
};

pub(crate) const COLLAPSE: Scenario = Scenario {
    name: "collapse: base pages that a guest uses become one huge page",
    plan: LARGE,
    prepare: base_pages,
    act: |b| {
        let done = b.space(0).space.collapse(page(7));
        b.check()?;
        if done != Ok(true) {
            return Err(answer("collapse", "done", format!("{done:?}")));
        }
        assert_eq!(b.size(0, 5), Some(PageSize::Size2M));
        b.tenths_read(0, 1000, &[])?;
        b.guest_writes(0, 3, 77)?;
        b.herald_reads(0, 3, 77)
    },
};

pub(crate) const FORK: Scenario = Scenario {
    name: "copy_page_range: fork of a transparent huge page, which a write splits",
    plan: LARGE,
    prepare: one_huge_page,
    act: |b| {
        let child = b.fork(0)?;
        assert_eq!(b.size(child, 5), Some(PageSize::Size2M));
        b.tenths_read(child, 1000, &[])?;
        b.guest_reads(0, 10, 1010)?;
        b.guest_writes(0, 10, 77)?;
        b.herald_writes(child, 20, 78)?;
        b.both_read(child, 10, 1010)?;
        b.both_read(0, 20, 1020)?;
        b.tenths_read(0, 1000, &[10])?;
        b.tenths_read(child, 1000, &[20])
    },
};

/// A part moves: its pages are found, wherever they are.
pub(crate) const MOVE: Scenario = Scenario {
    name: "move_ptes: a part of a huge page moves",
    plan: LARGE,
    prepare: one_huge_page,
    act: |b| {
        let there = Remap::Fixed(page(1100));
        b.does(0, "mremap", |space| space.mremap(page(10), bytes(20), bytes(20), there))?;
        b.same("a guest's load", Verdict::Unmapped, b.guest_load(0, 10))?;
        b.both_read(0, 1100, 1010)?;
        b.both_read(0, 1110, 1020)?;
        b.tenths_read(0, 1000, &[10, 20])?;
        b.map_pages(0, 10, 20)?;
        b.both_read(0, 10, 0)
    },
};

#[test]
fn a_part_of_a_huge_page_is_protected_and_the_rest_stays_writable() -> Outcome {
    SPLIT_BY_PROTECT.run()
}

#[test]
fn a_part_of_a_huge_page_is_unmapped_and_the_rest_stays() -> Outcome {
    SPLIT_BY_MUNMAP.run()
}

#[test]
fn base_pages_collapse_with_their_contents() -> Outcome {
    COLLAPSE.run()
}

#[test]
fn parent_and_child_of_a_huge_page_write_their_own() -> Outcome {
    FORK.run()
}

#[test]
fn a_part_of_a_huge_page_moves_with_its_contents() -> Outcome {
    MOVE.run()
}

#[test]
fn a_huge_page_is_paged_out_in_pieces_and_comes_back() -> Outcome {
    let b = Bench::new(crate::bench::Plan { swap: 600, ..LARGE });
    one_huge_page(&b)?;
    b.does(0, "MADV_PAGEOUT", |space| space.madvise(page(0), bytes(512), Advice::PageOut))?;
    assert_eq!(b.space(0).space.resident_frames(), 0);
    assert_eq!(b.mm.swap_used(), 512);
    b.tenths_read(0, 1000, &[])?;
    b.finish()
}

#[test]
fn a_huge_page_freed_lazily_keeps_what_is_written_afterwards() -> Outcome {
    let b = Bench::new(LARGE);
    one_huge_page(&b)?;
    b.does(0, "MADV_FREE", |space| space.madvise(page(0), bytes(512), Advice::Free))?;
    b.guest_writes(0, 10, 77)?;
    b.herald_writes(0, 20, 78)?;
    for index in [10, 20, 30] {
        b.page_out(0, index)?;
    }
    for (index, value) in [(10, 77), (20, 78), (30, 0)] {
        b.both_read(0, index, value)?;
    }
    b.finish()
}

/// Advice and locks cut areas, too: each half has to hold its pages alone.
#[test]
fn an_area_that_is_cut_through_a_huge_page_forks_and_goes_in_parts() -> Outcome {
    for advice in [Advice::NoHugePage, Advice::Mergeable] {
        let b = Bench::new(LARGE);
        one_huge_page(&b)?;
        b.does(0, "madvise", |space| space.madvise(page(100), bytes(100), advice))?;
        let child = b.fork(0)?;
        b.guest_writes(child, 10, 77)?;
        b.guest_writes(child, 110, 78)?;
        b.tenths_read(0, 1000, &[])?;
        b.does(0, "munmap", |space| space.munmap(page(100), bytes(100)))?;
        b.both_read(0, 90, 1090)?;
        b.both_read(child, 120, 1120)?;
        b.finish()?;
    }
    Ok(())
}

#[test]
fn a_huge_page_that_was_locked_stays_locked_in_pieces() -> Outcome {
    let b = Bench::new(LARGE);
    one_huge_page(&b)?;
    b.does(0, "mlock", |space| space.mlock(page(0), bytes(512)))?;
    b.does(0, "mprotect", |space| space.mprotect(page(10), bytes(1), Protection::Read))?;
    assert_eq!(b.holding(0, 30, |frame| b.mm.page_out(frame))?, Err(Spared::Unevictable));
    b.does(0, "munlock", |space| space.munlock(page(0), bytes(512)))?;
    b.page_out(0, 30)?;
    b.both_read(0, 30, 1030)?;
    b.finish()
}

#[test]
fn pages_that_somebody_shares_or_holds_do_not_collapse() -> Outcome {
    let b = Bench::new(LARGE);
    base_pages(&b)?;
    assert_eq!(b.holding(0, 9, |_| b.space(0).space.collapse(page(0)))?, Ok(false));
    let child = b.fork(0)?;
    assert_eq!(b.space(0).space.collapse(page(0)), Ok(false));
    b.end_space(child)?;
    b.does(0, "discard", |space| space.discard(page(10), bytes(1)))?;
    assert_eq!(b.space(0).space.collapse(page(0)), Ok(false));
    b.check()?;
    b.both_read(0, 20, 1020)?;
    let log = std::sync::Arc::clone(&b.space(0).log);
    assert_eq!(log.count(Notice::RangeBegin), log.count(Notice::RangeEnd));
    b.finish()
}

/// Whichever it is: those before it and those behind it are free, each by itself.
#[test]
fn a_huge_page_of_which_one_frame_is_held_goes_in_pieces() -> Outcome {
    let b = Bench::new(LARGE);
    one_huge_page(&b)?;
    for index in [0, 9, 511] {
        let left = b.holding(0, index, |frame| {
            let gone = b.space(0).space.discard(page(0), bytes(512));
            gone.map(|()| b.machine.frames().meta(frame).count())
        })?;
        assert_eq!(left, Ok(1));
        b.guest_writes(0, 5, 5)?;
        assert_eq!(b.size(0, 5), Some(PageSize::Size2M));
    }
    b.finish()
}

#[test]
fn a_collapse_and_a_split_leave_the_pages_to_reclaim() -> Outcome {
    let b = Bench::new(LARGE);
    base_pages(&b)?;
    assert_eq!(b.space(0).space.collapse(page(0)), Ok(true));
    b.does(0, "munmap", |space| space.munmap(page(511), bytes(1)))?;
    b.page_out(0, 10)?;
    b.tenths_read(0, 1000, &[])?;
    b.finish()
}

#[test]
fn a_split_that_finds_no_table_changes_nothing() -> Outcome {
    let b = Bench::new(LARGE);
    one_huge_page(&b)?;
    b.machine.fail_allocation_after(0);
    let protect = |space: &mm::AddressSpace<_>| space.mprotect(page(10), bytes(1), Protection::Read);
    b.answers(0, "mprotect", Verdict::OutOfMemory, protect)?;
    assert!(!b.machine.cancel_failure());
    b.guest_writes(0, 10, 1010)?;
    b.tenths_read(0, 1000, &[])?;
    b.does(0, "mprotect", protect)?;
    b.finish()
}

#[test]
fn small_areas_have_no_huge_pages() -> Outcome {
    let b = Bench::new(SMALL);
    b.map_pages(0, 0, 16)?;
    b.does(0, "MADV_HUGEPAGE", |space| space.madvise(page(0), bytes(16), Advice::HugePage))?;
    b.guest_writes(0, 1, 5)?;
    assert_eq!(b.size(0, 1), Some(PageSize::Size4K));
    assert_eq!(b.space(0).space.collapse(page(0)), Ok(false));
    b.finish()
}

/// Of one that is zeros for the most part only what was written needs frames; one without zeros stays.
#[test]
fn a_huge_page_is_split_where_merging_gains_by_it() -> Outcome {
    let b = Bench::new(LARGE);
    one_huge_page(&b)?;
    (512..1024).for_each(|index| assert_eq!(b.store(0, index, index), Verdict::Done));
    assert_eq!(b.size(0, 600), Some(PageSize::Size2M));
    b.does(0, "MADV_MERGEABLE", |space| space.madvise(page(0), bytes(1024), Advice::Mergeable))?;
    (0..4).for_each(|_| _ = b.mm.merge(u64::MAX));
    assert_eq!(b.size(0, 5), Some(PageSize::Size4K));
    assert_eq!(b.size(0, 600), Some(PageSize::Size2M));
    assert_eq!(b.space(0).space.resident_frames(), 512 + 52);
    b.guest_writes(0, 20, 77)?;
    b.guest_writes(0, 21, 78)?;
    b.both_read(0, 21, 78)?;
    b.tenths_read(0, 1000, &[20])?;
    b.finish()
}
