//! Huge pages: mapped, protected, discarded and unmapped whole, in the primary tables and in the guest's.

use crate::{CPU0, CPU1, GUEST, HUGE, Outcome, SMALL};
use addr::PageSize;
use mm::Protection;
use tests::lab::{Lab, Verdict, gpage, page, pages};
use tests::machine::Options;

/// Two huge pages at 0, then 512 small ones, all of it RAM of the guest at the same offset.
fn huge_lab() -> Result<Lab, tests::Violation> {
    huge_lab_with(Options::default())
}

fn huge_lab_with(options: Options) -> Result<Lab, tests::Violation> {
    let lab = Lab::with_ram(options, 1536);
    lab.mmap(pages(0, 1024), Protection::ReadWrite, HUGE)?;
    lab.mmap(pages(1024, 512), Protection::ReadWrite, SMALL)?;
    Ok(lab)
}

#[test]
fn one_touch_maps_two_megabytes_for_the_guest_too() -> Outcome {
    let lab = huge_lab()?;
    lab.guest_store(GUEST, CPU0, gpage(7), 70)?;
    assert_eq!(lab.space.resident_frames(), 512);
    assert_eq!(lab.guest(GUEST).mmu.mapped(), 512);
    let installed = lab.guest(GUEST).mmu.stats().snapshot().installed;
    lab.guest_store(GUEST, CPU0, gpage(511), 71)?;
    assert_eq!(lab.guest(GUEST).mmu.stats().snapshot().installed, installed, "no second violation");
    assert_eq!(lab.load(CPU1, page(511))?, Verdict::Value(71));
    lab.finish()
}

#[test]
fn a_part_of_a_huge_page_is_neither_unmapped_nor_protected_nor_discarded() -> Outcome {
    let lab = huge_lab()?;
    lab.guest_store(GUEST, CPU0, gpage(600), 70)?;
    assert_eq!(lab.munmap(pages(600, 1))?, Verdict::BadRange);
    assert_eq!(lab.mprotect(pages(512, 100), Protection::None)?, Verdict::BadRange);
    assert_eq!(lab.discard(pages(1000, 100))?, Verdict::BadRange);
    assert_eq!(lab.mmap(pages(1023, 1), Protection::ReadWrite, SMALL)?, Verdict::BadRange);
    assert_eq!(lab.migrate(page(600))?, Verdict::Huge);
    assert_eq!(lab.guest_load(GUEST, CPU1, gpage(600))?, Verdict::Value(70));
    lab.finish()
}

#[test]
fn whole_huge_pages_are_unmapped_protected_and_discarded() -> Outcome {
    let lab = huge_lab()?;
    for index in [3, 515, 1027] {
        lab.guest_store(GUEST, CPU0, gpage(index), index)?;
        lab.guest_load(GUEST, CPU1, gpage(index + 1))?;
    }
    lab.mprotect(pages(512, 1024), Protection::Read)?;
    assert_eq!(lab.guest_store(GUEST, CPU0, gpage(515), 1)?, Verdict::Denied);
    assert_eq!(lab.guest_load(GUEST, CPU1, gpage(515))?, Verdict::Value(515));
    lab.discard(pages(0, 512))?;
    assert_eq!(lab.guest_load(GUEST, CPU1, gpage(3))?, Verdict::Value(0));
    lab.munmap(pages(0, 1024))?;
    assert_eq!(lab.guest_load(GUEST, CPU1, gpage(515))?, Verdict::Unmapped);
    assert_eq!(lab.guest_load(GUEST, CPU1, gpage(1027))?, Verdict::Value(1027));
    lab.finish()
}

#[test]
fn small_pages_take_the_place_of_a_huge_one_and_the_other_way_round() -> Outcome {
    let lab = huge_lab()?;
    for _ in 0..2 {
        lab.mmap(pages(0, 512), Protection::ReadWrite, SMALL)?;
        lab.guest_store(GUEST, CPU0, gpage(9), 9)?;
        lab.store(CPU1, page(10), 10)?;
        lab.mmap(pages(0, 512), Protection::ReadWrite, HUGE)?;
        assert_eq!(lab.guest_load(GUEST, CPU0, gpage(9))?, Verdict::Value(0));
        assert_eq!(lab.load(CPU1, page(10))?, Verdict::Value(0));
    }
    lab.finish()
}

#[test]
fn a_slot_out_of_step_gets_small_entries_of_a_huge_page() -> Outcome {
    let lab = huge_lab()?;
    // Long enough to hold a whole huge page of the guest's.
    lab.add_slot(GUEST, gpage(4097), pages(0, 1024));
    lab.guest_store(GUEST, CPU0, gpage(4700), 33)?;
    assert_eq!(lab.guest(GUEST).mmu.mapped(), 1);
    assert_eq!(lab.guest_load(GUEST, CPU1, gpage(603))?, Verdict::Value(33));
    lab.discard(pages(512, 512))?;
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(4700))?, Verdict::Value(0));
    lab.finish()
}

#[test]
fn a_slot_that_ends_inside_a_huge_page_gets_small_entries_of_it() -> Outcome {
    let lab = huge_lab()?;
    lab.add_slot(GUEST, gpage(4096), pages(0, 64));
    lab.guest_store(GUEST, CPU0, gpage(4100), 33)?;
    assert_eq!(lab.guest(GUEST).mmu.mapped(), 1);
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(4160))?, Verdict::NotRam);
    lab.finish()
}

#[test]
fn aging_and_refetching_a_huge_page() -> Outcome {
    let lab = huge_lab()?;
    lab.guest_load(GUEST, CPU0, gpage(100))?;
    assert_eq!(lab.age(page(0))?, Verdict::Young(true));
    assert_eq!(lab.age(page(511))?, Verdict::Young(false));
    lab.guest_load(GUEST, CPU0, gpage(400))?;
    assert_eq!(lab.age(page(17))?, Verdict::Young(true));
    lab.finish()
}

#[test]
fn a_gigabyte_in_one_entry() -> Outcome {
    const GIGABYTE: u64 = 1 << 18;
    let options = Options { frames: 3 * GIGABYTE, ..Options::default() };
    let lab = Lab::with_ram(options, GIGABYTE);
    lab.mmap(pages(0, GIGABYTE), Protection::ReadWrite, PageSize::Size1G)?;
    lab.guest_store(GUEST, CPU0, gpage(GIGABYTE - 1), 5)?;
    assert_eq!(lab.guest(GUEST).mmu.mapped(), GIGABYTE);
    assert_eq!(lab.load(CPU1, page(GIGABYTE - 1))?, Verdict::Value(5));
    assert_eq!(lab.age(page(77))?, Verdict::Young(true));
    assert_eq!(lab.discard(pages(0, 512))?, Verdict::BadRange);
    lab.discard(pages(0, GIGABYTE))?;
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(GIGABYTE - 1))?, Verdict::Value(0));
    lab.finish()
}

#[test]
fn a_pool_has_huge_frames_where_memory_is_used_up_and_takes_them_back_zeroed() -> Outcome {
    let mut lab = huge_lab()?;
    lab.mm.grow_pool(HUGE, 1).expect("there is memory");
    // What tables need.
    lab.hoard(16);
    assert!(lab.mm.grow_pool(HUGE, 1).is_err());
    assert_eq!(lab.guest_store(GUEST, CPU0, gpage(7), 70)?, Verdict::Done);
    assert_eq!(lab.mm.pooled(HUGE), 0);
    assert_eq!(lab.guest_store(GUEST, CPU0, gpage(512), 1)?, Verdict::OutOfMemory);
    lab.discard(pages(0, 512))?;
    assert_eq!(lab.mm.pooled(HUGE), 1);
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(519))?, Verdict::Value(0));
    assert_eq!(lab.mm.pooled(HUGE), 0);
    lab.finish()
}

#[test]
fn a_drained_pool_gives_its_memory_to_small_pages() -> Outcome {
    // What is freed can be had at once.
    let mut lab = huge_lab_with(Options { quarantine: 0, ..Options::default() })?;
    lab.mm.grow_pool(HUGE, 2).expect("there is memory");
    lab.guest_store(GUEST, CPU0, gpage(7), 70)?;
    lab.hoard(16);
    lab.mm.drain_pools();
    assert_eq!(lab.mm.pooled(HUGE), 0);
    for index in 1024..1124 {
        assert_eq!(lab.guest_store(GUEST, CPU0, gpage(index), index)?, Verdict::Done);
    }
    // The frame that was in use belongs to the pool still.
    lab.munmap(pages(0, 512))?;
    assert_eq!(lab.mm.pooled(HUGE), 1);
    lab.finish()
}
