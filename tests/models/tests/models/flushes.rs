//! A flush that one operation owes and another needs (I6): who finds an entry changed already must not return before
//! the translations are gone that the change has left behind.

use crate::{Bench, NEW, OLD, PAGE, TWO, WORD, busy_lab};
use mm::Protection;
use models::{Model, Program, Touch, by_device, ends_well, everybody_reads};
use tests::lab::{Lab, Verdict, page};

fn discard(lab: &Lab) {
    lab.space.discard(page(0), PAGE).expect("is mapped");
}

fn bed() -> Bench<Lab> {
    Bench::new(busy_lab())
}

/// After its own discard the guest finds zeros, whoever was faster.
#[test]
fn two_discards_and_a_guest() {
    Model::new(bed)
        .thread("host", |b: &Bench<Lab>| discard(&b.bed))
        .thread("other host", |b| {
            discard(&b.bed);
            assert_eq!(Program::guest(&b.bed, 0).load(WORD), Ok(0), "after a discard");
        })
        .end(|b| {
            assert_eq!(everybody_reads(&b.bed, WORD), Ok(0));
            ends_well(b.bed);
        })
        .holds(TWO);
}

/// The same by hva, where the flush is that of the primary translations.
#[test]
fn two_discards_and_herald() {
    Model::new(bed)
        .thread("host", |b: &Bench<Lab>| discard(&b.bed))
        .thread("other host", |b| {
            discard(&b.bed);
            assert_eq!(Program::herald(&b.bed, 1).load(WORD), Ok(0), "after a discard");
        })
        .end(|b| {
            assert_eq!(everybody_reads(&b.bed, WORD), Ok(0));
            ends_well(b.bed);
        })
        .holds(TWO);
}

#[test]
fn two_discards_and_a_device() {
    Model::new(bed)
        .thread("host", |b: &Bench<Lab>| discard(&b.bed))
        .thread("other host", |b| {
            discard(&b.bed);
            assert_eq!(by_device(&b.bed, WORD, Touch::Load), Ok(0), "after a discard");
        })
        .end(|b| {
            assert_eq!(everybody_reads(&b.bed, WORD), Ok(0));
            ends_well(b.bed);
        })
        .holds(TWO);
}

/// A discard clears an entry, and a fault that finds it empty maps another frame: afterwards nobody stores to the old.
#[test]
fn a_discard_and_a_fault_by_herald() {
    Model::new(bed)
        .thread("host", |b: &Bench<Lab>| {
            discard(&b.bed);
            assert!(matches!(Program::herald(&b.bed, 0).load(WORD), Ok(0 | NEW)), "after a discard");
        })
        .thread("herald", |b| {
            let herald = Program::herald(&b.bed, 1);
            herald.store(WORD, NEW).expect("memory");
            assert!(matches!(herald.load(WORD), Ok(0 | NEW)));
        })
        .end(|b| {
            assert!(matches!(everybody_reads(&b.bed, WORD), Ok(0 | NEW)));
            ends_well(b.bed);
        })
        .holds(TWO);
}

/// Two migrations: the frame that the first has left is not used by whoever waits for the second.
#[test]
fn a_discard_and_a_migration() {
    Model::new(bed)
        .thread("host", |b: &Bench<Lab>| drop(b.bed.space.migrate_page(page(0))))
        .thread("other host", |b| {
            discard(&b.bed);
            assert_eq!(Program::guest(&b.bed, 0).load(WORD), Ok(0), "after a discard");
            assert_eq!(Program::herald(&b.bed, 1).load(WORD), Ok(0), "after a discard");
        })
        .end(|b| {
            assert_eq!(everybody_reads(&b.bed, WORD), Ok(0));
            ends_well(b.bed);
        })
        .holds(TWO);
}

/// Aging that finds nothing young leaves no flush, but a discard beside it is complete.
#[test]
fn a_discard_and_aging() {
    Model::new(bed)
        .thread("aging", |b: &Bench<Lab>| drop(b.bed.space.test_and_clear_young(page(0))))
        .thread("other host", |b| {
            discard(&b.bed);
            assert_eq!(Program::guest(&b.bed, 0).load(WORD), Ok(0), "after a discard");
            assert_eq!(Program::herald(&b.bed, 1).load(WORD), Ok(0), "after a discard");
        })
        .end(|b| {
            assert_eq!(everybody_reads(&b.bed, WORD), Ok(0));
            ends_well(b.bed);
        })
        .holds(TWO);
}

/// mprotect write-protects, and fork finds the entry read-only: the child's page is not stored to any more.
#[test]
fn a_fork_and_an_mprotect() {
    Model::new(bed)
        .thread("host", |b: &Bench<Lab>| {
            b.bed.space.mprotect(page(0), PAGE, Protection::Read).expect("is mapped");
            assert_eq!(Program::herald(&b.bed, 1).store(WORD, NEW), Err(Verdict::Denied));
        })
        .thread("other host", |b| drop(b.bed.space.fork().expect("frames for tables")))
        .end(|b| {
            assert_eq!(everybody_reads(&b.bed, WORD), Ok(OLD));
            ends_well(b.bed);
        })
        .holds(TWO.with_passes(3));
}
