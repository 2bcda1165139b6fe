//! A fault, and a range between its begin and its end (I2, I3).

use crate::{Bench, NEW, OLD, PAGE, TWO, WORD, lab};
use mm::Protection;
use models::{Bounds, Found, Model, Program, Touch, by_device, ends_well, everybody_reads, map};
use tests::lab::{Lab, Verdict, page};

fn discard(lab: &Lab) {
    lab.space.discard(page(0), PAGE).expect("is mapped");
}

/// What the guest stores stays, or goes with the page; what was there before is gone.
#[test]
fn fault_against_discard() {
    Model::new(lab)
        .thread("guest", |lab| {
            let guest = Program::guest(lab, 0);
            guest.store(WORD, NEW).expect("memory");
            assert!(matches!(guest.load(WORD), Ok(NEW | 0)));
        })
        .thread("host", discard)
        .end(|lab| {
            assert!(matches!(everybody_reads(&lab, WORD), Ok(NEW | 0)));
            ends_well(lab);
        })
        .holds(TWO);
}

/// When the discard has returned, nobody finds the old word.
#[test]
fn read_fault_against_discard() {
    Model::new(|| Bench::new(lab()))
        .thread("guest", |b: &Bench<Lab>| {
            let late = b.is_finished();
            let found = Program::guest(&b.bed, 0).load(WORD);
            assert!(found == Ok(0) || found == Ok(OLD) && !late, "{found:?}, after the end: {late}");
        })
        .thread("host", |b| {
            discard(&b.bed);
            b.finish();
        })
        .end(|b| {
            assert_eq!(everybody_reads(&b.bed, WORD), Ok(0));
            ends_well(b.bed);
        })
        .holds(TWO);
}

/// A store goes through before the end of mprotect, or is refused.
#[test]
fn fault_against_mprotect() {
    Model::new(|| Bench::new(lab()))
        .thread("guest", |b: &Bench<Lab>| {
            let late = b.is_finished();
            match Program::guest(&b.bed, 0).store(WORD, NEW) {
                Ok(_) => {
                    assert!(!late, "a store went through after mprotect");
                    b.tell(NEW);
                }
                refused => assert_eq!(refused, Err(Verdict::Denied)),
            }
        })
        .thread("host", |b| {
            b.bed.space.mprotect(page(0), PAGE, Protection::Read).expect("is mapped");
            b.finish();
        })
        .end(|b| {
            assert_eq!(Program::guest(&b.bed, 0).store(WORD, 1), Err(Verdict::Denied));
            assert_eq!(by_device(&b.bed, WORD, Touch::Store(1)), Err(Verdict::Denied));
            let written = if b.told() == NEW { NEW } else { OLD };
            assert_eq!(everybody_reads(&b.bed, WORD), Ok(written));
            ends_well(b.bed);
        })
        .holds(TWO);
}

/// Somebody who reads a page finds what was there, or is refused; afterwards everybody is.
fn against_munmap(name: &'static str, read: fn(&Lab) -> Found) {
    Model::new(lab)
        .thread(name, move |lab: &Lab| assert!(matches!(read(lab), Ok(OLD) | Err(Verdict::Unmapped))))
        .thread("host", |lab| lab.space.munmap(page(0), PAGE).expect("whole pages"))
        .end(|lab| {
            assert_eq!(everybody_reads(&lab, WORD), Err(Verdict::Unmapped));
            ends_well(lab);
        })
        .holds(TWO.with_passes(4));
}

#[test]
fn fault_against_munmap() {
    against_munmap("guest", |lab| Program::guest(lab, 0).load(WORD));
}

#[test]
fn device_against_munmap() {
    against_munmap("device", |lab| by_device(lab, WORD, Touch::Load));
}

#[test]
fn fault_against_a_mapping_over_it() {
    Model::new(lab)
        .thread("guest", |lab| {
            let found = Program::guest(lab, 0).load(WORD);
            assert!(matches!(found, Ok(OLD | 0) | Err(Verdict::Unmapped)), "{found:?}");
        })
        .thread("host", |lab| map(&lab.space, 0, 1))
        .end(|lab| {
            assert_eq!(everybody_reads(&lab, WORD), Ok(0));
            ends_well(lab);
        })
        .holds(TWO.with_passes(4));
}

#[test]
fn device_against_discard() {
    Model::new(lab)
        .thread("device", |lab| {
            by_device(lab, WORD, Touch::Store(NEW)).expect("memory");
            assert!(matches!(by_device(lab, WORD, Touch::Load), Ok(NEW | 0)));
        })
        .thread("host", discard)
        .end(|lab| {
            assert!(matches!(everybody_reads(&lab, WORD), Ok(NEW | 0)));
            ends_well(lab);
        })
        .holds(TWO);
}

/// Two ranges over one page at a time: a fault waits for the end of both.
#[test]
fn fault_against_two_ranges() {
    Model::new(lab)
        .thread("guest", |lab| {
            assert!(matches!(Program::guest(lab, 0).load(WORD), Ok(OLD | 0)));
        })
        .thread("host", discard)
        .thread("other host", |lab| lab.space.discard(page(0), 2 * PAGE).expect("is mapped"))
        .end(|lab| {
            assert_eq!(everybody_reads(&lab, WORD), Ok(0));
            ends_well(lab);
        })
        .holds(Bounds::preemptions(1));
}
