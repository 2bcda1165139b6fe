//! Faults of one guest on two CPUs at the same time, on the shared side of the mmu lock: on one page, and on pages that
//! have tables in common, which both CPUs may find missing.

use crate::{NEW, OLD, PAGE, TWO, WORD, file_world, guests_read, machine, world_ends_well};
use addr::Gfn;
use mm::Advice;
use models::{Bounds, GUEST, Model, Program, Word, ends_well, everybody_reads, map};
use tests::lab::{Lab, page};
use tests::worlds::{STORED, World};

/// In the same table as the page of [`WORD`].
const BESIDE: Word = Word::of(1);
/// In another table, below the same.
const FAR: Word = Word::of(512);

/// Pages that are resident, and a guest whose EPT is a root and nothing else.
fn bed() -> Lab {
    let lab = Lab::with_ram(machine(), 514);
    for (first, count) in [(0, 2), (512, 1)] {
        map(&lab.space, first, count);
    }
    for word in [WORD, BESIDE, FAR] {
        Program::herald(&lab, 1).store(word, OLD).expect("memory");
    }
    lab
}

fn guest_stores(lab: &Lab, cpu: usize, word: Word, value: u64) {
    let guest = Program::guest(lab, cpu);
    guest.store(word, value).expect("memory");
    assert_eq!(guest.load(word), Ok(value));
}

/// Neither an entry nor a table is lost, and no table is linked in vain.
fn both_have_entries(other: Word, resident: u64) {
    Model::new(bed)
        .thread("guest", |lab| guest_stores(lab, 0, WORD, NEW))
        .thread("other guest", move |lab| guest_stores(lab, 1, other, NEW + 1))
        .end(move |lab| {
            let mmu = &lab.guest(GUEST).mmu;
            assert!(mmu.lookup(Gfn::new(WORD.page)).is_some(), "the first page has no entry");
            assert!(mmu.lookup(Gfn::new(other.page)).is_some(), "the other page has no entry");
            let stats = mmu.stats().snapshot();
            assert_eq!(
                stats.installed + stats.mapped_around,
                resident,
                "pages of tables that were faulted in"
            );
            assert_eq!(everybody_reads(&lab, WORD), Ok(NEW));
            assert_eq!(everybody_reads(&lab, other), Ok(NEW + 1));
            ends_well(lab);
        })
        .holds(TWO.with_passes(2));
}

#[test]
fn faults_on_neighbours() {
    both_have_entries(BESIDE, 2);
}

#[test]
fn faults_on_pages_of_two_tables() {
    // The first one's neighbour, too.
    both_have_entries(FAR, 3);
}

/// One of the two installs the entry; the other finds it, by its access or by its fault.
#[test]
fn faults_on_one_resident_page() {
    Model::new(bed)
        .thread("guest", |lab| guest_stores(lab, 0, WORD, NEW))
        .thread("other guest", |lab| guest_stores(lab, 1, WORD.next(), NEW + 1))
        .end(|lab| {
            assert_eq!(lab.guest(GUEST).mmu.stats().snapshot().installed, 1);
            assert_eq!(everybody_reads(&lab, WORD), Ok(NEW));
            assert_eq!(everybody_reads(&lab, WORD.next()), Ok(NEW + 1));
            ends_well(lab);
        })
        .holds(TWO);
}

/// Two faults on neighbours, and a range over both: what was stored before it is gone, what is stored later is there.
#[test]
fn faults_on_neighbours_against_discard() {
    Model::new(bed)
        .thread("guest", |lab| Program::guest(lab, 0).store(WORD, NEW).map(drop).expect("memory"))
        .thread("other guest", |lab| Program::guest(lab, 1).store(BESIDE, NEW).map(drop).expect("memory"))
        .thread("host", |lab| lab.space.discard(page(0), 2 * PAGE).expect("is mapped"))
        .end(|lab| {
            for word in [WORD, BESIDE] {
                let found = everybody_reads(&lab, word);
                assert!(matches!(found, Ok(0 | NEW)), "{word:?}: {found:?}");
            }
            ends_well(lab);
        })
        .holds(Bounds::preemptions(1));
}

/// Two faults on one page, while it gets another frame: both end up with the same one.
#[test]
fn faults_on_one_page_against_migration() {
    Model::new(bed)
        .thread("guest", |lab| guest_stores(lab, 0, WORD, NEW))
        .thread("other guest", |lab| guest_stores(lab, 1, WORD.next(), NEW + 1))
        .thread("host", |lab| {
            let _ = lab.space.migrate_page(page(0));
        })
        .end(|lab| {
            assert_eq!(everybody_reads(&lab, WORD), Ok(NEW));
            assert_eq!(everybody_reads(&lab, WORD.next()), Ok(NEW + 1));
            ends_well(lab);
        })
        .holds(Bounds::preemptions(1));
}

/// A page of a file that is resident and clean: an entry for a load does not allow stores.
fn clean_world() -> World {
    let world = file_world();
    world.mm.write_back(world.file(STORED)).expect("the store works");
    world
}

/// The same, where the guest has such an entry.
fn read_world() -> World {
    let world = clean_world();
    assert_eq!(Program::guest_of(&world, &world.space(0), 0, 0).load(WORD), Ok(OLD));
    world
}

fn world_guest_stores(world: &World, cpu: usize) {
    let space = world.space(0);
    let guest = Program::guest_of(world, &space, 0, cpu);
    guest.store(WORD, NEW).expect("memory");
    assert_eq!(guest.load(WORD), Ok(NEW));
}

/// Whoever comes second never takes away what the first has got.
#[test]
fn a_load_and_a_store_of_a_clean_page() {
    Model::new(clean_world)
        .thread("guest", |world: &World| {
            let space = world.space(0);
            assert!(matches!(Program::guest_of(world, &space, 0, 0).load(WORD), Ok(OLD | NEW)));
        })
        .thread("other guest", |world| world_guest_stores(world, 1))
        .end(|world| {
            world.check().unwrap_or_else(|violation| panic!("{violation:?}"));
            assert_eq!(guests_read(&world), Ok(NEW));
            world_ends_well(world);
        })
        .holds(TWO);
}

/// The same, and it is old: aging that finds it so owes no flush, which would hide what it takes away.
fn cold_world() -> World {
    let world = read_world();
    world.space(0).madvise(page(0), PAGE, Advice::Cold).expect("is mapped");
    world
}

fn upgrade_against(setup: fn() -> World, name: &'static str, other: fn(&World)) {
    Model::new(setup)
        .thread("guest", |world: &World| world_guest_stores(world, 0))
        .thread(name, other)
        .end(|world| {
            world.check().unwrap_or_else(|violation| panic!("{violation:?}"));
            assert_eq!(guests_read(&world), Ok(NEW));
            world_ends_well(world);
        })
        .holds(TWO);
}

#[test]
fn two_stores_to_a_page_that_was_read() {
    upgrade_against(read_world, "other guest", |world| world_guest_stores(world, 1));
}

/// The right to write stays, and so does D.
#[test]
fn a_store_to_a_page_that_was_read_against_aging() {
    upgrade_against(cold_world, "aging", |world| {
        world.space(0).test_and_clear_young(page(0));
    });
}
