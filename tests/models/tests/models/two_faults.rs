//! Two faults on one page: one frame, and the loser gives its own back.

use crate::{NEW, OLD, PAGE, TWO, WORD, lab, machine, untouched};
use models::{Model, Program, Touch, Word, by_device, ends_well, everybody_reads};
use tests::lab::{Lab, page};

/// A first touch on each side; nothing that was stored may be lost, each in its word.
fn both_store(
    name: &'static str,
    setup: fn() -> Lab,
    one: impl Fn(&Lab) + Send + Sync + 'static,
    other: impl Fn(&Lab) + Send + Sync + 'static,
) {
    let _report = Model::new(setup)
        .thread("guest", one)
        .thread(name, other)
        .end(|lab| {
            assert_eq!(everybody_reads(&lab, WORD), Ok(NEW));
            assert_eq!(everybody_reads(&lab, WORD.next()), Ok(NEW + 1));
            assert_eq!(lab.space.lookup(page(1)).is_some(), lab.space.resident_frames() == 2);
            ends_well(lab);
        })
        .holds(TWO);
}

fn nothing_there() -> Lab {
    untouched(machine())
}

/// The same, beside a page that is there: what is mapped needs no table, and finds its place empty or not.
fn a_page_beside() -> Lab {
    let lab = nothing_there();
    Program::herald(&lab, 0).store(Word::of(1), OLD).expect("memory");
    lab
}

/// The zero page is mapped everywhere.
fn only_read() -> Lab {
    let lab = nothing_there();
    assert_eq!(everybody_reads(&lab, WORD), Ok(0));
    lab
}

fn guest_stores(lab: &Lab) {
    let guest = Program::guest(lab, 0);
    guest.store(WORD, NEW).expect("memory");
    assert_eq!(guest.load(WORD), Ok(NEW));
}

fn other_guest_stores(lab: &Lab) {
    let guest = Program::guest(lab, 1);
    guest.store(WORD.next(), NEW + 1).expect("memory");
    assert_eq!(guest.load(WORD.next()), Ok(NEW + 1));
}

fn herald_stores(lab: &Lab) {
    let herald = Program::herald(lab, 1);
    herald.store(WORD.next(), NEW + 1).expect("memory");
    assert_eq!(herald.load(WORD.next()), Ok(NEW + 1));
}

fn device_stores(lab: &Lab) {
    by_device(lab, WORD.next(), Touch::Store(NEW + 1)).expect("memory");
    assert_eq!(by_device(lab, WORD.next(), Touch::Load), Ok(NEW + 1));
}

#[test]
fn two_guest_cpus() {
    both_store("other guest", nothing_there, guest_stores, other_guest_stores);
}

#[test]
fn guest_and_herald() {
    both_store("herald", nothing_there, guest_stores, herald_stores);
}

#[test]
fn guest_and_device() {
    both_store("device", nothing_there, guest_stores, device_stores);
}

#[test]
fn two_guest_cpus_that_have_read_zeros() {
    both_store("other guest", only_read, guest_stores, other_guest_stores);
}

#[test]
fn guest_and_herald_that_have_read_zeros() {
    both_store("herald", only_read, guest_stores, herald_stores);
}

#[test]
fn guest_and_device_that_have_read_zeros() {
    both_store("device", only_read, guest_stores, device_stores);
}

/// A read and a write of a page that is there: whoever comes second finds an entry with less, or with more.
#[test]
fn a_load_and_a_store() {
    Model::new(lab)
        .thread("guest", |lab| assert!(matches!(Program::guest(lab, 0).load(WORD), Ok(OLD | NEW))))
        .thread("other guest", |lab| {
            Program::guest(lab, 1).store(WORD, NEW).expect("memory");
        })
        .end(|lab| {
            assert_eq!(everybody_reads(&lab, WORD), Ok(NEW));
            ends_well(lab);
        })
        .holds(TWO);
}

#[test]
fn two_guest_cpus_beside_a_page() {
    both_store("other guest", a_page_beside, guest_stores, other_guest_stores);
}

#[test]
fn guest_and_herald_beside_a_page() {
    both_store("herald", a_page_beside, guest_stores, herald_stores);
}

/// A first touch, and a range over it: what is brought before goes, what is brought later stays.
#[test]
fn a_first_touch_beside_a_page_against_discard() {
    Model::new(a_page_beside)
        .thread("guest", |lab| Program::guest(lab, 0).store(WORD, NEW).map(drop).expect("memory"))
        .thread("host", |lab| lab.space.discard(page(0), PAGE).expect("is mapped"))
        .end(|lab| {
            let found = everybody_reads(&lab, WORD);
            assert!(matches!(found, Ok(0 | NEW)), "{found:?}");
            ends_well(lab);
        })
        .holds(TWO);
}
