//! Exit of the address space (patch site `exit_mmap`: release first, before any unmap).

use crate::{CPU0, CPU1, GUEST, Outcome, fill, lab, lab_with};
use std::sync::Arc;
use tests::lab::{Verdict, gpage, pages};
use tests::machine::{Options, Speculation};

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
