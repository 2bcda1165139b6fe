//! The removal of a slot, a fault there, and a notifier: afterwards nothing translates, whoever came first.

use crate::{Bench, OLD, PAGE, TWO, WORD, lab};
use addr::{Gfn, GfnRange};
use mmu::Slot;
use models::{Bounds, Found, GUEST, Model, Program, ends_well};
use tests::lab::{Lab, Verdict, page};

/// Guest frame 0 stops being RAM; the rest of the memory stays.
fn remove(lab: &Lab) {
    lab.guest(GUEST).mmu.remove_slot(Gfn::ZERO).expect("was there");
}

fn nothing_is_left(lab: Lab) {
    let mmu = &lab.guest(GUEST).mmu;
    assert_eq!(mmu.lookup(Gfn::ZERO), None);
    for cpu in lab.machine.cpus() {
        assert_eq!(Program::guest(&lab, cpu.0).load(WORD), Err(Verdict::NotRam), "CPU {}", cpu.0);
    }
    ends_well(lab);
}

fn load(b: &Bench<Lab>) -> Found {
    let late = b.is_finished();
    let found = Program::guest(&b.bed, 0).load(WORD);
    assert!(!late || found == Err(Verdict::NotRam), "{found:?} after the removal");
    found
}

#[test]
fn removal_against_a_fault() {
    Model::new(|| Bench::new(lab()))
        .thread("guest", |b: &Bench<Lab>| {
            let found = load(b);
            assert!(matches!(found, Ok(OLD) | Err(Verdict::NotRam)), "{found:?}");
        })
        .thread("host", |b| {
            remove(&b.bed);
            b.finish();
        })
        .end(|b| nothing_is_left(b.bed))
        .holds(TWO);
}

/// The notifier finds no slot any more, and the host frees the frame: the entry must be gone by then.
#[test]
fn removal_against_a_fault_and_a_discard() {
    Model::new(|| Bench::new(lab()))
        .thread("guest", |b: &Bench<Lab>| {
            let _ = load(b);
        })
        .thread("host", |b| {
            remove(&b.bed);
            b.finish();
        })
        .thread("other host", |b| b.bed.space.discard(page(0), PAGE).expect("is mapped"))
        .end(|b| nothing_is_left(b.bed))
        .holds(Bounds::preemptions(1));
}

#[test]
fn removal_against_a_running_guest_and_migration() {
    Model::new(|| Bench::new(crate::busy_lab()))
        .thread("guest", |b: &Bench<Lab>| {
            let _ = load(b);
        })
        .thread("host", |b| {
            remove(&b.bed);
            b.finish();
        })
        .thread("other host", |b| {
            let _ = b.bed.space.migrate_page(page(0));
        })
        .end(|b| nothing_is_left(b.bed))
        .holds(Bounds::preemptions(1));
}

/// The guest frame comes back as another page.
#[test]
fn replacement_against_a_fault() {
    const OTHER: u64 = 8;
    Model::new(|| {
        let lab = lab();
        Program::herald(&lab, 1).store(models::Word::of(1), OTHER).expect("memory");
        Bench::new(lab)
    })
    .thread("guest", |b: &Bench<Lab>| {
        let late = b.is_finished();
        let found = Program::guest(&b.bed, 0).load(WORD);
        let early = [Ok(OLD), Ok(OTHER), Err(Verdict::NotRam)];
        assert!(early.contains(&found) && (!late || found == Ok(OTHER)), "{found:?}, replaced: {late}");
    })
    .thread("host", |b| {
        remove(&b.bed);
        let gfns = GfnRange::sized(Gfn::ZERO, 1).expect("a guest frame");
        let slot = Slot::try_new(gfns, page(1)).expect("aligned");
        b.bed.guest(GUEST).mmu.add_slot(slot).expect("no overlap");
        b.finish();
    })
    .end(|b| {
        assert_eq!(Program::guest(&b.bed, 0).load(WORD), Ok(OTHER));
        assert_eq!(Program::guest(&b.bed, 1).load(WORD), Ok(OTHER));
        ends_well(b.bed);
    })
    .holds(TWO);
}
