//! What random sequences have found, or a reader of the code before them: one short scene each.

use crate::{CPU0, Outcome, SMALL, world};
use addr::PageSize;
use mm::{Advice, Change, Protection};
use tests::lab::Verdict;
use tests::worlds::{Backing, Callback, IN_PLACE, Move, Reclaim, SHARED, STORED, With};

const RW: Protection = Protection::ReadWrite;
const HUGE: Backing = Backing::Anonymous(PageSize::Size2M);

#[test]
fn what_was_written_after_madv_free_and_before_fork_is_the_childs_too() -> Outcome {
    for spaces in [[0, 1], [1, 0]] {
        let mut world = world()?;
        world.mmap(0, (0, 1), RW, SMALL)?;
        world.store(0, CPU0, (0, 0), 1)?;
        world.madvise(0, (0, 1), Advice::Free)?;
        world.store(0, CPU0, (0, 0), 2)?;
        world.fork(0, 1, With::Nothing)?;
        world.reclaim(spaces[0], 0, Reclaim::Any)?;
        for space in spaces {
            assert_eq!(world.load(space, CPU0, 0, 0)?, Verdict::Value(2));
        }
        world.finish()?;
    }
    Ok(())
}

#[test]
fn the_last_space_that_has_a_page_may_be_the_one_whose_entry_is_clean() -> Outcome {
    let mut world = world()?;
    world.mmap(0, (0, 1), RW, SMALL)?;
    world.store(0, CPU0, (0, 0), 1)?;
    world.madvise(0, (0, 1), Advice::Free)?;
    world.store(0, CPU0, (0, 0), 2)?;
    world.fork(0, 1, With::Nothing)?;
    world.exit(0)?;
    world.reclaim(1, 0, Reclaim::Any)?;
    assert_eq!(world.load(1, CPU0, 0, 0)?, Verdict::Value(2));
    world.finish()
}

#[test]
fn a_swap_slot_that_lost_its_last_name_and_gained_another_keeps_its_page() -> Outcome {
    let mut world = world()?;
    world.mmap(0, (0, 1), RW, SMALL)?;
    world.store(0, CPU0, (0, 0), 7)?;
    world.fork(0, 1, With::Nothing)?;
    // Both name the slot; the frame stays cached, since the device fails.
    world.swap.set_failing(true);
    world.reclaim(0, 0, Reclaim::Any)?;
    assert_eq!(world.load(1, CPU0, 0, 0)?, Verdict::Value(7));
    // The last name goes where nobody looks after orphans, the frame is unmapped again, and somebody does.
    world.mmap(0, (0, 1), RW, SMALL)?;
    world.reclaim(1, 0, Reclaim::Any)?;
    world.munmap(0, (0, 1))?;
    world.swap.set_failing(false);
    assert_eq!(world.load(1, CPU0, 0, 0)?, Verdict::Value(7));
    world.finish()
}

#[test]
fn a_locked_page_stays_also_when_another_space_unlocks_it() -> Outcome {
    let mut world = world()?;
    world.mmap(0, (0, 1), RW, Backing::Shared { file: STORED, index: 0 })?;
    world.fork(0, 1, With::Nothing)?;
    for space in [0, 1] {
        world.mlock(space, (0, 1))?;
    }
    world.munlock(1, (0, 1))?;
    assert_eq!(world.reclaim(1, 0, Reclaim::Any)?, Verdict::Spared(mm::Spared::Unevictable));
    world.munmap(0, (0, 1))?;
    assert_eq!(world.reclaim(1, 0, Reclaim::Any)?, Verdict::Done);
    world.finish()
}

#[test]
fn a_rearranged_page_behind_the_end_fails_until_the_file_is_long_enough() -> Outcome {
    let mut world = world()?;
    world.mmap(0, (0, 4), RW, Backing::Shared { file: STORED, index: 0 })?;
    world.remap_file_pages(0, (0, 2), 10)?;
    assert_eq!(world.load(0, CPU0, 0, 0)?, Verdict::Value(0xf11e_000a));
    world.truncate(STORED, 4)?;
    for page in 0..2 {
        assert_eq!(world.load(0, CPU0, page, 0)?, Verdict::BeyondEnd);
    }
    world.truncate(STORED, 20)?;
    world.store(0, CPU0, (0, 0), 5)?;
    world.apply(0, (0, 4), Callback::Each(Change::Unmap))?;
    assert_eq!(world.load(0, CPU0, 0, 0)?, Verdict::Value(5));
    world.finish()
}

#[test]
fn execute_in_place_files_are_not_rearranged_and_can_be_written_after_write_protection() -> Outcome {
    let mut world = world()?;
    world.mmap(0, (0, 4), RW, Backing::Shared { file: IN_PLACE, index: 0 })?;
    assert_eq!(world.remap_file_pages(0, (0, 2), 1)?, Verdict::NotShared);
    world.store(0, CPU0, (0, 0), 5)?;
    world.apply(0, (0, 4), Callback::Each(Change::WriteProtect))?;
    assert_eq!(world.store(0, CPU0, (0, 0), 6)?, Verdict::Done);
    world.finish()
}

#[test]
fn shared_anonymous_memory_is_synchronised_without_a_store() -> Outcome {
    let mut world = world()?;
    world.mmap(0, (0, 4), RW, Backing::Shared { file: SHARED, index: 0 })?;
    world.store(0, CPU0, (0, 0), 5)?;
    assert_eq!(world.msync(0, (0, 4))?, Verdict::Done);
    world.finish()
}

#[test]
fn a_huge_page_is_not_cut_by_locks_and_advice() -> Outcome {
    let mut world = world()?;
    world.mmap(0, (0, 512), RW, HUGE)?;
    world.store(0, CPU0, (3, 0), 5)?;
    assert_eq!(world.mlock(0, (1, 3))?, Verdict::BadRange);
    assert_eq!(world.madvise(0, (1, 3), Advice::HugePage)?, Verdict::BadRange);
    assert_eq!(world.madvise(0, (0, 512), Advice::PageOut)?, Verdict::NotAnonymous);
    world.mmap(0, (512, 512), RW, SMALL)?;
    world.madvise(0, (512, 512), Advice::HugePage)?;
    world.store(0, CPU0, (512, 0), 6)?;
    assert_eq!(world.mlock(0, (600, 3))?, Verdict::Done);
    world.finish()
}

#[test]
fn a_collapsed_private_file_keeps_what_lies_before_its_new_end() -> Outcome {
    let mut world = world()?;
    world.truncate(STORED, 600)?;
    world.mmap(0, (0, 512), RW, Backing::Private { file: STORED, index: 0 })?;
    for page in [0, 1, 200] {
        world.store(0, CPU0, (page, 1), page + 1)?;
    }
    world.populate(0, (0, 512))?;
    world.collapse(0, 0)?;
    world.truncate(STORED, 100)?;
    assert_eq!(world.load(0, CPU0, 1, 1)?, Verdict::Value(2));
    assert_eq!(world.load(0, CPU0, 200, 1)?, Verdict::BeyondEnd);
    world.finish()
}

#[test]
fn a_child_has_one_area_where_only_a_lock_divided_its_parents() -> Outcome {
    let mut world = world()?;
    world.mmap(0, (0, 12), RW, SMALL)?;
    world.store(0, CPU0, (3, 0), 5)?;
    world.mlock(0, (2, 3))?;
    world.fork(0, 1, With::Guest)?;
    assert_eq!(world.mremap(1, (0, 12), 12, Move::Fixed(100))?, Verdict::Done);
    world.finish()
}

#[test]
fn more_pages_are_paged_out_than_are_held_at_a_time() -> Outcome {
    let mut world = crate::world_with_slots(300)?;
    world.mmap(0, (0, 512), RW, SMALL)?;
    world.store(0, CPU0, (200, 0), 1)?;
    world.populate(0, (0, 200))?;
    world.madvise(0, (0, 512), Advice::PageOut)?;
    assert_eq!(world.mm.swap_used(), 201);
    assert_eq!(world.load(0, CPU0, 200, 0)?, Verdict::Value(1));
    world.finish()
}

#[test]
fn advice_ends_at_a_locked_page_and_passes_holes() -> Outcome {
    let mut world = world()?;
    world.mmap(0, (0, 2), RW, SMALL)?;
    world.mmap(0, (3, 3), RW, SMALL)?;
    for page in [0, 3, 4, 5] {
        world.store(0, CPU0, (page, 0), 1)?;
    }
    assert_eq!(world.madvise(0, (0, 4), Advice::PageOut)?, Verdict::Hole);
    assert_eq!(world.mm.swap_used(), 2, "pages on both sides of a hole are swapped out");
    world.mlock(0, (4, 1))?;
    assert_eq!(world.discard(0, (3, 3))?, Verdict::Locked);
    for (page, value) in [(3, 0), (4, 1), (5, 1)] {
        assert_eq!(world.load(0, CPU0, page, 0)?, Verdict::Value(value));
    }
    world.finish()
}

#[test]
fn a_truncated_file_with_no_page_in_a_shared_table_leaves_it_alone() -> Outcome {
    let mut world = world()?;
    world.mmap(0, (0, 8), RW, SMALL)?;
    world.store(0, CPU0, (0, 0), 1)?;
    world.fork(0, 1, With::Nothing)?;
    world.mmap(0, (16, 4), RW, Backing::Shared { file: STORED, index: 0 })?;
    world.truncate(STORED, 2)?;
    for space in [0, 1] {
        assert_eq!(world.load(space, CPU0, 0, 0)?, Verdict::Value(1));
    }
    world.finish()
}
