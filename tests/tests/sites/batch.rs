//! Patch site `try_to_unmap_one`, for neighbours: pages that go to swap together, for one flush, and what others do to them
//! meanwhile.

use crate::Outcome;
use crate::bench::Plan;
use crate::bench::{Bench, bytes};
use crate::races::{finish, meanwhile};
use crate::scenario::Scenario;
use crate::shrink::{self, PAGES, filled};
use mm::Advice;
use paging::FlushScope;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tests::lab::{Notice, gpage, page};
use tests::machine::{Event, Skip};

/// Pages of a cluster.
const CLUSTER: u64 = 16;

/// Some of a cluster, old enough to go, and then used by both.
/// Without A bits pages have left the guest before they are unmapped.
const WIDE: Plan = Plan { needs_young: true, ..shrink::WIDE };

pub(crate) const TOGETHER: Scenario = Scenario {
    name: "try_to_unmap_one: neighbours go together",
    plan: WIDE,
    prepare: |b| {
        b.map_pages(0, 0, 4)?;
        b.fill(0, 0..4, 10)?;
        (0..3).try_for_each(|_| b.ages())
    },
    act: |b| {
        b.shrinks(4)?;
        (0..4).for_each(|index| assert_eq!(b.frame(0, index), None));
        b.guest_reads(0, 0, 10)?;
        b.herald_writes(0, 1, 21)?;
        b.guest_reads(0, 1, 21)?;
        b.guest_writes(0, 2, 22)?;
        b.herald_reads(0, 2, 22)
    },
};

#[test]
fn neighbours_that_go_together_come_back_one_by_one() -> Outcome {
    TOGETHER.run()
}

/// Filled, and old enough to go.
fn old() -> Result<Bench, tests::Violation> {
    let b = filled(WIDE)?;
    b.ages()?;
    Ok(b)
}

#[test]
fn neighbours_go_for_one_flush() -> Outcome {
    let b = old()?;
    // Some whose guest has no entry for them: the flush of the others is enough.
    b.does(0, "mprotect", |space| space.mprotect(page(3), bytes(2), mm::Protection::Read))?;
    let space = b.space(0);
    let before = (b.machine.flushes(), space.mmu.stats().snapshot().flushes);
    let calls = space.log.count(Notice::InvalidatePage);
    b.shrinks(CLUSTER)?;
    let after = (b.machine.flushes(), space.mmu.stats().snapshot().flushes);
    assert_eq!((after.0 - before.0, after.1 - before.1), (2, 1), "flushes: all, the guest's");
    assert_eq!(space.log.count(Notice::InvalidatePage) - calls, CLUSTER as usize);
    b.resident(|index| index >= CLUSTER)?;
    (0..PAGES).try_for_each(|index| b.both_read(0, index, 100 + index))?;
    drop(space);
    b.finish()
}

/// `MADV_PAGEOUT` takes them in the same way, and asks nobody whether they were used.
#[test]
fn pages_that_are_told_to_go_do_so_together_young_or_not() -> Outcome {
    let b = filled(WIDE)?;
    (0..PAGES).try_for_each(|index| b.both_read(0, index, 100 + index))?;
    let space = b.space(0);
    let before = (b.machine.flushes(), space.mmu.stats().snapshot().flushes);
    let calls = space.log.count(Notice::InvalidatePage);
    b.does(0, "MADV_PAGEOUT", |space| space.madvise(page(0), bytes(CLUSTER), Advice::PageOut))?;
    let after = (b.machine.flushes(), space.mmu.stats().snapshot().flushes);
    assert_eq!((after.0 - before.0, after.1 - before.1), (2, 1), "flushes: all, the guest's");
    assert_eq!(space.log.count(Notice::InvalidatePage) - calls, CLUSTER as usize);
    b.resident(|index| index >= CLUSTER)?;
    (0..PAGES).try_for_each(|index| b.both_read(0, index, 100 + index))?;
    drop(space);
    b.finish()
}

/// The pages of a range go that begins and ends inside of clusters, and no others.
#[test]
fn neighbours_of_pages_that_are_told_to_go_stay() -> Outcome {
    let b = filled(WIDE)?;
    let told = 3..PAGES - 3;
    assert!(told.end - told.start > 2 * CLUSTER, "a whole cluster, and parts of others");
    let len = bytes(told.end - told.start);
    b.does(0, "MADV_PAGEOUT", |space| space.madvise(page(told.start), len, Advice::PageOut))?;
    b.resident(|index| !told.contains(&index))?;
    (0..PAGES).try_for_each(|index| b.both_read(0, index, 100 + index))?;
    b.finish()
}

/// Before the batch's flush a guest stores through what it has cached, and that is what comes back. The primary entries
/// say nothing of it: the pages have been in swap before, and were brought back by loads.
#[test]
fn what_a_guest_writes_before_the_flush_is_not_lost() -> Outcome {
    let b = Arc::new(old()?);
    b.shrinks(PAGES)?;
    for index in 0..PAGES {
        b.guest_reads(0, index, 100 + index)?;
        b.guest_writes(0, index, 150 + index)?;
    }
    (0..2).try_for_each(|_| b.ages())?;
    let primary = |event| matches!(event, Event::Request(FlushScope::Primary { .. }));
    meanwhile(&b, primary, |b| {
        let cpu = b.space(0).guest_cpu;
        for index in 0..PAGES {
            b.machine.guest_store(cpu, gpage(index), 200 + index).expect("an entry of the guest's");
        }
    });
    // One cluster is on its way then, and the others were used by now.
    assert_eq!(b.mm.shrink(CLUSTER).reclaimed, CLUSTER);
    b.check()?;
    (0..PAGES).try_for_each(|index| b.both_read(0, index, 200 + index))?;
    finish(b)
}

/// The first entry is about to become a note: Herald stores to all pages, which nobody has found young. No such page is
/// free while a CPU has cached it, and none is lost.
#[test]
fn what_herald_writes_at_the_last_moment_is_not_lost() -> Outcome {
    let b = Arc::new(old()?);
    let first = |event| matches!(event, Event::Change(_));
    meanwhile(&b, first, |b| {
        let cpu = b.space(0).herald_cpu;
        for index in 0..CLUSTER {
            b.machine.store_linear(cpu, page(index), 300 + index).expect("an entry");
        }
    });
    b.shrinks(CLUSTER)?;
    (0..CLUSTER).try_for_each(|index| b.both_read(0, index, 300 + index))?;
    finish(b)
}

/// Of one cluster: pages that were used, that a child has, that may be dropped, and that are nothing special.
#[test]
fn a_page_that_is_special_stays_or_goes_alone() -> Outcome {
    let b = old()?;
    b.does(0, "MADV_FREE", |space| space.madvise(page(4), bytes(2), Advice::Free))?;
    let child = b.fork(0)?;
    b.does(child, "discard", |space| space.discard(page(2), bytes(PAGES - 2)))?;
    b.ages()?;
    b.ages()?;
    b.guest_reads(0, 1, 101)?;
    b.herald_reads(0, 8, 108)?;
    let spared = b.mm.shrink(CLUSTER - 2);
    b.check()?;
    assert_eq!(spared.reclaimed, CLUSTER - 2);
    let freed = [4, 5];
    b.resident(|index| index >= CLUSTER || [1, 8].contains(&index))?;
    for index in (0..PAGES).filter(|index| !freed.contains(index)) {
        b.both_read(0, index, 100 + index)?;
    }
    freed.into_iter().try_for_each(|index| b.both_read(0, index, 0))?;
    (0..2).try_for_each(|index| b.both_read(child, index, 100 + index))?;
    b.finish()
}

#[test]
fn neighbours_that_the_device_refuses_stay() -> Outcome {
    let b = old()?;
    b.swap.fails_writes.store(true, Ordering::Relaxed);
    assert_eq!(b.mm.shrink(CLUSTER).reclaimed, 0);
    b.check()?;
    for index in 0..CLUSTER {
        b.guest_reads(0, index, 100 + index)?;
        b.guest_writes(0, index, 200 + index)?;
    }
    b.swap.fails_writes.store(false, Ordering::Relaxed);
    b.shrinks(CLUSTER)?;
    (0..CLUSTER).try_for_each(|index| b.both_read(0, index, 200 + index))?;
    b.finish()
}

/// A batch that flushes no CPU of the guest is found: its translations are of frames that are free.
#[test]
fn a_batch_without_its_second_flush_is_found() -> Outcome {
    let b = old()?;
    let cpu = b.space(0).guest_cpu;
    b.machine.set_hook({
        let machine = Arc::downgrade(&b.machine);
        move |event| {
            if matches!(event, Event::Request(FlushScope::Primary { .. })) {
                let machine = machine.upgrade().expect("the machine");
                (0..CLUSTER).for_each(|index| {
                    let _ = machine.guest_load(cpu, gpage(index));
                });
            }
        }
    });
    b.machine.skip_flushes(Skip::Secondary);
    b.mm.shrink(CLUSTER);
    assert!(b.check().is_err());
    Ok(())
}
