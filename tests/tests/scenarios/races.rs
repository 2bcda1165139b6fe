//! Races, forced: code that runs at a chosen seam in the middle of another operation. No sleeps, no luck.

use crate::{CPU0, GUEST, Outcome, lab};
use addr::{GfnRange, Gpa, HvaRange};
use mm::notifier::MmuNotifier;
use mm::{Access, Protection};
use mmu::{FaultOutcome, Slot};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use tests::lab::{Lab, gpage, page, pages};
use tests::machine::Event;

/// Runs `meddle` once, when the guest's fault has resolved its frame and not yet installed it: that is where it
/// allocates secondary tables. The page is resident before, so that no other table is needed.
fn in_the_middle_of_a_fault(lab: &Lab, mut meddle: impl FnMut() + Send + 'static) -> Outcome {
    lab.store(CPU0, page(1), 41)?;
    let mut done = false;
    lab.machine.set_hook(move |event| {
        if event == Event::AllocateTable && !done {
            done = true;
            meddle();
        }
    });
    Ok(())
}

/// A guest's load, without the bench's opinion of it.
fn load(lab: &Lab, gpa: Gpa) -> u64 {
    lab.run_guest(GUEST, CPU0);
    loop {
        if let Ok(value) = lab.machine.guest_load(CPU0, gpa) {
            return value;
        }
        assert_eq!(lab.guest(GUEST).mmu.fault(gpa, Access::Read), Ok(FaultOutcome::Mapped));
    }
}

fn retries(lab: &Lab) -> u64 {
    lab.guest(GUEST).mmu.stats().snapshot().retries
}

#[test]
fn a_page_that_migrates_during_its_fault_is_resolved_again() -> Outcome {
    let lab = lab(4);
    let space = Arc::clone(&lab.space);
    in_the_middle_of_a_fault(&lab, move || {
        space.migrate_page(page(1)).expect("migrates");
    })?;
    assert_eq!(load(&lab, gpage(1)), 41);
    assert_eq!(retries(&lab), 1);
    lab.check()?;
    lab.finish()
}

#[test]
fn a_neighbour_that_migrates_during_a_fault_is_not_mapped_by_its_old_frame() -> Outcome {
    let lab = lab(4);
    lab.store(CPU0, page(2), 42)?;
    let space = Arc::clone(&lab.space);
    in_the_middle_of_a_fault(&lab, move || {
        space.migrate_page(page(2)).expect("migrates");
    })?;
    assert_eq!(load(&lab, gpage(1)), 41);
    assert_eq!(retries(&lab), 1);
    lab.check()?;
    assert_eq!(load(&lab, gpage(2)), 42);
    lab.finish()
}

#[test]
fn a_page_that_is_discarded_during_its_fault_reads_zero() -> Outcome {
    let lab = lab(4);
    let space = Arc::clone(&lab.space);
    in_the_middle_of_a_fault(&lab, move || {
        space.discard(page(1), 4096).expect("is mapped");
    })?;
    assert_eq!(load(&lab, gpage(1)), 0);
    assert_eq!(retries(&lab), 1);
    lab.check()?;
    lab.finish()
}

#[test]
fn a_page_that_becomes_read_only_during_a_store_fault_refuses_the_store() -> Outcome {
    let lab = lab(4);
    let space = Arc::clone(&lab.space);
    in_the_middle_of_a_fault(&lab, move || {
        space.mprotect(page(1), 4096, Protection::Read).expect("is mapped");
    })?;
    let outcome = lab.guest(GUEST).mmu.fault(gpage(1), Access::Write);
    assert!(outcome.is_err(), "{outcome:?}");
    lab.check()?;
    assert_eq!(load(&lab, gpage(1)), 41);
    lab.finish()
}

#[test]
fn a_page_that_is_unmapped_during_its_fault_is_not_mapped() -> Outcome {
    let lab = lab(4);
    let space = Arc::clone(&lab.space);
    in_the_middle_of_a_fault(&lab, move || {
        space.munmap(page(1), 4096).expect("whole pages");
    })?;
    assert!(lab.guest(GUEST).mmu.fault(gpage(1), Access::Read).is_err());
    lab.check()?;
    lab.finish()
}

#[test]
fn a_slot_that_goes_during_a_fault_gets_no_entry() -> Outcome {
    let lab = lab(4);
    let mmu = Arc::clone(&lab.guest(GUEST).mmu);
    in_the_middle_of_a_fault(&lab, move || {
        mmu.remove_slot(gpage(0).gfn()).expect("was there");
    })?;
    let outcome = lab.guest(GUEST).mmu.fault(gpage(1), Access::Read);
    assert_eq!(outcome, Ok(FaultOutcome::NotRam));
    lab.check()?;
    lab.finish()
}

#[test]
fn an_address_space_that_exits_during_a_fault_gets_no_entry() -> Outcome {
    let lab = lab(4);
    let space = Arc::clone(&lab.space);
    in_the_middle_of_a_fault(&lab, move || space.exit())?;
    assert!(lab.guest(GUEST).mmu.fault(gpage(1), Access::Read).is_err());
    lab.check()?;
    lab.finish()
}

/// Two ranges under way, ended in the other order and with other bounds: a fault waits for the last.
#[test]
fn a_fault_waits_until_every_range_over_it_has_ended() -> Outcome {
    let lab = lab(8);
    lab.store(CPU0, page(1), 41)?;
    let mmu = Arc::clone(&lab.guest(GUEST).mmu);
    mmu.invalidate_range_begin(pages(0, 2));
    mmu.invalidate_range_begin(pages(5, 2));
    let guest = Arc::clone(&mmu);
    let fault = std::thread::spawn(move || guest.fault(gpage(1), Access::Read));
    for end in [pages(7, 1), pages(0, 8)] {
        let before = retries(&lab);
        while retries(&lab) < before + 3 {
            assert!(!fault.is_finished(), "installed inside a range");
            std::thread::yield_now();
        }
        assert!(mmu.lookup(gpage(1).gfn()).is_none(), "installed inside a range");
        mmu.invalidate_range_end(end);
    }
    drop(mmu);
    assert_eq!(fault.join().expect("no panic"), Ok(FaultOutcome::Mapped));
    assert_eq!(load(&lab, gpage(1)), 41);
    lab.check()?;
    lab.finish()
}

/// A subscriber that runs a test's code when a range begins.
struct Meddler<F>(F);

impl<F: Fn() + Send + Sync> MmuNotifier for Meddler<F> {
    fn invalidate_range_begin(&self, _: HvaRange) {
        (self.0)();
    }
}

/// The slot is new, so the begin has counted no guest frame of it; still nothing may appear in the host range.
#[test]
fn a_slot_that_appears_during_an_invalidation_gets_no_entry_before_the_end() -> Outcome {
    let lab = lab(4);
    lab.store(CPU0, page(1), 41)?;
    let mmu = Arc::clone(&lab.guest(GUEST).mmu);
    let fault: Arc<Mutex<Option<JoinHandle<_>>>> = Arc::default();
    let started = Arc::clone(&fault);
    lab.space.register(Arc::new(Meddler(move || {
        let gfns = GfnRange::sized(gpage(700).gfn(), 4).expect("guest frames");
        mmu.add_slot(Slot::try_new(gfns, page(0)).expect("aligned")).expect("no overlap");
        let guest = Arc::clone(&mmu);
        let thread = std::thread::spawn(move || guest.fault(gpage(701), Access::Read));
        // It either gets through, which is wrong, or has to try again.
        while !thread.is_finished() && mmu.stats().snapshot().retries == 0 {
            std::thread::yield_now();
        }
        *started.lock().expect("no panic") = Some(thread);
    })));
    lab.space.discard(page(1), 4096).expect("is mapped");
    let thread = fault.lock().expect("no panic").take().expect("was started");
    assert_eq!(thread.join().expect("no panic"), Ok(FaultOutcome::Mapped));
    lab.check()?;
    assert_eq!(load(&lab, gpage(701)), 0);
    lab.finish()
}

/// Faults of two CPUs on one page: one frame, and the loser gives its own back.
#[test]
fn two_faults_on_one_page_share_its_frame() -> Outcome {
    let lab = lab(4);
    let space = Arc::clone(&lab.space);
    lab.machine.set_hook(move |event| {
        if matches!(event, Event::AllocateFrame(_)) {
            let other = Arc::clone(&space);
            let faster = std::thread::spawn(move || other.fault_in(page(2), Access::Write));
            assert!(faster.join().expect("no panic").is_ok());
        }
    });
    // The hook's own fault passes no hook; this one finds the page there.
    assert!(lab.space.fault_in(page(2), Access::Write).is_ok());
    assert_eq!(lab.space.resident_frames(), 1);
    lab.check()?;
    lab.finish()
}
