//! Fault-ahead: where a guest goes through fresh memory in order, a first touch brings the pages behind it; not before, nowhere else, and no
//! further than anybody wants.

use crate::{CPU0, CPU1, GUEST, Outcome, SMALL, lab, lab_with};
use mm::{Access, Host, Protection};
use mmu::AccessedDirty;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tests::lab::{Lab, Verdict, gpage, page, pages};
use tests::machine::{Event, Options};

/// The guest stores the numbers of its pages there, in this order.
fn stores(lab: &Lab, pages: impl IntoIterator<Item = u64>) -> Outcome {
    for index in pages {
        assert_eq!(lab.guest_store(GUEST, CPU0, gpage(index), index)?, Verdict::Done);
    }
    Ok(())
}

/// The pages that the guest has entries for.
fn mapped(lab: &Lab, count: u64) -> Vec<u64> {
    let mmu = &lab.guest(GUEST).mmu;
    (0..count).filter(|&index| mmu.lookup(gpage(index).gfn()).is_some()).collect()
}

/// The pages that the host has.
fn present(lab: &Lab, count: u64) -> Vec<u64> {
    (0..count).filter(|&index| lab.space.lookup(page(index)).is_some()).collect()
}

/// A stream that has just begun to bring pages: 0 to 3 were touched, and 4 is there.
fn begun(lab: &Lab) -> Outcome {
    stores(lab, 0..4)?;
    assert_eq!(present(lab, 80), [0, 1, 2, 3, 4]);
    Ok(())
}

#[test]
fn a_stream_brings_more_with_each_fault() -> Outcome {
    let lab = lab(80);
    for (touched, there) in
        [(1, 1), (2, 2), (3, 3), (4, 5), (6, 9), (10, 17), (18, 33), (34, 49), (50, 64), (65, 80)]
    {
        stores(&lab, touched - 1..touched)?;
        let expected: Vec<_> = (0..there).collect();
        assert_eq!(
            (mapped(&lab, 80), present(&lab, 80)),
            (expected.clone(), expected),
            "after {touched} pages"
        );
    }
    // What came unasked is zeros, and the guest may store to it: no fault.
    let faults = lab.machine.faults();
    assert_eq!(lab.guest_load(GUEST, CPU1, gpage(62))?, Verdict::Value(0));
    assert_eq!(lab.guest_store(GUEST, CPU1, gpage(63), 163)?, Verdict::Done);
    assert_eq!(lab.machine.faults(), faults);
    assert_eq!(lab.load(CPU1, page(63))?, Verdict::Value(163));
    lab.finish()
}

#[test]
fn where_nobody_goes_in_order_nothing_comes() -> Outcome {
    let lab = lab(80);
    let touched = [0, 7, 8, 9, 3, 2, 1, 40, 10, 41, 11];
    stores(&lab, touched)?;
    let mut expected = touched;
    expected.sort_unstable();
    assert_eq!(present(&lab, 80), expected);
    // Nor do loads bring pages.
    for index in 60..70 {
        lab.guest_load(GUEST, CPU0, gpage(index))?;
    }
    assert_eq!(lab.space.resident_frames(), touched.len() as u64);
    lab.finish()
}

#[test]
fn a_fault_elsewhere_ends_a_stream() -> Outcome {
    let lab = lab(80);
    begun(&lab)?;
    stores(&lab, [60, 5, 6])?;
    assert_eq!(present(&lab, 80), [0, 1, 2, 3, 4, 5, 6, 60]);
    lab.finish()
}

#[test]
fn a_stream_ends_with_the_area() -> Outcome {
    let lab = Lab::with_ram(Options::default(), 80);
    lab.mmap(pages(0, 7), Protection::ReadWrite, SMALL)?;
    lab.mmap(pages(7, 2), Protection::Read, SMALL)?;
    begun(&lab)?;
    stores(&lab, [5])?;
    assert_eq!(present(&lab, 80), [0, 1, 2, 3, 4, 5, 6]);
    lab.finish()
}

#[test]
fn a_stream_ends_with_the_slot() -> Outcome {
    let lab = Lab::with_ram(Options::default(), 7);
    lab.mmap(pages(0, 20), Protection::ReadWrite, SMALL)?;
    begun(&lab)?;
    stores(&lab, [5])?;
    assert_eq!((mapped(&lab, 20), present(&lab, 20)), (vec![0, 1, 2, 3, 4, 5, 6], vec![0, 1, 2, 3, 4, 5, 6]));
    lab.finish()
}

#[test]
fn a_stream_pauses_at_the_bounds_of_page_tables() -> Outcome {
    let lab = lab(600);
    // Guest frames out of step with the host's pages: each of the two tables ends elsewhere.
    lab.add_slot(GUEST, gpage(1020), pages(10, 40));
    for (guest, there) in [(1020, 11), (1021, 12), (1022, 13), (1023, 14), (1024, 18), (1028, 26)] {
        stores(&lab, [guest])?;
        assert_eq!(lab.space.resident_frames(), there - 10, "after {guest}");
    }
    stores(&lab, 505..508)?;
    stores(&lab, [508, 510])?;
    assert_eq!(lab.space.resident_frames(), 16 + 7);
    // The first page of a table has to bring that.
    stores(&lab, [512, 513])?;
    assert_eq!(lab.space.resident_frames(), 16 + 7 + 1 + 16);
    lab.finish()
}

#[test]
fn what_is_there_ends_the_pages_ahead() -> Outcome {
    let lab = lab(80);
    lab.store(CPU1, page(7), 77)?;
    begun_beside(&lab, 7)?;
    stores(&lab, [5])?;
    assert_eq!(present(&lab, 80), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(7))?, Verdict::Value(77));
    lab.finish()
}

/// As [`begun`], where another page is there already.
fn begun_beside(lab: &Lab, other: u64) -> Outcome {
    stores(lab, 0..4)?;
    assert_eq!(present(lab, 80), [0, 1, 2, 3, 4, other]);
    Ok(())
}

/// A page ahead was looked for, and has no frame yet. Before it has, another processor is faster: the page is his.
#[test]
fn a_page_ahead_that_somebody_else_has_brought_meanwhile_is_his() -> Outcome {
    let lab = Arc::new(lab(80));
    begun(&lab)?;
    // The first frame is for the page itself.
    let (other, frames) = (Arc::downgrade(&lab), AtomicU64::new(0));
    lab.machine.set_hook(move |event| {
        if matches!(event, Event::AllocateFrame(_)) && frames.fetch_add(1, Ordering::Relaxed) == 1 {
            let lab = other.upgrade().expect("the bench lives");
            let brings = move || lab.space.fault_in(page(7), Access::Write).map(drop);
            assert_eq!(std::thread::spawn(brings).join().expect("the other thread's work"), Ok(()));
        }
    });
    stores(&lab, [5])?;
    lab.machine.clear_hook();
    assert_eq!((present(&lab, 80), lab.space.resident_frames()), ((0..8).collect(), 8));
    Arc::into_inner(lab).expect("the other thread has ended").finish()
}

#[test]
fn pages_ahead_stay_below_the_limit() -> Outcome {
    let lab = lab(80);
    // Direct reclaim begins 32 frames below it.
    lab.space.set_limit(Some(32 + 8));
    begun(&lab)?;
    stores(&lab, [5])?;
    assert_eq!(present(&lab, 80), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    stores(&lab, [9])?;
    assert_eq!(lab.space.resident_frames(), 10);
    lab.finish()
}

#[test]
fn where_frames_are_few_none_is_taken_unasked() -> Outcome {
    let lab = lab(80);
    begun(&lab)?;
    let frames = lab.machine.frames();
    // All but two of these may be had: the one that is asked for, and another.
    let few = frames.total() / 64 + 2;
    frames.set_reserve(frames.free_count() - few);
    stores(&lab, [5])?;
    assert_eq!(present(&lab, 80), [0, 1, 2, 3, 4, 5, 6]);
    stores(&lab, [7])?;
    assert_eq!(present(&lab, 80), [0, 1, 2, 3, 4, 5, 6, 7]);
    lab.finish()
}

#[test]
fn a_page_ahead_is_old_until_it_is_used() -> Outcome {
    let lab = lab(80);
    stores(&lab, 0..6)?;
    for (index, used) in [(5, true), (6, false), (7, false)] {
        assert_eq!(lab.space.test_young(page(index)), Some(used), "page {index}");
    }
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(7))?, Verdict::Value(0));
    assert_eq!(lab.age(page(7))?, Verdict::Young(true));
    assert_eq!(lab.age(page(6))?, Verdict::Young(false));
    lab.finish()
}

#[test]
fn without_accessed_bits_nothing_comes_ahead() -> Outcome {
    let lab = lab_with(Options { accessed_dirty: AccessedDirty::Absent, ..Options::default() }, 80);
    stores(&lab, 0..8)?;
    assert_eq!(present(&lab, 80), [0, 1, 2, 3, 4, 5, 6, 7]);
    lab.finish()
}

#[test]
fn pages_ahead_that_find_no_frame_stay_away() -> Outcome {
    let lab = lab(80);
    begun(&lab)?;
    // The frame of the page itself, and of the one behind it.
    lab.machine.fail_allocation_after(2);
    stores(&lab, [5])?;
    lab.machine.cancel_failure();
    assert_eq!(present(&lab, 80), [0, 1, 2, 3, 4, 5, 6]);
    lab.finish()
}
