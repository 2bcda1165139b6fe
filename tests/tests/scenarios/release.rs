//! Exit of the address space (patch site `exit_mmap`: release first, before any unmap).

use crate::{CPU0, CPU1, GUEST, Outcome, fill, lab, lab_with};
use mm::AddressSpace;
use mm::notifier::MmuNotifier;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use tests::lab::{Verdict, gpage, pages};
use tests::machine::{Machine, Options, Speculation};

#[test]
fn a_guest_that_runs_on_loses_all_memory_when_its_host_exits() -> Outcome {
    let lab = lab(8);
    fill(&lab, 8, 1)?;
    lab.run_guest(GUEST, CPU0);
    lab.run_guest(GUEST, CPU1);
    lab.exit_space()?;
    assert_eq!(lab.space.resident_frames(), 0);
    assert_eq!(lab.guest(GUEST).mmu.root(), None);
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(1))?, Verdict::Unmapped);
    lab.finish()
}

/// Right after the flush of the release, a CPU in guest mode fetches again what is still in its tables.
#[test]
fn a_cpu_that_speculates_through_the_exit_finds_nothing() -> Outcome {
    let options = Options { speculation: Speculation::AfterFlush, ..Options::default() };
    let lab = lab_with(options, 8);
    fill(&lab, 8, 1)?;
    lab.run_guest(GUEST, CPU0);
    lab.run_guest(GUEST, CPU1);
    lab.exit_space()?;
    lab.speculate(Some(GUEST), CPU0, gpage(3).as_u64())?;
    lab.finish()
}

/// Its tables are used for others at once: no CPU may remember them.
#[test]
fn a_guest_that_leaves_before_its_host_takes_its_translations_along() -> Outcome {
    let mut lab = lab(8);
    let other = lab.add_guest();
    lab.add_slot(other, gpage(7), pages(0, 8));
    assert_eq!(lab.guest_store(other, CPU1, gpage(9), 5)?, Verdict::Done);
    lab.remove_guest()?;
    assert_eq!(lab.guest_load(GUEST, CPU0, gpage(2))?, Verdict::Value(5));
    lab.finish()
}

#[test]
fn every_guest_of_the_address_space_is_released() -> Outcome {
    let mut lab = lab(8);
    let other = lab.add_guest();
    lab.add_slot(other, gpage(7), pages(0, 8));
    fill(&lab, 8, 1)?;
    lab.guest_load(other, CPU1, gpage(9))?;
    lab.exit_space()?;
    assert_eq!(lab.guest(GUEST).mmu.mapped() + lab.guest(other).mmu.mapped(), 0);
    lab.finish()
}

#[test]
fn release_is_told_once_and_nothing_after_it() -> Outcome {
    let lab = lab(4);
    fill(&lab, 4, 1)?;
    let ears = Arc::clone(&lab.guest(GUEST).ears);
    let before = ears.calls();
    lab.exit_space()?;
    lab.exit_space()?;
    assert_eq!(ears.calls() - before, 1);
    drop(ears);
    lab.finish()
}

/// Looks, while it is being released, whether another thread can take the mmap lock.
struct Prober {
    space: Mutex<Option<Arc<AddressSpace<Machine>>>>,
    probe: Mutex<Option<JoinHandle<()>>>,
}

impl MmuNotifier for Prober {
    fn release(&self) {
        let Some(space) = self.space.lock().expect("no panic").take() else { return };
        let probe = std::thread::spawn(move || drop(space.vmas()));
        for _ in 0..2000 {
            std::thread::yield_now();
        }
        assert!(!probe.is_finished(), "somebody could subscribe now, and would be forgotten");
        *self.probe.lock().expect("no panic") = Some(probe);
    }
}

#[test]
fn nobody_subscribes_between_the_last_notice_and_the_unlinking() -> Outcome {
    let lab = lab(2);
    let space = Mutex::new(Some(Arc::clone(&lab.space)));
    let prober = Arc::new(Prober { space, probe: Mutex::default() });
    lab.space.register(Arc::clone(&prober) as Arc<dyn MmuNotifier>);
    lab.exit_space()?;
    let probe = prober.probe.lock().expect("no panic").take().expect("was released");
    probe.join().expect("no panic");
    lab.finish()
}
