//! A fault that maps its neighbours, and what happens to one of these meanwhile: the faulting page is left alone, so that only the
//! test of the whole group keeps the neighbour from being mapped as it was (I2).

use crate::{NEW, OLD, PAGE, TWO, machine};
use addr::Gfn;
use mm::Protection;
use models::{Bounds, GUEST, Model, Program, Word, ends_well, everybody_reads, map};
use tests::lab::{Lab, Verdict, page};

/// The page that faults, and the one that something happens to.
const FAULTS: Word = Word::of(0);
const BESIDE: Word = Word::of(1);

/// Two pages that are resident, and a guest that has no entries.
fn bed() -> Lab {
    let lab = Lab::with_ram(machine(), 2);
    map(&lab.space, 0, 2);
    for word in [FAULTS, BESIDE] {
        Program::herald(&lab, 1).store(word, OLD).expect("memory");
    }
    lab
}

fn guest_faults(lab: &Lab) {
    assert_eq!(Program::guest(lab, 0).load(FAULTS), Ok(OLD));
}

#[test]
fn map_around_against_discard_of_a_neighbour() {
    Model::new(bed)
        .thread("guest", guest_faults)
        .thread("host", |lab| {
            lab.space.discard(page(1), PAGE).expect("is mapped");
            assert_eq!(Program::guest(lab, 1).load(BESIDE), Ok(0));
        })
        .end(ends_well)
        .holds(TWO.with_passes(2));
}

#[test]
fn map_around_against_mprotect_of_a_neighbour() {
    Model::new(bed)
        .thread("guest", guest_faults)
        .thread("host", |lab| {
            lab.space.mprotect(page(1), PAGE, Protection::Read).expect("is mapped");
            assert_eq!(Program::guest(lab, 1).store(BESIDE, NEW), Err(Verdict::Denied));
        })
        .end(|lab| {
            assert_eq!(everybody_reads(&lab, BESIDE), Ok(OLD));
            ends_well(lab);
        })
        .holds(Bounds::preemptions(1));
}

#[test]
fn map_around_against_migration_of_a_neighbour() {
    Model::new(bed)
        .thread("guest", guest_faults)
        .thread("host", |lab| {
            let _ = lab.space.migrate_page(page(1));
            Program::guest(lab, 1).store(BESIDE, NEW).expect("memory");
        })
        .end(|lab| {
            assert_eq!(everybody_reads(&lab, BESIDE), Ok(NEW));
            ends_well(lab);
        })
        .holds(Bounds::preemptions(1));
}

/// Two faults whose groups are the same: each entry comes once, whoever brings it.
#[test]
fn map_around_against_a_neighbours_own_fault() {
    Model::new(bed)
        .thread("guest", |lab| Program::guest(lab, 0).store(FAULTS, NEW).map(drop).expect("memory"))
        .thread("other guest", |lab| Program::guest(lab, 1).store(BESIDE, NEW).map(drop).expect("memory"))
        .end(|lab| {
            let mmu = &lab.guest(GUEST).mmu;
            let stats = mmu.stats().snapshot();
            assert_eq!(stats.installed + stats.mapped_around, 2);
            assert!(mmu.lookup(Gfn::new(1)).is_some());
            assert_eq!(everybody_reads(&lab, FAULTS), Ok(NEW));
            assert_eq!(everybody_reads(&lab, BESIDE), Ok(NEW));
            ends_well(lab);
        })
        .holds(Bounds::preemptions(1));
}
