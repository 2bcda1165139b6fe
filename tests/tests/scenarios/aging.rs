//! Aging (patch site `page_referenced_one`: answers OR-ed over the primary entry and all subscribers).

use crate::{CPU0, CPU1, GUEST, HUGE, Outcome, SMALL, fill, lab, lab_with, observe};
use addr::{PAGE_SIZE, PageSize};
use mm::notifier::MmuNotifier;
use mm::{Advice, Protection, Remap};
use mmu::AccessedDirty;
use tests::lab::{GuestId, Lab, Verdict, gpage, page, pages};
use tests::machine::{Event, Options, Paging};

#[test]
fn a_page_is_young_when_only_the_guest_has_used_it() -> Outcome {
    let lab = lab(2);
    fill(&lab, 2, 1)?;
    assert_eq!(lab.age(page(0))?, Verdict::Young(true));
    assert_eq!(lab.age(page(0))?, Verdict::Young(false));
    // The translation was cached: only a flush makes the CPU look at the tables again.
    lab.guest_load(GUEST, CPU1, gpage(0))?;
    assert_eq!(lab.age(page(0))?, Verdict::Young(true));
    assert_eq!(lab.age(page(0))?, Verdict::Young(false));
    lab.finish()
}

#[test]
fn a_page_is_young_when_only_herald_has_used_it() -> Outcome {
    let lab = lab(2);
    lab.store(CPU0, page(1), 1)?;
    assert_eq!(lab.age(page(1))?, Verdict::Young(true));
    assert_eq!(lab.age(page(1))?, Verdict::Young(false));
    lab.load(CPU0, page(1))?;
    assert_eq!(lab.age(page(1))?, Verdict::Young(true));
    lab.finish()
}

#[test]
fn aging_loses_no_store() -> Outcome {
    let lab = lab(2);
    fill(&lab, 2, 8)?;
    lab.age(page(1))?;
    lab.guest_store(GUEST, CPU0, gpage(1), 80)?;
    lab.age(page(1))?;
    assert_eq!(lab.load(CPU1, page(1))?, Verdict::Value(80));
    lab.finish()
}

#[test]
fn without_accessed_bits_aging_unmaps_and_the_next_touch_is_seen() -> Outcome {
    let options = Options { accessed_dirty: AccessedDirty::Absent, ..Options::default() };
    let lab = lab_with(options, 2);
    fill(&lab, 2, 1)?;
    assert_eq!(lab.age(page(0))?, Verdict::Young(true));
    assert_eq!(lab.guest(GUEST).mmu.mapped(), 1);
    assert_eq!(lab.age(page(0))?, Verdict::Young(false));
    assert_eq!(lab.guest_load(GUEST, CPU1, gpage(0))?, Verdict::Value(1));
    assert_eq!(lab.age(page(0))?, Verdict::Young(true));
    lab.finish()
}

/// The frame may go to somebody else at any time: no CPU may still have what was zapped (I6).
#[test]
fn without_accessed_bits_what_clear_young_unmaps_is_flushed() -> Outcome {
    let options = Options { accessed_dirty: AccessedDirty::Absent, ..Options::default() };
    let lab = lab_with(options, 2);
    fill(&lab, 2, 1)?;
    assert!(lab.guest_has_cached(CPU0, gpage(0)) || lab.guest_has_cached(CPU1, gpage(0)));
    assert!(lab.guest(GUEST).mmu.clear_young(pages(0, 1)));
    lab.check()?;
    lab.finish()
}

#[test]
fn every_guest_is_asked_even_after_one_has_said_young() -> Outcome {
    let mut lab = lab(2);
    let other = lab.add_guest();
    lab.add_slot(other, gpage(0), pages(0, 2));
    lab.guest_load(GUEST, CPU0, gpage(0))?;
    lab.guest_load(other, CPU1, gpage(0))?;
    assert_eq!(lab.age(page(0))?, Verdict::Young(true));
    assert_eq!(lab.age(page(0))?, Verdict::Young(false), "the second guest kept its bit");
    lab.finish()
}

#[test]
fn nothing_resident_has_no_age() -> Outcome {
    let lab = lab(2);
    assert_eq!(lab.age(page(0))?, Verdict::NotResident);
    lab.finish()
}

/// v8 passes one address: of a huge page that a guest maps in small pieces, only the first was asked.
#[test]
fn a_huge_page_is_young_when_a_guest_has_used_any_part_of_it() -> Outcome {
    let lab = Lab::new(Options::default());
    lab.mmap(pages(0, 512), Protection::ReadWrite, HUGE)?;
    // Guest and host addresses differ by one page: small entries only.
    lab.add_slot(GuestId(0), gpage(1), pages(0, 512));
    assert!(!page(1).is_aligned(PageSize::Size2M));
    lab.guest_load(GUEST, CPU0, gpage(300))?;
    lab.age(page(0))?;
    assert_eq!(lab.age(page(0))?, Verdict::Young(false));
    lab.guest_load(GUEST, CPU0, gpage(300))?;
    assert_eq!(lab.age(page(5))?, Verdict::Young(true));
    lab.finish()
}

/// Between the look at an entry and its change, a CPU sets A in it: the change must not lose that.
#[test]
fn a_touch_in_the_middle_of_aging_is_seen() -> Outcome {
    for by_guest in [false, true] {
        let lab = lab(2);
        fill(&lab, 2, 1)?;
        lab.load(CPU1, page(0))?;
        lab.age(page(0))?;
        lab.run_guest(GUEST, CPU0);
        lab.machine.exit(CPU1);
        let (machine, mut changes) = (std::sync::Arc::clone(&lab.machine), 0);
        lab.machine.set_hook(move |event| {
            // The primary entry is changed first, then the secondary one.
            changes += u32::from(matches!(event, Event::Change(_)));
            if changes == 1 + u32::from(by_guest) {
                changes = 10;
                let touch = if by_guest {
                    machine.guest_load(CPU0, gpage(0))
                } else {
                    machine.load_linear(CPU1, page(0))
                };
                assert_eq!(touch, Ok(1));
            }
        });
        assert_eq!(lab.space.test_and_clear_young(page(0)), Some(true));
        lab.machine.clear_hook();
        lab.check()?;
        lab.finish()?;
    }
    Ok(())
}

/// The page was used, and a pass notices.
fn passes(lab: &Lab, index: u64) -> Outcome {
    assert_eq!(lab.space.test_young(page(index)), Some(true), "page {index} was used");
    lab.space.mm().age_all();
    assert_eq!(lab.space.test_young(page(index)), Some(false), "page {index}, after a pass");
    lab.check().map(drop)
}

/// A pass asks block by block, and leaves out those that nobody may have used, wherever these begin in a guest.
#[test]
fn a_pass_finds_use_in_whatever_block_it_is() -> Outcome {
    for (first, count) in [(0, 2048), (100, 1480)] {
        finds_use_in((first, count))?;
    }
    Ok(())
}

fn finds_use_in((first, count): (u64, u64)) -> Outcome {
    let lab = Lab::with_ram(Options::default(), 2048);
    lab.mmap(pages(first, count), Protection::ReadWrite, SMALL)?;
    lab.add_slot(GUEST, gpage(5001), pages(100, 1500));
    for index in (128..1580).step_by(64) {
        lab.guest_store(GUEST, CPU0, gpage(index), index)?;
    }
    passes(&lab, 1536)?;
    for index in [128, 448, 512, 576, 960, 1024, 1536] {
        lab.guest_load(GUEST, CPU1, gpage(index))?;
        passes(&lab, index)?;
        lab.guest_load(GUEST, CPU0, gpage(5001 - 100 + index))?;
        passes(&lab, index)?;
        lab.load(CPU0, page(index))?;
        passes(&lab, index)?;
    }
    lab.finish()
}

#[test]
fn a_pass_finds_what_a_device_has_used() -> Outcome {
    let mut lab = lab(1024);
    let device = lab.add_device();
    // Each time but the first by its own TLB alone.
    for _ in 0..3 {
        lab.device_load(device, page(600))?;
        passes(&lab, 600)?;
    }
    lab.finish()
}

#[test]
fn a_pass_leaves_out_blocks_that_nobody_has_used() -> Outcome {
    let lab = lab_with(Options { paging: Paging::Ept, ..Options::default() }, 2048);
    for index in [0, 600, 1030, 2000] {
        lab.guest_store(GUEST, CPU0, gpage(index), index)?;
    }
    let observer = observe(&lab);
    let asked = || {
        let before = observer.counts().collect_young;
        lab.space.mm().age_all();
        observer.counts().collect_young - before
    };
    assert_eq!((asked(), asked()), (4, 0));
    lab.guest_load(GUEST, CPU0, gpage(600))?;
    assert_eq!((asked(), asked()), (1, 0));
    lab.finish()
}

/// Of a huge page that was used, and of which a part goes: the others are in base pages, in a block that the area has in part.
#[test]
fn a_pass_finds_use_in_a_block_that_was_split() -> Outcome {
    let lab = lab(1024);
    lab.space.madvise(page(0), pages(0, 1024).len(), Advice::HugePage).expect("it is mapped");
    lab.guest_store(GUEST, CPU0, gpage(5), 5)?;
    lab.space.mm().age_all();
    lab.load(CPU0, page(5))?;
    lab.munmap(pages(0, 4))?;
    passes(&lab, 5)?;
    lab.finish()
}

/// To where no page was used: the table is new.
#[test]
fn a_pass_finds_use_of_what_was_moved() -> Outcome {
    let lab = lab(1024);
    lab.store(CPU0, page(5), 5)?;
    lab.space.mm().age_all();
    lab.load(CPU0, page(5))?;
    let (from, to) = (pages(0, 8), page(4096 + 512));
    assert_eq!(lab.space.mremap(from.start(), from.len(), from.len(), Remap::Fixed(to)), Ok(to));
    let moved = to.add(5 * PAGE_SIZE);
    assert_eq!(lab.space.test_young(moved), Some(true));
    lab.space.mm().age_all();
    assert_eq!(lab.space.test_young(moved), Some(false));
    // The lab does not know of the move.
    lab.check().map(drop)
}
