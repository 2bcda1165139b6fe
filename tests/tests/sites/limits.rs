//! What an address space may have, and what goes though nobody needs frames; pages that need no slot of swap.

use crate::Outcome;
use crate::bench::{Bench, Plan, bytes};
use crate::devices::DISK;
use crate::shrink::{PAGES, WIDE, filled};
use mm::{Advice, Host, Progress, VmaKind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tests::lab::{Verdict, page, pages};

/// Frames that the limited space may have.
const LIMIT: u64 = 40;

#[test]
fn a_space_at_its_limit_makes_room_in_itself() -> Outcome {
    let b = Bench::new(WIDE);
    let other = b.add_space();
    for id in [0, other] {
        b.map_pages(id, 0, PAGES)?;
    }
    for index in 0..PAGES {
        b.guest_writes(other, index, 500 + index)?;
    }
    b.space(0).space.set_limit(Some(LIMIT));
    for round in 1..4 {
        for index in 0..PAGES {
            b.guest_writes(0, index, 100 * round + index)?;
            assert!(b.space(0).space.resident_frames() <= LIMIT);
        }
        (0..PAGES).try_for_each(|index| b.both_read(0, index, 100 * round + index))?;
        assert!(b.space(0).space.resident_frames() <= LIMIT);
    }
    assert_eq!(b.space(other).space.resident_frames(), PAGES);
    b.finish()
}

/// There is no swap for it: only what is resident can be used.
#[test]
fn a_fault_fails_where_nothing_of_the_space_can_go() -> Outcome {
    let b = Bench::new(Plan { swap: 0, ..WIDE });
    let other = b.add_space();
    for id in [0, other] {
        b.map_pages(id, 0, PAGES)?;
    }
    b.space(0).space.set_limit(Some(LIMIT));
    (0..LIMIT).try_for_each(|index| b.guest_writes(0, index, 100 + index))?;
    b.same("a guest's store", Verdict::OutOfMemory, b.guest_store(0, LIMIT, 1))?;
    b.same("Herald's store", Verdict::OutOfMemory, b.store(0, LIMIT, 1))?;
    (0..LIMIT).try_for_each(|index| b.both_read(0, index, 100 + index))?;
    (0..PAGES).try_for_each(|index| b.guest_writes(other, index, 500 + index))?;
    b.space(0).space.set_limit(None);
    b.guest_writes(0, LIMIT, 1)?;
    b.finish()
}

/// What is read through a shared table counts for the other.
#[test]
fn who_may_have_no_frame_reads_what_he_shares() -> Outcome {
    let b = Bench::new(Plan { swap: 0, ..WIDE });
    b.map_pages(0, 0, PAGES)?;
    b.guest_writes(0, 0, 100)?;
    let child = b.fork(0)?;
    b.space(child).space.set_limit(Some(0));
    b.both_read(child, 0, 100)?;
    b.same("a guest's store", Verdict::OutOfMemory, b.guest_store(child, 0, 1))?;
    b.same("a guest's load", Verdict::OutOfMemory, b.guest_load(child, 1))?;
    b.both_read(0, 0, 100)?;
    b.finish()
}

/// Two spaces with as many pages, all used lately: what goes is of the one with the smaller weight, down to its share.
#[test]
fn who_has_more_than_his_share_loses_first() -> Outcome {
    let b = Bench::new(Plan { swap: 2 * PAGES, ..WIDE });
    let other = b.add_space();
    for id in [0, other] {
        b.map_pages(id, 0, PAGES)?;
        (0..PAGES).try_for_each(|index| b.guest_writes(id, index, 100 + index))?;
    }
    b.space(other).space.set_weight(300);
    b.ages()?;
    b.ages()?;
    while b.space(0).space.resident_frames() * 3 > b.space(other).space.resident_frames() {
        b.shrinks(1)?;
        assert_eq!(b.space(other).space.resident_frames(), PAGES);
    }
    // At their shares both lose.
    b.shrinks(PAGES)?;
    assert!(b.space(other).space.resident_frames() < PAGES);
    for index in 0..PAGES {
        b.both_read(0, index, 100 + index)?;
        b.both_read(other, index, 100 + index)?;
    }
    b.finish()
}

/// What nobody has used for long goes, whoever has it.
#[test]
fn a_share_is_no_claim_to_what_lies_idle() -> Outcome {
    let b = filled(WIDE)?;
    let other = b.add_space();
    b.map_pages(other, 0, PAGES)?;
    (0..4).try_for_each(|index| b.guest_writes(other, index, 500 + index))?;
    for _ in 0..2 {
        b.ages()?;
        (0..PAGES).try_for_each(|index| b.guest_reads(0, index, 100 + index))?;
    }
    b.ages()?;
    b.shrinks(4)?;
    assert_eq!(b.space(other).space.resident_frames(), 0);
    assert_eq!(b.space(0).space.resident_frames(), PAGES);
    (0..4).try_for_each(|index| b.both_read(other, index, 500 + index))?;
    b.finish()
}

#[test]
fn what_lies_idle_goes_though_nobody_needs_frames() -> Outcome {
    let b = filled(WIDE)?;
    let all = b.machine.frames().known();
    for _ in 0..2 {
        b.ages()?;
        (0..8).try_for_each(|index| b.guest_reads(0, index, 100 + index))?;
    }
    b.ages()?;
    assert_eq!(b.mm.reclaim_idle(2, 0..all), PAGES - 8);
    b.check()?;
    b.resident(|index| index < 8)?;
    assert_eq!(b.mm.reclaim_idle(2, 0..all), 0);
    (0..PAGES).try_for_each(|index| b.both_read(0, index, 100 + index))?;
    b.finish()
}

/// All slots are in use. Pages that may be dropped, and clean pages of files, go all the same.
#[test]
fn what_needs_no_slot_goes_where_swap_is_full() -> Outcome {
    let b = filled(Plan { swap: 4, ..WIDE })?;
    let (file, _) = b.disk_file(8);
    b.map(0, pages(PAGES, 8), VmaKind::Shared(Arc::clone(&file), 0))?;
    (0..8).try_for_each(|index| b.herald_reads(0, PAGES + index, DISK + index))?;
    b.ages()?;
    b.ages()?;
    let full = b.mm.shrink(PAGES);
    b.check()?;
    assert!(full.swap_is_full);
    assert_eq!((full.reclaimed, file.cached()), (4 + 8, 0));
    b.does(0, "MADV_FREE", |space| space.madvise(page(0), bytes(PAGES), Advice::Free))?;
    b.ages()?;
    b.ages()?;
    let dropped = b.mm.shrink(PAGES).reclaimed;
    b.check()?;
    assert!(dropped > PAGES / 2, "{dropped} pages");
    assert_eq!(b.space(0).space.resident_frames(), 0);
    drop(file);
    b.finish()
}

/// A disk is slower than its guests. Reclaim takes what there is room for; it does not search all frames for what needs none, while
/// those who make room wait for the CPU.
#[test]
fn reclaim_does_not_search_on_while_swap_has_no_room() -> Outcome {
    let b = filled(WIDE)?;
    let (file, _) = b.disk_file(8);
    b.map(0, pages(PAGES, 8), VmaKind::Shared(Arc::clone(&file), 0))?;
    (0..8).try_for_each(|index| b.herald_reads(0, PAGES + index, DISK + index))?;
    b.ages()?;
    b.ages()?;
    b.swap.room.store(1, Ordering::Relaxed);
    let first = b.mm.shrink(PAGES);
    b.check()?;
    assert!(first.swap_has_no_room && 0 < first.reclaimed && first.reclaimed < PAGES, "{first:?}");
    assert_eq!(file.cached(), 8, "pages were searched for that need no room");
    while b.mm.make_progress(|| b.mm.shrink(PAGES)) != Progress::Nothing
        && b.space(0).space.resident_frames() > 0
    {
        b.check()?;
    }
    assert_eq!(b.space(0).space.resident_frames(), 0);
    (0..PAGES).try_for_each(|index| b.both_read(0, index, 100 + index))?;
    drop(file);
    b.finish()
}

/// Batches that fill swap's room, one after the other: far more than a fault tries again for want of frames.
const CROWD: u64 = 10_000;

/// Small pages on their way to a disk leave room for a large one once a whole span of them has gone: no fault fails before.
#[test]
fn a_fault_waits_for_room_in_swap_however_much_has_to_move_for_it() -> Outcome {
    let b = Bench::new(WIDE);
    b.map_pages(0, 0, PAGES)?;
    b.space(0).space.set_limit(Some(LIMIT));
    b.swap.room.store(0, Ordering::Relaxed);
    b.swap.crowded.store(CROWD, Ordering::Relaxed);
    (0..PAGES).try_for_each(|index| b.guest_writes(0, index, 100 + index))?;
    assert_eq!(b.swap.crowded.load(Ordering::Relaxed), 0);
    b.check()?;
    (0..PAGES).try_for_each(|index| b.both_read(0, index, 100 + index))?;
    b.finish()
}

#[test]
fn pages_of_files_go_and_dirty_ones_are_written_back() -> Outcome {
    let b = Bench::new(WIDE);
    let (file, platter) = b.disk_file(8);
    b.map(0, pages(0, 8), VmaKind::Shared(Arc::clone(&file), 0))?;
    (0..4).try_for_each(|index| b.guest_writes(0, index, 200 + index))?;
    (4..8).try_for_each(|index| b.guest_reads(0, index, DISK + index))?;
    b.ages()?;
    b.ages()?;
    b.guest_reads(0, 5, DISK + 5)?;
    assert_eq!(b.mm.shrink(7).reclaimed, 7);
    b.check()?;
    assert_eq!((file.cached(), platter.writes()), (1, 4));
    assert!(b.frame(0, 5).is_some(), "it was used");
    (0..4).for_each(|index| assert_eq!(platter.word(index), 200 + index));
    (0..4).try_for_each(|index| b.both_read(0, index, 200 + index))?;
    (4..8).try_for_each(|index| b.both_read(0, index, DISK + index))?;
    // Nobody maps it any more, and its page in the cache goes like the others.
    b.does(0, "munmap", |space| space.munmap(page(0), bytes(8)))?;
    b.ages()?;
    b.shrinks(8)?;
    assert_eq!(file.cached(), 0);
    drop(file);
    b.finish()
}
