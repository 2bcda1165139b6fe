//! What finds a page: the reverse maps of areas that become one, and the book of merged pages.

use crate::Outcome;
use crate::bench::{Bench, Plan, SMALL, bytes};
use mm::{Advice, Protection, VmaKind};
use tests::lab::{Verdict, page, pages};
use tests::machine::Failing;

/// Two areas of two pages, and between them a third, which is mapped last.
fn three_areas(b: &Bench, written: &[u64]) -> Outcome {
    b.map_pages(0, 0, 2)?;
    b.map_pages(0, 4, 2)?;
    written.iter().try_for_each(|&index| b.guest_writes(0, index, 10 + index))?;
    b.map_pages(0, 2, 2)?;
    b.guest_writes(0, 3, 13)
}

#[test]
fn areas_that_become_one_have_the_reverse_map_that_has_pages() -> Outcome {
    for written in [0, 4] {
        let b = Bench::new(SMALL);
        three_areas(&b, &[written])?;
        assert_eq!(b.space(0).space.vmas().len(), 1);
        for index in [written, 3] {
            b.page_out(0, index)?;
            b.both_read(0, index, 10 + index)?;
        }
        b.finish()?;
    }
    Ok(())
}

#[test]
fn areas_whose_pages_two_reverse_maps_find_stay_two() -> Outcome {
    let b = Bench::new(SMALL);
    three_areas(&b, &[0, 4])?;
    assert_eq!(b.space(0).space.vmas().len(), 2);
    for index in [0, 3, 4] {
        b.page_out(0, index)?;
        b.both_read(0, index, 10 + index)?;
    }
    b.finish()
}

#[test]
fn what_nobody_has_touched_before_a_fork_is_the_parents_and_the_childs_own() -> Outcome {
    let b = Bench::new(SMALL);
    b.map_pages(0, 0, 2)?;
    b.map_pages(0, 4, 2)?;
    b.guest_writes(0, 0, 10)?;
    let child = b.fork(0)?;
    b.guest_writes(child, 4, 24)?;
    b.map_pages(0, 2, 2)?;
    assert_eq!(b.space(0).space.vmas().len(), 1, "the parent has no page in either");
    b.guest_writes(0, 4, 14)?;
    for (id, value) in [(0, 14), (child, 24)] {
        b.page_out(id, 4)?;
        b.both_read(id, 4, value)?;
    }
    b.finish()
}

/// Areas that were one when nobody had touched them are one again in the child, also when it has.
#[test]
fn what_nobody_has_touched_before_a_fork_joins_in_the_child_as_in_the_parent() -> Outcome {
    let b = Bench::new(SMALL);
    let protect = |id, first, protection| {
        b.does(id, "mprotect", |space| space.mprotect(page(first), bytes(2), protection))
    };
    b.map_pages(0, 0, 4)?;
    protect(0, 0, Protection::Read)?;
    let child = b.fork(0)?;
    for id in [0, child] {
        b.guest_writes(id, 2, 12)?;
        protect(id, 2, Protection::Read)?;
        protect(id, 0, Protection::ReadWrite)?;
        b.guest_writes(id, 0, 10)?;
        assert_eq!(b.space(id).space.vmas().len(), 2);
        protect(id, 2, Protection::ReadWrite)?;
        assert_eq!(b.space(id).space.vmas().len(), 1);
    }
    b.finish()
}

/// So many equal pages of one space, merged.
fn merged(count: u64) -> Result<Bench, tests::Violation> {
    let b = Bench::new(Plan { ram: count, ..SMALL });
    b.map_pages(0, 0, count)?;
    b.does(0, "MADV_MERGEABLE", |space| space.madvise(page(0), bytes(count), Advice::Mergeable))?;
    (0..count).try_for_each(|index| b.same("Herald's store", Verdict::Done, b.store(0, index, 7)))?;
    b.merge_all()?;
    assert_eq!((b.mm.merge_counts().sharing, b.mm.book_frames()), (count, 1));
    Ok(b)
}

#[test]
fn a_page_goes_to_swap_out_of_all_that_it_stands_for() -> Outcome {
    for count in [2, 5, 6, 12, 13, 24] {
        let b = merged(count)?;
        b.page_out(0, count - 1)?;
        for index in 0..count {
            assert_eq!(b.frame(0, index), None, "page {index} of {count}");
        }
        for index in 0..count {
            b.both_read(0, index, 7)?;
        }
        b.finish()?;
    }
    Ok(())
}

#[test]
fn a_page_that_stays_merged_is_found_after_any_number_of_passes() -> Outcome {
    let b = merged(8)?;
    b.merge_all()?;
    b.page_out(0, 0)?;
    assert_eq!(b.frame(0, 7), None);
    b.both_read(0, 7, 7)?;
    b.finish()
}

#[test]
fn of_merged_pages_that_have_gone_nothing_is_kept() -> Outcome {
    let b = merged(8)?;
    for index in 0..8 {
        b.guest_writes(0, index, 20 + index)?;
    }
    b.merge_all()?;
    assert_eq!(b.mm.book_frames(), 0);
    b.finish()
}

/// A frame of the book is full, and so is the first chunk of a page: one more sharer needs a second frame.
#[test]
fn a_page_that_there_is_no_room_for_in_the_book_stays_what_it_is() -> Outcome {
    const PAIRS: u64 = 64;
    const COUNT: u64 = 2 * PAIRS + 4;
    let b = Bench::new(Plan { ram: COUNT, ..SMALL });
    let store = |index, value| b.same("Herald's store", Verdict::Done, b.store(0, index, value));
    b.map_pages(0, 0, COUNT)?;
    b.does(0, "MADV_MERGEABLE", |space| space.madvise(page(0), bytes(COUNT), Advice::Mergeable))?;
    (0..2 * PAIRS).try_for_each(|index| store(index, 100 + index / 2))?;
    b.merge_all()?;
    (2 * PAIRS..COUNT - 1).try_for_each(|index| store(index, 100))?;
    b.merge_all()?;
    store(COUNT - 1, 100)?;
    b.mm.merge(u64::MAX);
    assert_eq!((b.mm.merge_counts().sharing, b.mm.book_frames()), (COUNT - 1, 1));
    b.machine.fail_allocations_after(0, Failing::FromThenOn);
    b.mm.merge(u64::MAX);
    assert!(!b.machine.cancel_failure(), "it needs a frame");
    b.check()?;
    assert_eq!((b.mm.merge_counts().sharing, b.mm.book_frames()), (COUNT - 1, 1));
    b.merge_all()?;
    assert_eq!((b.mm.merge_counts().sharing, b.mm.book_frames()), (COUNT, 2));
    b.page_out(0, 0)?;
    assert_eq!(b.frame(0, COUNT - 1), None);
    b.both_read(0, COUNT - 1, 100)?;
    b.finish()
}

/// An equal page of a space, which is alone in it.
fn add_equal(b: &Bench, id: usize) -> Outcome {
    b.map_pages(id, 0, 1)?;
    b.does(id, "MADV_MERGEABLE", |space| space.madvise(page(0), bytes(1), Advice::Mergeable))?;
    b.guest_writes(id, 0, 7)
}

/// Three of them, merged; the third has ended.
fn merged_with_one_that_ended() -> Result<Bench, tests::Violation> {
    let b = Bench::new(SMALL);
    (1..3).for_each(|id| assert_eq!(b.add_space(), id));
    (0..3).try_for_each(|id| add_equal(&b, id))?;
    b.merge_all()?;
    assert_eq!(b.mm.merge_counts().sharing, 3);
    b.end_space(2)?;
    Ok(b)
}

/// The number that a reverse map had goes to the next one: the book still names it, with an index that this one has, too.
#[test]
fn who_has_the_number_of_a_sharer_that_has_ended_keeps_his_page() -> Outcome {
    let b = merged_with_one_that_ended()?;
    b.add_space();
    b.map_pages(2, 0, 1)?;
    b.guest_writes(2, 0, 99)?;
    b.page_out(0, 0)?;
    assert_eq!([0, 1].map(|id| b.frame(id, 0)), [None; 2]);
    assert!(b.frame(2, 0).is_some());
    (0..2).try_for_each(|id| b.both_read(id, 0, 7))?;
    b.both_read(2, 0, 99)?;
    b.finish()
}

#[test]
fn who_has_the_number_of_a_sharer_that_has_ended_is_found_when_he_shares() -> Outcome {
    let b = merged_with_one_that_ended()?;
    b.add_space();
    add_equal(&b, 2)?;
    b.merge_all()?;
    assert_eq!(b.mm.merge_counts().sharing, 3);
    b.page_out(0, 0)?;
    assert_eq!([0, 1, 2].map(|id| b.frame(id, 0)), [None; 3]);
    (0..3).try_for_each(|id| b.both_read(id, 0, 7))?;
    b.finish()
}

#[test]
fn a_file_that_has_the_number_of_a_sharer_that_has_ended_is_left_alone() -> Outcome {
    let b = merged_with_one_that_ended()?;
    let (file, _) = b.disk_file(1);
    b.map(0, pages(1, 1), VmaKind::Shared(file, 0))?;
    b.guest_writes(0, 1, 99)?;
    b.page_out(1, 0)?;
    assert_eq!([0, 1].map(|id| b.frame(id, 0)), [None; 2]);
    b.both_read(0, 1, 99)?;
    (0..2).try_for_each(|id| b.both_read(id, 0, 7))?;
    b.finish()
}

/// Each allocation of a pass fails, or all from it on: nothing has changed then, and with memory the next passes merge.
#[test]
fn merging_without_memory_does_nothing_and_goes_on_later() -> Outcome {
    const COUNT: u64 = 8;
    for how in [Failing::Once, Failing::FromThenOn] {
        for failing in 0.. {
            let b = Bench::new(Plan { ram: COUNT, ..SMALL });
            b.map_pages(0, 0, COUNT)?;
            b.does(0, "MADV_MERGEABLE", |space| space.madvise(page(0), bytes(COUNT), Advice::Mergeable))?;
            (0..COUNT).try_for_each(|index| b.guest_writes(0, index, 7))?;
            b.mm.merge(u64::MAX);
            b.machine.fail_allocations_after(failing, how);
            b.mm.merge(u64::MAX);
            let enough = b.machine.cancel_failure();
            b.check()?;
            assert!(enough || how == Failing::Once || b.mm.merge_counts().merged == 0);
            (0..COUNT).try_for_each(|index| b.guest_reads(0, index, 7))?;
            b.merge_all()?;
            assert_eq!(b.mm.merge_counts().sharing, COUNT);
            b.finish()?;
            if enough {
                assert!(failing > 0, "merging takes a frame");
                break;
            }
        }
    }
    Ok(())
}
