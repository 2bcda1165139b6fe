//! Merging of equal pages, and whoever works on one of them: a guest that needs no fault to write, reclaim, fork. Space 0 has the
//! page that is write-protected, space 1 the one that is replaced.

use crate::{Bench, NEW, OLD, PAGE, RW, WORD, machine, world_ends_well};
use addr::PageSize;
use mm::{AddressSpace, Advice, CpuIndex};
use models::{Bounds, Model, Program, Word, in_memory};
use std::sync::{Arc, Mutex};
use tests::lab::page;
use tests::machine::{Machine, Options};
use tests::worlds::{Backing, With, World};

/// Loops over entries and contents are left a few times only, and only once in all: a pass has many steps.
const ONE: Bounds = Bounds { random: 200, ..Bounds::preemptions(1).with_passes(2) };

/// Two spaces with an equal page each, which merging has looked at once; CPU 0 runs the guest of one, which can write.
fn equal_pages(guest: usize) -> World {
    let mut world = World::new(Options { frames: 224, ..machine() }, 4);
    world.machine.excuse_unaged_guests();
    world.machine.ignore_writes();
    for id in 0..2 {
        add_pages(&mut world, id, if id == guest { With::Guest } else { With::Nothing }, 1);
        write_page(&mut world, id, 0);
    }
    world.load(guest, CpuIndex(0), 0, 0).expect("a load");
    let space = world.space(guest);
    Program::guest_of(&world, &space, guest, 0).store(WORD, OLD).expect("memory");
    merge(&world);
    world
}

/// A space with room for so many such pages.
fn add_pages(world: &mut World, id: usize, with: With, count: u64) {
    world.spawn(id, with).expect("a space");
    world.mmap(id, (0, count), RW, Backing::Anonymous(PageSize::Size4K)).expect("a mapping");
    world.madvise(id, (0, count), Advice::Mergeable).expect("is mapped");
}

/// One of them is there.
fn write_page(world: &mut World, id: usize, page: u64) {
    world.load(id, CpuIndex(1), page, 0).expect("a load");
    let space = world.space(id);
    Program::herald_in(world, &space, 1).store(Word { page, ..WORD }, OLD).expect("memory");
}

/// To the end of a pass.
fn merge(world: &World) {
    while world.mm.merge(u64::MAX).is_none() {}
}

fn words(world: &World) -> [Option<u64>; 2] {
    [0, 1].map(|id| in_memory(&world.space(id), WORD))
}

/// A guest stores by what it has cached.
fn against_a_writer(guest: usize) {
    let stores = move |world: &World| {
        let space = world.space(guest);
        let program = Program::guest_of(world, &space, guest, 0);
        program.store(WORD, NEW).expect("memory");
        assert_eq!(program.load(WORD), Ok(NEW));
    };
    Model::new(move || equal_pages(guest))
        .thread("guest", stores)
        .thread("merging", merge)
        .end(move |world| {
            let mut expected = [Some(OLD); 2];
            expected[guest] = Some(NEW);
            assert_eq!(words(&world), expected);
            world_ends_well(world);
        })
        .holds(ONE);
}

#[test]
fn merging_against_a_guest_that_writes_what_others_become() {
    against_a_writer(0);
}

#[test]
fn merging_against_a_guest_that_writes_what_becomes_another() {
    against_a_writer(1);
}

/// All come back from wherever they went.
fn against_swap_out(id: usize, prepare: impl Fn() -> World + Send + Sync + 'static, spaces: usize) {
    Model::new(prepare)
        .thread("merging", merge)
        .thread("reclaim", move |world| {
            world.space(id).madvise(page(0), PAGE, Advice::PageOut).expect("is mapped");
        })
        .end(move |mut world| {
            let values = || (NEW..).enumerate().take(spaces);
            for (id, value) in values() {
                world.load(id, CpuIndex(1), 0, 0).expect("a load");
                let space = world.space(id);
                let herald = Program::herald_in(&world, &space, 1);
                assert_eq!((herald.load(WORD), herald.store(WORD, value)), (Ok(OLD), Ok(value)));
            }
            for (id, value) in values() {
                assert_eq!(in_memory(&world.space(id), WORD), Some(value));
            }
            world_ends_well(world);
        })
        .holds(ONE);
}

#[test]
fn merging_against_swap_out_of_what_others_become() {
    against_swap_out(0, || equal_pages(1), 2);
}

#[test]
fn merging_against_swap_out_of_what_becomes_another() {
    against_swap_out(1, || equal_pages(1), 2);
}

/// Who takes a page from all that it stands for reads in the book whose they are, and one comes meanwhile, for which there is no room in the
/// first chunk.
#[test]
fn merging_against_swap_out_of_what_is_merged_already() {
    let merged = || {
        let mut world = equal_pages(1);
        add_pages(&mut world, 2, With::Nothing, 4);
        for page in 1..4 {
            write_page(&mut world, 2, page);
            world.note_store(2, (page, WORD.word as u16), OLD);
        }
        (0..2).for_each(|_| merge(&world));
        write_page(&mut world, 2, 0);
        merge(&world);
        assert_eq!(world.mm.merge_counts().sharing, 5);
        world
    };
    against_swap_out(0, merged, 3);
}

type Child = Mutex<Option<Arc<AddressSpace<Machine>>>>;

/// The child has the page as it was, whatever becomes of it.
fn against_fork(id: usize) {
    Model::new(move || Bench::new((equal_pages(id), Child::default())))
        .thread("merging", |b| merge(&b.bed.0))
        .thread("host", move |b| {
            let (world, child) = &b.bed;
            *child.lock().expect("no panic") = Some(world.space(id).fork().expect("frames for tables"));
            let space = world.space(id);
            Program::guest_of(world, &space, id, 0).store(WORD, NEW).expect("memory");
        })
        .end(move |b| {
            let (world, child) = b.bed;
            let child = child.into_inner().expect("no panic").expect("has forked");
            assert_eq!(in_memory(&child, WORD), Some(OLD), "the child's page");
            drop(child);
            let mut expected = [Some(OLD); 2];
            expected[id] = Some(NEW);
            assert_eq!(words(&world), expected);
            world_ends_well(world);
        })
        .holds(ONE);
}

#[test]
fn merging_against_fork_of_what_others_become() {
    against_fork(0);
}

#[test]
fn merging_against_fork_of_what_becomes_another() {
    against_fork(1);
}
