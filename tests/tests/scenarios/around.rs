//! Map-around: a fault on a page that is there maps those beside it, unused; and no other.

use crate::{CPU0, CPU1, GUEST, HUGE, Outcome, SMALL, lab, lab_with};
use mm::notifier::MmuNotifier;
use mm::{Access, Protection};
use mmu::{AccessedDirty, FaultOutcome};
use tests::lab::{Lab, Verdict, gpage, page, pages};
use tests::machine::Options;

/// Has Herald store into these pages: they are there, and the guest has no entry.
fn resident(lab: &Lab, pages: impl IntoIterator<Item = u64>) -> Outcome {
    for index in pages {
        assert_eq!(lab.store(CPU1, page(index), index)?, Verdict::Done);
    }
    Ok(())
}

/// The pages that the guest has entries for.
fn mapped(lab: &Lab, count: u64) -> Vec<u64> {
    let mmu = &lab.guest(GUEST).mmu;
    (0..count).filter(|&index| mmu.lookup(gpage(index).gfn()).is_some()).collect()
}

/// Entries by faults, and beside them.
fn installed(lab: &Lab) -> (u64, u64) {
    let stats = lab.guest(GUEST).mmu.stats().snapshot();
    (stats.installed, stats.mapped_around)
}

#[test]
fn one_fault_maps_what_is_there_and_nothing_else() -> Outcome {
    let lab = lab(80);
    resident(&lab, [0, 1, 3, 5, 6, 63, 64, 79])?;
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(5))?, Verdict::Value(5));
    // Those of the group of 64; of the others none, and nothing where nothing was touched.
    assert_eq!(mapped(&lab, 80), [0, 1, 3, 5, 6, 63]);
    assert_eq!(installed(&lab), (1, 5));
    // Herald has written them, so the guest may: no fault, and no word is lost.
    for index in [0, 1, 3, 6, 63] {
        assert_eq!(lab.guest_store(GUEST, CPU0, gpage(index), index + 100)?, Verdict::Done);
        assert_eq!(lab.load(CPU1, page(index))?, Verdict::Value(index + 100));
    }
    assert_eq!(installed(&lab), (1, 5));
    lab.finish()
}

#[test]
fn a_fault_that_has_to_bring_its_page_maps_that_alone() -> Outcome {
    let lab = lab(8);
    resident(&lab, [0, 1])?;
    lab.guest_store(GUEST, CPU0, gpage(2), 2)?;
    assert_eq!(mapped(&lab, 8), [2]);
    lab.finish()
}

#[test]
fn a_page_that_was_mapped_around_is_old_until_it_is_used() -> Outcome {
    let lab = lab(4);
    resident(&lab, 0..4)?;
    for index in 0..4 {
        assert_eq!(lab.age(page(index))?, Verdict::Young(true));
    }
    lab.guest_load(GUEST, CPU0, gpage(1))?;
    assert_eq!(mapped(&lab, 4), [0, 1, 2, 3]);
    for (index, used) in [(0, false), (1, true), (2, false), (3, false)] {
        assert_eq!(lab.space.test_young(page(index)), Some(used), "page {index}");
        assert_eq!(lab.age(page(index))?, Verdict::Young(used), "page {index}");
    }
    lab.guest_load(GUEST, CPU0, gpage(3))?;
    assert_eq!(lab.age(page(3))?, Verdict::Young(true));
    assert_eq!(installed(&lab), (1, 3));
    lab.finish()
}

#[test]
fn without_accessed_bits_nothing_is_mapped_around() -> Outcome {
    let lab = lab_with(Options { accessed_dirty: AccessedDirty::Absent, ..Options::default() }, 4);
    resident(&lab, 0..4)?;
    lab.guest_load(GUEST, CPU0, gpage(1))?;
    assert_eq!(mapped(&lab, 4), [1]);
    assert_eq!(installed(&lab), (1, 0));
    lab.finish()
}

#[test]
fn neighbours_wait_for_the_end_of_a_range_over_them() -> Outcome {
    let lab = lab(8);
    resident(&lab, 0..8)?;
    let mmu = &lab.guest(GUEST).mmu;
    mmu.invalidate_range_begin(pages(5, 2));
    assert_eq!(mmu.fault(gpage(1), Access::Read), Ok(FaultOutcome::Mapped));
    assert_eq!(mapped(&lab, 8), [1], "mapped inside a range");
    mmu.invalidate_range_end(pages(5, 2));
    lab.guest_load(GUEST, CPU0, gpage(6))?;
    assert_eq!(mapped(&lab, 8), [0, 1, 2, 3, 4, 5, 6, 7]);
    lab.finish()
}

#[test]
fn a_group_ends_with_its_slot() -> Outcome {
    let lab = Lab::with_ram(Options::default(), 4);
    lab.mmap(pages(0, 8), Protection::ReadWrite, SMALL)?;
    resident(&lab, 0..8)?;
    lab.guest_load(GUEST, CPU0, gpage(1))?;
    assert_eq!(mapped(&lab, 8), [0, 1, 2, 3]);
    // One that begins in the middle of a group, of guest frames that lie otherwise in their table than the pages do.
    lab.add_slot(GUEST, gpage(510), pages(4, 4));
    lab.guest_load(GUEST, CPU0, gpage(513))?;
    assert_eq!(mapped(&lab, 520), [0, 1, 2, 3, 512, 513]);
    lab.finish()
}

#[test]
fn a_neighbour_has_the_rights_that_the_host_gives() -> Outcome {
    let lab = lab(8);
    resident(&lab, 0..8)?;
    lab.mprotect(pages(2, 1), Protection::Read)?;
    lab.mprotect(pages(3, 1), Protection::None)?;
    // A store maps what may be stored to, a load all that may be loaded.
    lab.guest_store(GUEST, CPU0, gpage(1), 11)?;
    assert_eq!(mapped(&lab, 8), [0, 1, 4, 5, 6, 7]);
    lab.discard(pages(5, 1))?;
    lab.migrate(page(6))?;
    lab.guest_load(GUEST, CPU0, gpage(6))?;
    assert_eq!(mapped(&lab, 8), [0, 1, 2, 4, 6, 7]);
    assert_eq!(lab.guest_store(GUEST, CPU0, gpage(2), 12)?, Verdict::Denied);
    lab.finish()
}

#[test]
fn a_huge_page_has_no_neighbours() -> Outcome {
    let lab = Lab::with_ram(Options { frames: 4096, ..Options::default() }, 1024);
    lab.mmap(pages(0, 512), Protection::ReadWrite, HUGE)?;
    lab.mmap(pages(512, 512), Protection::ReadWrite, SMALL)?;
    resident(&lab, [0, 512, 513])?;
    lab.guest_load(GUEST, CPU0, gpage(3))?;
    assert_eq!(installed(&lab), (1, 0));
    lab.finish()
}
