//! What finds a page: the reverse maps of areas that become one, and the book of merged pages.

use crate::Outcome;
use crate::bench::{Bench, Plan, SMALL, bytes};
use mm::Advice;
use tests::lab::{Verdict, page};
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
