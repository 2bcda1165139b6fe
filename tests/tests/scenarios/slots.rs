//! Slots: which guest frames are RAM, and what happens to entries when they stop being it.

use crate::{CPU0, CPU1, GUEST, Outcome, fill, lab};
use tests::lab::{Verdict, gpage, page, pages};

#[test]
fn a_removed_slot_is_no_ram_and_its_translations_are_gone() -> Outcome {
    let lab = lab(4);
    fill(&lab, 4, 10)?;
    assert_eq!(lab.remove_slot(GUEST, gpage(0))?, Verdict::Done);
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(1))?, Verdict::NotRam);
    assert_eq!(lab.load(CPU1, page(1))?, Verdict::Value(11), "the host's memory stays");
    lab.add_slot(GUEST, gpage(100), pages(0, 4));
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(101))?, Verdict::Value(11));
    lab.finish()
}

#[test]
fn memory_that_two_slots_share_leaves_both() -> Outcome {
    let lab = lab(4);
    lab.add_slot(GUEST, gpage(50), pages(1, 2));
    lab.guest_store(GUEST, CPU0, gpage(1), 3)?;
    assert_eq!(lab.guest_load(GUEST, CPU1, gpage(50))?, Verdict::Value(3));
    lab.migrate(page(1))?;
    assert_eq!(lab.guest_load(GUEST, CPU1, gpage(50))?, Verdict::Value(3));
    lab.discard(pages(1, 1))?;
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(50))?, Verdict::Value(0));
    assert_eq!(lab.guest_load(GUEST, CPU1, gpage(1))?, Verdict::Value(0));
    lab.finish()
}

#[test]
fn a_removed_slots_memory_can_be_unmapped() -> Outcome {
    let lab = lab(4);
    fill(&lab, 4, 10)?;
    lab.remove_slot(GUEST, gpage(0))?;
    lab.munmap(pages(0, 4))?;
    lab.finish()
}

#[test]
fn an_address_beside_the_slots_is_no_ram() -> Outcome {
    let lab = lab(4);
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(4))?, Verdict::NotRam);
    assert_eq!(lab.guest_store(GUEST, CPU0, gpage(1 << 30), 1)?, Verdict::NotRam);
    lab.finish()
}
