//! Migration (`invalidate_page`: the old entry is cleared and flushed, the secondaries lose it, then the new one
//! is set).

use crate::{CPU0, CPU1, GUEST, Outcome, fill, lab};
use addr::Hva;
use mm::Protection;
use tests::lab::{Verdict, gpage, page, pages};
use tests::machine::Event;

#[test]
fn a_migrated_page_keeps_its_contents_and_takes_stores_in_its_new_frame() -> Outcome {
    let lab = lab(4);
    fill(&lab, 4, 60)?;
    let before = lab.space.lookup(page(2)).map(|mapping| mapping.pfn);
    lab.migrate(page(2))?;
    assert_ne!(lab.space.lookup(page(2)).map(|mapping| mapping.pfn), before);
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(2))?, Verdict::Value(62));
    lab.guest_store(GUEST, CPU1, gpage(2), 63)?;
    assert_eq!(lab.load(CPU0, page(2))?, Verdict::Value(63));
    assert_eq!(lab.space.resident_frames(), 4);
    lab.finish()
}

#[test]
fn a_page_without_rights_migrates_too() -> Outcome {
    let lab = lab(2);
    fill(&lab, 2, 60)?;
    lab.mprotect(pages(0, 2), Protection::None)?;
    lab.migrate(page(1))?;
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(1))?, Verdict::Denied);
    lab.mprotect(pages(0, 2), Protection::Read)?;
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(1))?, Verdict::Value(61));
    lab.finish()
}

#[test]
fn what_is_not_there_does_not_migrate() -> Outcome {
    let lab = lab(2);
    assert_eq!(lab.migrate(page(1))?, Verdict::NotResident);
    assert_eq!(lab.migrate(Hva::new(0x1000))?, Verdict::NotResident);
    lab.finish()
}

#[test]
fn while_a_page_is_copied_nobody_can_reach_it() -> Outcome {
    let lab = lab(2);
    fill(&lab, 2, 5)?;
    lab.run_guest(GUEST, CPU0);
    lab.machine.exit(CPU1);
    let machine = std::sync::Arc::clone(&lab.machine);
    lab.machine.set_hook(move |event| {
        if event == Event::Copy {
            assert!(machine.guest_store(CPU0, gpage(1), 0xbad).is_err(), "a store would be lost");
            assert!(machine.store_linear(CPU1, page(1), 0xbad).is_err(), "a store would be lost");
        }
    });
    lab.migrate(page(1))?;
    lab.machine.clear_hook();
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(1))?, Verdict::Value(6));
    lab.finish()
}
