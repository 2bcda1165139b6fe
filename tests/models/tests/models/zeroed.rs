//! An idle CPU zeroes free frames, while others take and free some.

use crate::{NEW, PAGE, machine};
use mm::{Access, Host, zero_ahead};
use mmu::FaultOutcome;
use models::{Bounds, GUEST, Model, Program, Word, ends_well, everybody_reads, map};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use sync::switch_point;
use tests::lab::{Lab, gpage, page};
use tests::machine::Options;

const FIRST: Word = Word::of(0);
const SECOND: Word = Word::of(1);

/// Frames that a CPU takes for itself at a time.
const BATCH: u64 = 16;

/// Two pages that nobody has touched, in a slot whose tables are there. The next frame comes from those that an idle CPU may zero: the CPU
/// has none of its own left.
fn bed() -> Lab {
    // Not in order, or more would come with each.
    let mut others = (2..2 + 3 * BATCH).step_by(3);
    let count = 2 + 3 * BATCH;
    let lab = Lab::with_ram(Options { quarantine: 0, ..machine() }, count);
    map(&lab.space, 0, count);
    let frames = lab.machine.frames();
    loop {
        let page = gpage(others.next().expect("a frame for each"));
        assert_eq!(lab.guest(GUEST).mmu.fault(page, Access::Write), Ok(FaultOutcome::Mapped));
        if (frames.total() - frames.free_count()).is_multiple_of(BATCH) {
            return lab;
        }
    }
}

/// Frames that were taken, in all orders together.
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// What a guest stores to a frame that it has just got stays, and what it finds there is zero.
#[test]
fn zeroing_against_first_touches_and_a_discard() {
    Model::new(bed)
        .thread("idle", |lab: &Lab| {
            let left = Cell::new(4);
            zero_ahead(&*lab.machine, || {
                switch_point();
                left.replace(left.get() - 1) > 1
            });
        })
        .thread("guest", |lab| {
            let guest = Program::guest(lab, 0);
            guest.store(FIRST, NEW).expect("memory");
            lab.space.discard(page(FIRST.page), PAGE).expect("is mapped");
            assert_eq!(guest.load(FIRST), Ok(0));
            assert_eq!(guest.load(SECOND), Ok(0));
            guest.store(SECOND, NEW).expect("memory");
        })
        .end(|lab| {
            TAKEN.fetch_add(lab.machine.frames().zeroed_counts().taken, Ordering::Relaxed);
            assert_eq!((everybody_reads(&lab, FIRST), everybody_reads(&lab, SECOND)), (Ok(0), Ok(NEW)));
            ends_well(lab);
        })
        .holds(Bounds::preemptions(2));
    assert!(TAKEN.load(Ordering::Relaxed) > 0, "no frame that was zeroed ahead was anybody's");
}
