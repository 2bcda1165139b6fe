//! Patch site `try_to_unmap_one`: pages go to swap, and come back.

use crate::Outcome;
use crate::bench::{Bench, Plan, SMALL, bytes};
use crate::races::finish;
use crate::scenario::Scenario;
use mm::{Advice, Host, Spared};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tests::lab::{Verdict, page};

/// A guest that goes on after its pages went out, and Herald that touches them.
pub(crate) const SWAP_OUT: Scenario = Scenario {
    name: "try_to_unmap_one: pages go out and come back",
    plan: Plan { needs_young: true, ..SMALL },
    prepare: |b| {
        b.map_pages(0, 0, 4)?;
        b.fill(0, 0..4, 10)
    },
    act: |b| {
        b.page_out(0, 0)?;
        assert_eq!(b.frame(0, 0), None);
        b.guest_reads(0, 0, 10)?;
        b.page_out(0, 1)?;
        b.herald_reads(0, 1, 11)?;
        b.page_out(0, 2)?;
        b.guest_writes(0, 2, 22)?;
        b.page_out(0, 2)?;
        b.herald_reads(0, 2, 22)?;
        b.page_out(0, 3)?;
        b.herald_writes(0, 3, 23)?;
        b.guest_reads(0, 3, 23)
    },
};

/// Used lately, by the guest alone: it stays once.
pub(crate) const YOUNG: Scenario = Scenario {
    name: "try_to_unmap_one: a page that the guest uses is young",
    plan: SMALL,
    prepare: |b| {
        b.map_pages(0, 0, 2)?;
        b.fill(0, 0..2, 10)?;
        assert_eq!(b.reclaim(0, 0)?, Err(Spared::Young));
        Ok(())
    },
    act: |b| {
        b.guest_reads(0, 0, 10)?;
        b.is_spared(0, 0, Spared::Young)?;
        b.is_reclaimed(0, 0)?;
        b.both_read(0, 0, 10)
    },
};

/// A page of two spaces goes out of both.
pub(crate) const SHARED: Scenario = Scenario {
    name: "try_to_unmap_one: a page of parent and child goes out of both",
    plan: Plan { needs_young: true, ..SMALL },
    prepare: |b| {
        b.map_pages(0, 0, 4)?;
        b.fill(0, 0..3, 10)?;
        let child = b.fork(0)?;
        (0..3).try_for_each(|index| {
            b.both_read(0, index, 10 + index)?;
            b.both_read(child, index, 10 + index)
        })
    },
    act: |b| {
        b.page_out(0, 0)?;
        assert_eq!((b.frame(0, 0), b.frame(1, 0)), (None, None));
        b.guest_reads(1, 0, 10)?;
        b.herald_writes(0, 0, 20)?;
        b.both_read(1, 0, 10)?;
        b.both_read(0, 0, 20)?;
        b.page_out(1, 1)?;
        b.guest_writes(1, 1, 31)?;
        b.both_read(0, 1, 11)?;
        b.page_out(1, 2)?;
        b.both_read(0, 2, 12)?;
        b.both_read(1, 2, 12)
    },
};

/// `MADV_FREE`: the guest writes to one of two pages after the advice.
pub(crate) const LAZY_FREE: Scenario = Scenario {
    name: "MADV_FREE: a page that the guest writes afterwards is kept",
    plan: SMALL,
    prepare: |b| {
        b.map_pages(0, 0, 4)?;
        b.fill(0, 0..4, 10)
    },
    act: |b| {
        b.does(0, "MADV_FREE", |space| space.madvise(page(0), bytes(4), Advice::Free))?;
        b.guest_writes(0, 1, 21)?;
        b.herald_writes(0, 2, 22)?;
        b.page_out(0, 0)?;
        b.both_read(0, 0, 0)?;
        b.page_out(0, 1)?;
        b.both_read(0, 1, 21)?;
        b.page_out(0, 2)?;
        b.both_read(0, 2, 22)
    },
};

impl Bench {
    /// Reclaim leaves the page, for this reason.
    pub(crate) fn is_spared(&self, id: usize, index: u64, why: Spared) -> Outcome {
        match self.reclaim(id, index)? {
            Err(spared) if spared == why => Ok(()),
            found => Err(crate::bench::answer("reclaim", format!("{why:?}"), format!("{found:?}"))),
        }
    }

    /// Reclaim takes the page.
    pub(crate) fn is_reclaimed(&self, id: usize, index: u64) -> Outcome {
        self.reclaim(id, index)?
            .map_err(|spared| crate::bench::answer("reclaim", "done", format!("{spared:?}")))
    }
}

#[test]
fn pages_that_were_swapped_out_come_back_with_what_was_written_last() -> Outcome {
    SWAP_OUT.run()
}

#[test]
fn a_page_that_only_the_guest_has_used_is_spared_once() -> Outcome {
    YOUNG.run()
}

#[test]
fn a_page_that_parent_and_child_share_is_swapped_out_of_both() -> Outcome {
    SHARED.run()
}

#[test]
fn a_page_freed_lazily_is_kept_if_anybody_writes_to_it_again() -> Outcome {
    LAZY_FREE.run()
}

/// Herald's write after the advice is only in the primary entry's D bit when the child gets its copy.
#[test]
fn a_child_keeps_what_was_written_after_the_page_was_freed_lazily() -> Outcome {
    let b = Bench::new(SMALL);
    b.map_pages(0, 0, 4)?;
    // A page table that serves two areas is copied.
    b.map_pages(0, 8, 4)?;
    b.fill(0, 0..2, 10)?;
    b.does(0, "MADV_FREE", |space| space.madvise(page(0), bytes(2), Advice::Free))?;
    b.herald_writes(0, 0, 20)?;
    let child = b.fork(0)?;
    // The parent has its own copy of it from now on.
    b.herald_writes(0, 0, 30)?;
    b.page_out(child, 0)?;
    b.both_read(child, 0, 20)?;
    b.both_read(0, 0, 30)?;
    b.finish()
}

#[test]
fn a_swap_device_that_takes_nothing_keeps_pages_in_memory() -> Outcome {
    let b = Bench::new(SMALL);
    b.map_pages(0, 0, 4)?;
    b.fill(0, 0..2, 10)?;
    b.swap.fails_writes.store(true, Ordering::Relaxed);
    let spared = b.holding(0, 0, |frame| b.mm.page_out(frame))?;
    assert!(matches!(spared, Err(Spared::Swap(_))), "{spared:?}");
    b.guest_reads(0, 0, 10)?;
    b.guest_writes(0, 0, 20)?;
    b.swap.fails_writes.store(false, Ordering::Relaxed);
    b.page_out(0, 0)?;
    b.both_read(0, 0, 20)?;
    assert_eq!(b.swap.writes(), 1);
    b.finish()
}

#[test]
fn a_page_that_cannot_be_read_back_is_lost_and_no_other() -> Outcome {
    cannot_be_read_back(false)
}

#[test]
fn a_page_that_cannot_be_read_at_once_is_lost_and_no_other() -> Outcome {
    cannot_be_read_back(true)
}

/// Memory is read at once, with the areas locked. Before the page is cached another processor was faster: it is there, and what was stored stays.
#[test]
fn a_page_that_is_read_at_once_may_have_come_back_meanwhile() -> Outcome {
    let b = Arc::new(Bench::new(SMALL));
    b.swap.at_once.store(true, Ordering::Relaxed);
    b.map_pages(0, 0, 2)?;
    b.fill(0, 0..2, 10)?;
    b.page_out(0, 0)?;
    let other = Arc::clone(&b);
    b.swap.after_next_read(move || assert_eq!(other.store(0, 0, 20), Verdict::Done));
    b.guest_reads(0, 0, 20)?;
    b.both_read(0, 1, 11)?;
    assert_eq!((b.mm.swap_used(), b.swap.reads()), (0, 2));
    finish(b)
}

/// The same, but it has been given up. The slot stays for another guest's sake, and no frame is left behind in the cache.
#[test]
fn a_page_that_is_read_at_once_may_be_nobodys_by_then() -> Outcome {
    let b = Arc::new(Bench::merged(SMALL)?);
    b.swap.at_once.store(true, Ordering::Relaxed);
    b.page_out(0, 0)?;
    let other = Arc::clone(&b);
    b.swap.after_next_read(move || other.space(0).space.discard(page(0), bytes(1)).expect("is mapped"));
    b.guest_reads(0, 0, 0)?;
    assert_eq!(b.mm.swap_cached_frames(), []);
    b.both_read(1, 0, 10)?;
    finish(b)
}

fn cannot_be_read_back(at_once: bool) -> Outcome {
    let b = Bench::new(SMALL);
    b.swap.at_once.store(at_once, Ordering::Relaxed);
    b.map_pages(0, 0, 4)?;
    b.fill(0, 0..2, 10)?;
    b.page_out(0, 0)?;
    b.swap.fails_reads.store(true, Ordering::Relaxed);
    b.same("a guest's load", Verdict::DeviceFailed, b.guest_load(0, 0))?;
    b.same("Herald's store", Verdict::DeviceFailed, b.store(0, 0, 1))?;
    b.both_read(0, 1, 11)?;
    b.swap.fails_reads.store(false, Ordering::Relaxed);
    b.both_read(0, 0, 10)?;
    b.page_out(0, 0)?;
    b.does(0, "discard", |space| space.discard(page(0), bytes(1)))?;
    assert_eq!(b.mm.swap_used(), 0);
    b.both_read(0, 0, 0)?;
    b.finish()
}

#[test]
fn a_full_swap_device_spares_pages() -> Outcome {
    let b = Bench::new(crate::bench::Plan { swap: 1, ..SMALL });
    b.map_pages(0, 0, 4)?;
    b.fill(0, 0..2, 10)?;
    b.page_out(0, 0)?;
    assert_eq!(b.holding(0, 1, |frame| b.mm.page_out(frame))?, Err(Spared::NoSlot));
    b.both_read(0, 1, 11)?;
    b.both_read(0, 0, 10)?;
    b.page_out(0, 1)?;
    b.both_read(0, 1, 11)?;
    b.finish()
}

#[test]
fn a_swapped_out_page_ends_with_the_last_space_that_names_it() -> Outcome {
    let b = Bench::new(SMALL);
    b.map_pages(0, 0, 4)?;
    b.fill(0, 0..3, 10)?;
    b.page_out(0, 0)?;
    let child = b.fork(0)?;
    b.page_out(0, 1)?;
    b.both_read(child, 1, 11)?;
    assert_eq!(b.mm.swap_used(), 2);
    b.end_space(0)?;
    assert!(b.mm.swap_used() <= 2);
    b.both_read(child, 0, 10)?;
    b.guest_writes(child, 1, 21)?;
    b.end_space(child)?;
    assert_eq!(b.mm.swap_used(), 0);
    b.finish()
}

#[test]
fn locked_pages_are_not_swapped_out() -> Outcome {
    let b = Bench::new(SMALL);
    b.map_pages(0, 0, 4)?;
    b.fill(0, 0..2, 10)?;
    b.does(0, "mlock", |space| space.mlock(page(0), bytes(1)))?;
    assert_eq!(b.holding(0, 0, |frame| b.mm.page_out(frame))?, Err(Spared::Unevictable));
    b.does(0, "munlock", |space| space.munlock(page(0), bytes(1)))?;
    b.page_out(0, 0)?;
    b.both_read(0, 0, 10)?;
    b.finish()
}

#[test]
fn advice_to_page_out_takes_pages_at_once_and_loses_nothing() -> Outcome {
    let b = Bench::new(SMALL);
    b.map_pages(0, 0, 4)?;
    b.fill(0, 0..4, 10)?;
    b.does(0, "MADV_PAGEOUT", |space| space.madvise(page(0), bytes(4), Advice::PageOut))?;
    assert_eq!(b.space(0).space.resident_frames(), 0);
    for index in 0..4 {
        b.guest_reads(0, index, 10 + index)?;
    }
    b.finish()
}

/// The device takes nothing, so the frame stays in the swap cache, named by both.
#[test]
fn a_page_that_waits_in_the_swap_cache_is_shared_by_a_fork() -> Outcome {
    let b = Bench::new(SMALL);
    b.map_pages(0, 0, 2)?;
    b.fill(0, 0..2, 10)?;
    b.swap.fails_writes.store(true, Ordering::Relaxed);
    for index in [0, 1] {
        let spared = b.holding(0, index, |frame| b.mm.page_out(frame))?;
        assert!(matches!(spared, Err(Spared::Swap(_))), "{spared:?}");
    }
    let child = b.fork(0)?;
    b.guest_writes(0, 0, 20)?;
    b.both_read(child, 0, 10)?;
    b.herald_writes(child, 1, 31)?;
    b.both_read(0, 1, 11)?;
    b.finish()
}

/// Its last entry went before reclaim came to it: no note will ever bring the frame back from the swap cache.
#[test]
fn a_page_that_nobody_maps_any_more_leaves_no_slot_behind_where_it_cannot_be_written() -> Outcome {
    let b = Bench::new(SMALL);
    b.map_pages(0, 0, 2)?;
    b.fill(0, 0..2, 10)?;
    b.holding(0, 0, |frame| {
        b.space(0).space.discard(page(0), bytes(1)).expect("is mapped");
        b.swap.fails_writes.store(true, Ordering::Relaxed);
        assert!(matches!(b.mm.page_out(frame), Err(Spared::Swap(_))));
        b.swap.fails_writes.store(false, Ordering::Relaxed);
    })?;
    assert_eq!(b.mm.swap_used(), 0);
    b.holding(0, 1, |frame| {
        b.space(0).space.discard(page(1), bytes(1)).expect("is mapped");
        let meta = b.machine.frames().meta(frame);
        meta.get();
        assert_eq!(b.mm.page_out(frame), Err(Spared::Busy));
        assert!(!meta.put());
    })?;
    assert_eq!(b.mm.swap_used(), 0);
    b.finish()
}

#[test]
fn a_page_that_was_only_read_goes_again_without_being_written() -> Outcome {
    let b = Bench::new(SMALL);
    b.swap.keeps.store(true, Ordering::Relaxed);
    b.map_pages(0, 0, 3)?;
    b.fill(0, 0..3, 10)?;
    (0..3).try_for_each(|index| b.page_out(0, index))?;
    assert_eq!(b.swap.writes(), 3);
    b.guest_reads(0, 0, 10)?;
    b.page_out(0, 0)?;
    assert_eq!((b.swap.writes(), b.mm.swap_used()), (3, 3), "its copy was there");
    b.guest_reads(0, 0, 10)?;
    b.guest_writes(0, 0, 20)?;
    b.page_out(0, 0)?;
    assert_eq!(b.swap.writes(), 4, "what was written since is not lost");
    b.both_read(0, 0, 20)?;
    b.finish()
}

#[test]
fn a_copy_goes_with_its_page() -> Outcome {
    let b = Bench::new(SMALL);
    b.swap.keeps.store(true, Ordering::Relaxed);
    b.map_pages(0, 0, 3)?;
    b.fill(0, 0..3, 10)?;
    (0..3).try_for_each(|index| b.page_out(0, index))?;
    (0..3).try_for_each(|index| b.guest_reads(0, index, 10 + index))?;
    assert_eq!(b.mm.swap_used(), 3, "copies stay");
    b.does(0, "MADV_DONTNEED", |space| space.discard(page(0), bytes(1)))?;
    assert_eq!(b.mm.swap_used(), 2);
    let child = b.fork(0)?;
    b.herald_writes(child, 1, 21)?;
    b.herald_writes(0, 1, 31)?;
    b.both_read(child, 1, 21)?;
    assert_eq!(b.mm.swap_used(), 1, "nobody has the page of which it was a copy");
    b.finish()
}
