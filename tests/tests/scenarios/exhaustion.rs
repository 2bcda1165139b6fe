//! Out of memory at every allocation: a clean error, everything as it was, and the next try succeeds (I16).

use crate::{CPU0, CPU1, GUEST, HUGE, Outcome, SMALL, lab};
use addr::PageSize;
use mm::Protection;
use tests::Violation;
use tests::lab::{Lab, Verdict, gpage, page, pages};
use tests::machine::Options;

/// Runs `operation` on fresh benches, failing its first allocation, then its second, until it needs no more;
/// returns how many it needed.
fn fail_each(
    bench: impl Fn() -> Result<Lab, Violation>,
    operation: impl Fn(&Lab) -> Result<Verdict, Violation>,
) -> Result<u64, Violation> {
    for failing in 0.. {
        let lab = bench()?;
        lab.machine.fail_allocation_after(failing);
        let verdict = operation(&lab)?;
        if lab.machine.cancel_failure() {
            assert_ne!(verdict, Verdict::OutOfMemory);
            lab.finish()?;
            return Ok(failing);
        }
        assert_eq!(verdict, Verdict::OutOfMemory, "allocation {failing}");
        assert_ne!(operation(&lab)?, Verdict::OutOfMemory);
        lab.finish()?;
    }
    unreachable!("some number of allocations is enough")
}

#[test]
fn a_guests_first_touch() -> Outcome {
    let needed = fail_each(|| Ok(lab(4)), |lab| lab.guest_store(GUEST, CPU0, gpage(1), 5))?;
    assert_eq!(needed, 3 + 1 + 3, "primary tables, frame, secondary tables");
    Ok(())
}

#[test]
fn a_guests_first_touch_of_a_huge_page() -> Outcome {
    let bench = || {
        let lab = Lab::with_ram(Options::default(), 512);
        lab.mmap(pages(0, 512), Protection::ReadWrite, HUGE)?;
        Ok(lab)
    };
    let needed = fail_each(bench, |lab| lab.guest_store(GUEST, CPU0, gpage(1), 5))?;
    assert!(needed >= 2 + 1 + 2, "{needed}");
    Ok(())
}

#[test]
fn heralds_first_touch() -> Outcome {
    let needed = fail_each(|| Ok(lab(4)), |lab| lab.store(CPU0, page(1), 5))?;
    assert_eq!(needed, 3 + 1);
    Ok(())
}

#[test]
fn unmapping_protecting_discarding_and_aging_need_no_memory() -> Outcome {
    let mut lab = lab(300);
    for index in 0..300 {
        lab.guest_store(GUEST, CPU0, gpage(index), index)?;
    }
    lab.hoard(0);
    lab.machine.fail_allocation_after(0);
    assert_eq!(lab.mprotect(pages(0, 100), Protection::Read)?, Verdict::Done);
    assert_eq!(lab.age(page(260))?, Verdict::Young(true));
    assert_eq!(lab.discard(pages(50, 100))?, Verdict::Done);
    assert_eq!(lab.munmap(pages(20, 250))?, Verdict::Done);
    assert_eq!(lab.mmap(pages(20, 250), Protection::ReadWrite, SMALL)?, Verdict::Done);
    assert!(lab.machine.cancel_failure(), "something was allocated");
    lab.finish()
}

#[test]
fn migration_without_a_frame_leaves_the_page_where_it_is() -> Outcome {
    let mut lab = lab(4);
    lab.guest_store(GUEST, CPU0, gpage(1), 5)?;
    lab.hoard(0);
    assert_eq!(lab.migrate(page(1))?, Verdict::OutOfMemory);
    assert_eq!(lab.guest_load(GUEST, CPU1, gpage(1))?, Verdict::Value(5));
    lab.give_back();
    assert_eq!(lab.migrate(page(1))?, Verdict::Done);
    lab.finish()
}

#[test]
fn the_last_frames_are_used_up_and_come_back() -> Outcome {
    let options = Options { quarantine: 0, ..Options::default() };
    for left in 0..12 {
        let mut lab = crate::lab_with(options, 64);
        lab.hoard(left);
        let short = (0..64).find_map(|index| match lab.guest_store(GUEST, CPU0, gpage(index), index) {
            Ok(Verdict::Done) => None,
            other => Some(other),
        });
        assert_eq!(short, Some(Ok(Verdict::OutOfMemory)), "{left} frames left");
        lab.discard(pages(0, 64))?;
        lab.give_back();
        assert_eq!(lab.guest_load(GUEST, CPU1, gpage(63))?, Verdict::Value(0));
        lab.finish()?;
    }
    Ok(())
}

#[test]
fn a_huge_page_needs_huge_frames() -> Outcome {
    let options = Options { frames: 1024, ..Options::default() };
    let lab = Lab::with_ram(options, 1024);
    lab.mmap(pages(0, 1024), Protection::ReadWrite, PageSize::Size2M)?;
    assert_eq!(lab.guest_store(GUEST, CPU0, gpage(0), 1)?, Verdict::Done);
    assert_eq!(lab.guest_store(GUEST, CPU0, gpage(512), 1)?, Verdict::OutOfMemory);
    assert_eq!(lab.guest_load(GUEST, CPU1, gpage(0))?, Verdict::Value(1));
    lab.finish()
}
