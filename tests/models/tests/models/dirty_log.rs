//! A dirty log, and writes that meet its begin and its harvest: what a page holds when a copy is made after a harvest is what
//! was written before, or the next harvest has the page again.

use crate::guest_tables::shadowed;
use crate::{NEW, OLD, PAGE, TWO, WORD, busy_lab_on, machine};
use addr::{Gfn, GfnRange};
use mmu::{DirtyPages, LogBy};
use models::{Bounds, GUEST, Model, Program, Touch, by_device, ends_well, everybody_reads};
use std::sync::Mutex;
use tests::lab::{Lab, page};
use tests::machine::{Options, Paging};

/// A bench under a log, and the copy that somebody keeps of its word.
struct Copied {
    lab: Lab,
    copy: Mutex<u64>,
}

const GFN: Gfn = Gfn::new(WORD.page);

fn harvest(lab: &Lab) -> DirtyPages {
    let guest = lab.guest(GUEST);
    guest.mmu.note_logged(lab.machine.take_logged(guest.root()));
    guest.mmu.harvest(GfnRange::new(Gfn::ZERO, Gfn::new(2)))
}

fn logged(options: Options, by: LogBy) -> Copied {
    let lab = busy_lab_on(options);
    assert_eq!(lab.guest(GUEST).mmu.begin_log(Gfn::ZERO, by), Ok(()));
    // What the processor has logged before.
    let _ = harvest(&lab);
    Copied { lab, copy: Mutex::new(OLD) }
}

impl Copied {
    /// An incremental copy, as a snapshot makes it.
    fn bring_up_to_date(&self) {
        if harvest(&self.lab).contains(GFN) {
            *self.copy.lock().expect("no panic") = Program::herald(&self.lab, 1).load(WORD).expect("memory");
        }
    }

    fn ends_complete(self, expected: u64) {
        self.bring_up_to_date();
        let found = everybody_reads(&self.lab, WORD).expect("memory");
        assert_eq!(found, expected);
        assert_eq!(self.copy.into_inner().expect("no panic"), found, "a write is in no harvest");
        ends_well(self.lab);
    }
}

fn against_a_harvest(by: LogBy, touch: impl Fn(&Lab) + Send + Sync + 'static) {
    against_a_harvest_on(machine, by, touch);
}

fn against_a_harvest_on(options: fn() -> Options, by: LogBy, touch: impl Fn(&Lab) + Send + Sync + 'static) {
    Model::new(move || logged(options(), by))
        .thread("writer", move |bench| touch(&bench.lab))
        .thread("host", Copied::bring_up_to_date)
        .end(|bench| bench.ends_complete(NEW))
        .holds(TWO);
}

fn write_twice(lab: &Lab) {
    let guest = Program::guest(lab, 0);
    for value in [NEW + 1, NEW] {
        let _ = guest.store(WORD, value).expect("memory");
    }
}

#[test]
fn a_write_fault_against_a_harvest() {
    against_a_harvest(LogBy::WriteFault, |lab| {
        let _ = Program::guest(lab, 0).store(WORD, NEW).expect("memory");
    });
}

/// What may be written to by a shadow is narrowed with what it stands on.
#[test]
fn two_writes_under_a_shadow_against_a_harvest() {
    against_a_harvest_on(shadowed, LogBy::WriteFault, write_twice);
}

#[test]
fn a_write_that_the_processor_logs_against_a_harvest() {
    if Paging::chosen() == Paging::Shadow {
        return;
    }
    against_a_harvest(LogBy::Processor, |lab| {
        let _ = Program::guest(lab, 0).store(WORD, NEW).expect("memory");
    });
}

#[test]
fn a_device_against_a_harvest() {
    against_a_harvest(LogBy::WriteFault, |lab| {
        let _ = by_device(lab, WORD, Touch::Store(NEW)).expect("memory");
    });
}

/// Two writes, the first of which makes the page writable: the harvest may come between them.
#[test]
fn two_writes_against_a_harvest() {
    against_a_harvest(LogBy::WriteFault, write_twice);
}

#[test]
fn a_discard_against_a_harvest() {
    Model::new(|| logged(machine(), LogBy::WriteFault))
        .thread("discard", |bench| bench.lab.space.discard(page(0), PAGE).expect("is mapped"))
        .thread("host", Copied::bring_up_to_date)
        .end(|bench| bench.ends_complete(0))
        .holds(Bounds::preemptions(2));
}

/// What is written before the log begins is in the copy that is made then; what is written later is logged.
#[test]
fn a_write_fault_against_the_begin() {
    Model::new(|| Copied { lab: busy_lab_on(machine()), copy: Mutex::new(OLD) })
        .thread("guest", |bench| {
            let _ = Program::guest(&bench.lab, 0).store(WORD, NEW).expect("memory");
        })
        .thread("host", |bench| {
            assert_eq!(bench.lab.guest(GUEST).mmu.begin_log(Gfn::ZERO, LogBy::WriteFault), Ok(()));
            *bench.copy.lock().expect("no panic") =
                Program::herald(&bench.lab, 1).load(WORD).expect("memory");
        })
        .end(|bench| bench.ends_complete(NEW))
        .holds(TWO);
}
