//! Aging, and unmapping, on CPUs with A and D bits and on others: without them aging unmaps, too.

use crate::{Bench, NEW, OLD, PAGE, TWO, WORD, machine, untouched};
use mmu::AccessedDirty;
use models::{Bounds, Model, Program, ends_well, everybody_reads};
use tests::lab::{Lab, Verdict, page};
use tests::machine::Options;

fn bed(accessed_dirty: AccessedDirty) -> Lab {
    let lab = untouched(Options { accessed_dirty, ..machine() }.with_chosen_paging());
    Program::guest(&lab, 0).store(WORD, OLD).expect("memory");
    assert_eq!(everybody_reads(&lab, WORD), Ok(OLD));
    Program::guest(&lab, 0).load(WORD).expect("memory");
    lab
}

/// What ages may find the page, or nothing any more.
fn age(lab: &Lab) {
    let _ = lab.space.test_and_clear_young(page(0));
}

fn against_discard(accessed_dirty: AccessedDirty) {
    Model::new(move || Bench::new(bed(accessed_dirty)))
        .thread("guest", |b: &Bench<Lab>| {
            let late = b.is_finished();
            let found = Program::guest(&b.bed, 0).load(WORD);
            assert!(found == Ok(0) || found == Ok(OLD) && !late, "{found:?}, after the end: {late}");
        })
        .thread("aging", |b| age(&b.bed))
        .thread("host", |b| {
            b.bed.space.discard(page(0), PAGE).expect("is mapped");
            b.finish();
        })
        .end(|b| {
            assert_eq!(everybody_reads(&b.bed, WORD), Ok(0));
            ends_well(b.bed);
        })
        .holds(Bounds::preemptions(1));
}

#[test]
fn aging_against_discard_and_a_guest() {
    against_discard(AccessedDirty::Hardware);
}

#[test]
fn aging_by_zap_against_discard_and_a_guest() {
    against_discard(AccessedDirty::Absent);
}

fn against_munmap(accessed_dirty: AccessedDirty) {
    Model::new(move || bed(accessed_dirty))
        .thread("aging", age)
        .thread("host", |lab| lab.space.munmap(page(0), PAGE).expect("whole pages"))
        .end(|lab| {
            assert_eq!(everybody_reads(&lab, WORD), Err(Verdict::Unmapped));
            ends_well(lab);
        })
        .holds(TWO.with_passes(3));
}

#[test]
fn aging_against_munmap() {
    against_munmap(AccessedDirty::Hardware);
}

#[test]
fn aging_by_zap_against_munmap() {
    against_munmap(AccessedDirty::Absent);
}

/// Nothing that the guest stores is lost, and a page that it used after aging has returned counts as used.
fn against_fault(accessed_dirty: AccessedDirty, age: fn(&Lab)) {
    Model::new(move || Bench::new(bed(accessed_dirty)))
        .thread("guest", |b: &Bench<Lab>| {
            let late = b.is_finished();
            Program::guest(&b.bed, 0).store(WORD, NEW).expect("memory");
            b.tell(u64::from(late));
        })
        .thread("aging", move |b| {
            age(&b.bed);
            b.finish();
        })
        .end(|b| {
            let young = b.bed.space.test_young(page(0));
            assert!(young == Some(true) || b.told() == 0, "used after aging, and {young:?}");
            assert_eq!(everybody_reads(&b.bed, WORD), Ok(NEW));
            ends_well(b.bed);
        })
        .holds(TWO);
}

#[test]
fn aging_against_a_fault() {
    against_fault(AccessedDirty::Hardware, age);
}

#[test]
fn a_pass_of_aging_against_a_fault() {
    against_fault(AccessedDirty::Hardware, |lab| lab.space.mm().age_all());
}

#[test]
fn aging_by_zap_against_a_fault() {
    against_fault(AccessedDirty::Absent, age);
}
