//! mmap, munmap, discard, mprotect (patch sites `unmap_region`, `zap_page_range`, `mprotect_fixup`).

use crate::{CPU0, CPU1, GUEST, HUGE, Outcome, SMALL, fill, lab, observe};
use addr::HvaRange;
use mm::{MOST_AREAS, MapError, MapRequest, Placement, Protection, VmaKind};
use mmu::Call;
use tests::lab::{Lab, Verdict, gpage, page, pages};
use tests::machine::Options;

#[test]
fn untouched_memory_reads_zero_and_costs_no_frame_before_it_is_written() -> Outcome {
    let lab = lab(8);
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(3))?, Verdict::Value(0));
    assert_eq!(lab.load(CPU1, page(3))?, Verdict::Value(0));
    assert_eq!(lab.load(CPU1, page(4))?, Verdict::Value(0));
    assert_eq!(lab.space.resident_frames(), 0);
    lab.guest_store(GUEST, CPU0, gpage(3), 5)?;
    assert_eq!(lab.space.resident_frames(), 1);
    assert_eq!(lab.load(CPU1, page(3))?, Verdict::Value(5));
    assert_eq!(lab.load(CPU1, page(4))?, Verdict::Value(0));
    lab.finish()
}

#[test]
fn guest_and_herald_see_each_others_stores() -> Outcome {
    let lab = lab(4);
    lab.guest_store(GUEST, CPU0, gpage(1), 17)?;
    assert_eq!(lab.load(CPU1, page(1))?, Verdict::Value(17));
    lab.store(CPU1, page(1), 18)?;
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(1))?, Verdict::Value(18));
    lab.store(CPU1, page(2), 19)?;
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(2))?, Verdict::Value(19));
    lab.finish()
}

#[test]
fn munmap_takes_a_page_from_a_guest_that_has_it_cached() -> Outcome {
    let lab = lab(8);
    fill(&lab, 8, 100)?;
    lab.run_guest(GUEST, CPU0);
    assert!(lab.guest_has_cached(CPU0, gpage(5)));
    lab.munmap(pages(4, 2))?;
    assert!(!lab.guest_has_cached(CPU0, gpage(5)));
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(5))?, Verdict::Unmapped);
    assert_eq!(lab.load(CPU1, page(4))?, Verdict::Unmapped);
    assert_eq!(lab.guest_load(GUEST, CPU1, gpage(6))?, Verdict::Value(106));
    assert_eq!(lab.space.resident_frames(), 6);
    lab.finish()
}

#[test]
fn munmap_of_everything_gives_the_tables_back() -> Outcome {
    let lab = lab(600);
    fill(&lab, 3, 1)?;
    lab.store(CPU0, page(599), 1)?;
    lab.munmap(pages(0, 600))?;
    // A speculating CPU still has the way into the tables cached, unless the flush took it.
    lab.speculate(None, CPU0, page(599).as_u64())?;
    lab.speculate(Some(GUEST), CPU1, gpage(1).as_u64())?;
    lab.finish()
}

#[test]
fn a_range_is_zapped_with_the_tables_that_serve_it_alone_and_they_are_used_again() -> Outcome {
    const TABLES: u64 = 5;
    let lab = lab(TABLES * 512);
    let touched = || (0..TABLES).map(|table| table * 512 + 3);
    for index in touched() {
        assert_eq!(lab.guest_store(GUEST, CPU0, gpage(index), index)?, Verdict::Done);
        assert_eq!(lab.guest_load(GUEST, CPU1, gpage(index))?, Verdict::Value(index));
    }
    // The first table and the last one serve pages outside, too.
    lab.mprotect(pages(1, TABLES * 512 - 2), Protection::Read)?;
    let mmu = &lab.guest(GUEST).mmu;
    assert_eq!(mmu.spare_tables().len() as u64, TABLES - 2);
    assert_eq!(mmu.mapped(), 0);
    for index in touched() {
        assert!(!lab.guest_has_cached(CPU1, gpage(index)));
        lab.speculate(Some(GUEST), CPU1, gpage(index).as_u64())?;
        assert_eq!(lab.guest_load(GUEST, CPU1, gpage(index))?, Verdict::Value(index));
        assert_eq!(lab.guest_store(GUEST, CPU0, gpage(index), 1)?, Verdict::Denied);
    }
    assert!(mmu.spare_tables().is_empty());
    lab.finish()
}

#[test]
fn munmap_of_more_pages_than_one_batch_frees_them_all() -> Outcome {
    let lab = lab(400);
    fill(&lab, 400, 7)?;
    lab.munmap(pages(0, 300))?;
    assert_eq!(lab.space.resident_frames(), 100);
    lab.finish()
}

#[test]
fn mmap_over_a_mapping_replaces_it_with_zeros() -> Outcome {
    let lab = lab(4);
    fill(&lab, 4, 50)?;
    lab.mmap(pages(1, 2), Protection::ReadWrite, SMALL)?;
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(1))?, Verdict::Value(0));
    assert_eq!(lab.guest_load(GUEST, CPU1, gpage(3))?, Verdict::Value(53));
    lab.finish()
}

#[test]
fn a_discarded_page_reads_zero_through_every_path() -> Outcome {
    let lab = lab(4);
    fill(&lab, 4, 9)?;
    lab.discard(pages(1, 2))?;
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(1))?, Verdict::Value(0));
    assert_eq!(lab.guest_load(GUEST, CPU1, gpage(1))?, Verdict::Value(0));
    assert_eq!(lab.load(CPU0, page(2))?, Verdict::Value(0));
    assert_eq!(lab.load(CPU0, page(3))?, Verdict::Value(12));
    lab.finish()
}

#[test]
fn a_hole_does_not_keep_the_rest_from_being_discarded() -> Outcome {
    let lab = lab(6);
    fill(&lab, 6, 9)?;
    lab.munmap(pages(2, 1))?;
    assert_eq!(lab.discard(pages(0, 6))?, Verdict::Hole);
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(5))?, Verdict::Value(0));
    lab.finish()
}

#[test]
fn protection_none_stops_the_guest_and_keeps_the_contents() -> Outcome {
    let lab = lab(4);
    fill(&lab, 4, 30)?;
    lab.mprotect(pages(1, 2), Protection::None)?;
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(1))?, Verdict::Denied);
    assert_eq!(lab.load(CPU1, page(2))?, Verdict::Denied);
    assert_eq!(lab.space.resident_frames(), 4, "the frames stay");
    lab.mprotect(pages(1, 2), Protection::ReadWrite)?;
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(1))?, Verdict::Value(31));
    assert_eq!(lab.guest_store(GUEST, CPU1, gpage(2), 77)?, Verdict::Done);
    lab.finish()
}

#[test]
fn a_read_only_page_refuses_the_guests_store_but_not_its_loads() -> Outcome {
    let lab = lab(4);
    fill(&lab, 4, 30)?;
    lab.mprotect(pages(0, 4), Protection::Read)?;
    assert_eq!(lab.guest_store(GUEST, CPU0, gpage(1), 1)?, Verdict::Denied);
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(1))?, Verdict::Value(31));
    assert_eq!(lab.store(CPU1, page(1), 1)?, Verdict::Denied);
    lab.mprotect(pages(0, 4), Protection::ReadWrite)?;
    assert_eq!(lab.guest_store(GUEST, CPU0, gpage(1), 2)?, Verdict::Done);
    assert_eq!(lab.load(CPU1, page(1))?, Verdict::Value(2));
    lab.finish()
}

#[test]
fn mprotect_stops_at_the_first_hole_as_linux_does() -> Outcome {
    let lab = lab(6);
    lab.munmap(pages(3, 1))?;
    assert_eq!(lab.mprotect(pages(1, 5), Protection::Read)?, Verdict::Hole);
    assert_eq!(lab.guest_store(GUEST, CPU0, gpage(2), 1)?, Verdict::Denied);
    assert_eq!(lab.guest_store(GUEST, CPU0, gpage(4), 1)?, Verdict::Done);
    lab.finish()
}

#[test]
fn every_site_tells_begin_and_end_once() -> Outcome {
    let lab = lab(4);
    fill(&lab, 4, 1)?;
    let range = pages(0, 2);
    for (what, operation) in operations() {
        let observer = observe(&lab);
        operation(&lab)?;
        assert_eq!(observer.calls(), [Call::RangeBegin(range), Call::RangeEnd(range)], "{what}");
    }
    lab.finish()
}

type Operation = fn(&tests::lab::Lab) -> Outcome;

fn operations() -> [(&'static str, Operation); 4] {
    [
        ("discard", |lab| lab.discard(pages(0, 2)).map(drop)),
        ("mprotect", |lab| lab.mprotect(pages(0, 2), Protection::Read).map(drop)),
        ("mmap over", |lab| lab.mmap(pages(0, 2), Protection::ReadWrite, SMALL).map(drop)),
        ("munmap", |lab| lab.munmap(pages(0, 2)).map(drop)),
    ]
}

#[test]
fn mmap_anywhere_takes_the_lowest_gap_that_fits() -> Outcome {
    let lab = lab(0x10);
    let anywhere = |len, kind| {
        let request = MapRequest {
            placement: Placement::Anywhere,
            len,
            protection: Protection::ReadWrite,
            kind: VmaKind::Anonymous(kind),
        };
        lab.space.mmap(request)
    };
    let first = anywhere(3 * 4096, SMALL).expect("room");
    let second = anywhere(5000, SMALL).expect("room");
    assert_eq!(second.start(), first.end());
    assert_eq!(second.len(), 8192, "whole pages");
    let huge = anywhere(1, HUGE).expect("room");
    assert!(huge.is_aligned(HUGE));
    lab.munmap(HvaRange::new(first.start(), first.start().add(4096)))?;
    assert_eq!(anywhere(4096, SMALL).expect("room").start(), first.start());
    assert_eq!(anywhere(8192, SMALL).expect("room").start(), second.end());
    assert_eq!(anywhere(1 << 50, SMALL), Err(MapError::NoRoom { len: 1 << 50 }));
    assert_eq!(anywhere(u64::MAX, SMALL), Err(MapError::NoRoom { len: u64::MAX }));
    assert!(matches!(anywhere(0, SMALL), Err(MapError::BadRange { .. })));
    lab.finish()
}

#[test]
fn equal_neighbours_become_one_area() -> Outcome {
    let lab = lab(8);
    lab.mprotect(pages(2, 4), Protection::Read)?;
    assert_eq!(lab.space.vmas().len(), 3);
    lab.mprotect(pages(2, 2), Protection::ReadWrite)?;
    assert_eq!(lab.space.vmas().len(), 3);
    lab.mprotect(pages(4, 2), Protection::ReadWrite)?;
    assert_eq!(lab.space.vmas().len(), 1);
    lab.finish()
}

#[test]
fn an_address_space_has_a_most_of_areas_and_goes_on() -> Outcome {
    let lab = Lab::new(Options::default());
    let most = MOST_AREAS as u64;
    lab.mmap(pages(0, 2 * most), Protection::ReadWrite, SMALL)?;
    lab.store(CPU0, page(1), 41)?;
    let protect = |index| lab.space.mprotect(page(index), 4096, Protection::Read);
    let done = (0..2 * most).step_by(2).find_map(|index| Some((index, protect(index).err()?)));
    assert_eq!(done, Some((most, MapError::TooManyAreas)));
    assert_eq!(lab.space.vmas().len() as u64, most);
    let inside = page(2 * most - 2);
    assert_eq!(lab.space.munmap(inside, 4096), Err(MapError::TooManyAreas));
    assert_eq!(lab.space.discard(inside, 4096), Ok(()));
    assert_eq!(lab.load(CPU0, page(1))?, Verdict::Value(41));
    for whole in [1, 3] {
        lab.space.munmap(page(whole), 4096).expect("an area goes");
    }
    protect(most).expect("there is room for it");
    lab.finish()
}
