//! A flush that one operation owes and another needs (I6): who finds an entry changed already must not return before
//! the translations are gone that the change has left behind.

use crate::{Bench, NEW, OLD, PAGE, TWO, WORD, busy_lab, evict, file_world, world_ends_well};
use mm::{Access, Protection};
use models::{Bounds, Model, Program, Touch, by_device, ends_well, everybody_reads, in_memory};
use tests::lab::{Lab, Verdict, page};
use tests::worlds::{STORED, With, World};

fn discard(lab: &Lab) {
    lab.space.discard(page(0), PAGE).expect("is mapped");
}

fn bed() -> Bench<Lab> {
    Bench::new(busy_lab())
}

/// A discard beside something else that the host does: when it returns, `look` finds zeros, and so does everybody later.
fn discard_beside(name: &'static str, other: fn(&Lab), look: fn(&Lab)) {
    Model::new(bed)
        .thread(name, move |b: &Bench<Lab>| other(&b.bed))
        .thread("host", move |b| {
            discard(&b.bed);
            look(&b.bed);
        })
        .end(|b| {
            assert_eq!(everybody_reads(&b.bed, WORD), Ok(0));
            ends_well(b.bed);
        })
        .holds(TWO);
}

fn guest_finds_zeros(lab: &Lab) {
    assert_eq!(Program::guest(lab, 0).load(WORD), Ok(0), "after a discard");
}

fn herald_finds_zeros(lab: &Lab) {
    assert_eq!(Program::herald(lab, 1).load(WORD), Ok(0), "after a discard");
}

fn both_find_zeros(lab: &Lab) {
    guest_finds_zeros(lab);
    herald_finds_zeros(lab);
}

/// After its own discard the guest finds zeros, whoever was faster.
#[test]
fn two_discards_and_a_guest() {
    discard_beside("other host", discard, guest_finds_zeros);
}

/// The same by hva, where the flush is that of the primary translations.
#[test]
fn two_discards_and_herald() {
    discard_beside("other host", discard, herald_finds_zeros);
}

#[test]
fn two_discards_and_a_device() {
    let device = |lab: &Lab| assert_eq!(by_device(lab, WORD, Touch::Load), Ok(0), "after a discard");
    discard_beside("other host", discard, device);
}

/// The frame that a migration has left is not used by whoever comes after the discard.
#[test]
fn a_discard_and_a_migration() {
    let migrate = |lab: &Lab| {
        let _ = lab.space.migrate_page(page(0));
    };
    discard_beside("migration", migrate, both_find_zeros);
}

/// Aging that finds nothing young leaves no flush, but a discard beside it is complete.
#[test]
fn a_discard_and_aging() {
    let age = |lab: &Lab| {
        let _young = lab.space.test_and_clear_young(page(0));
    };
    discard_beside("aging", age, both_find_zeros);
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

/// What Herald's stale translation still stores while its page is unmapped must reach the file: write-back finds no entry
/// any more, and must not take the page for clean before the flush.
#[test]
fn a_munmap_a_write_back_and_a_store() {
    let shared = || {
        let mut world = file_world();
        world.fork(0, 1, With::Nothing).expect("a child");
        let space = world.space(0);
        Program::herald_in(&world, &space, 1).store(WORD, OLD).expect("memory");
        Bench::new(world)
    };
    Model::new(shared)
        .thread("host", |b: &Bench<World>| b.bed.space(0).munmap(page(0), PAGE).expect("whole pages"))
        .thread("write-back", |b| b.bed.mm.write_back(b.bed.file(STORED)).expect("the store works"))
        .thread("herald", |b| {
            let space = b.bed.space(0);
            if Program::herald_in(&b.bed, &space, 1).store(WORD, NEW).is_ok() {
                b.tell(NEW);
            }
        })
        .end(|b| {
            let written = if b.told() == NEW { NEW } else { OLD };
            let mut world = b.bed;
            world.munmap(0, (0, 1)).expect("a second munmap");
            let space = world.space(1);
            let _mapping = space.fault_in(page(0), Access::Read).expect("memory");
            evict(&world, 1);
            let _mapping = space.fault_in(page(0), Access::Read).expect("memory");
            assert_eq!(in_memory(&space, WORD), Some(written), "the page that was read again");
            drop(space);
            world_ends_well(world);
        })
        .holds(Bounds::preemptions(1).with_passes(3));
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
