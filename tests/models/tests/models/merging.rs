//! Merging of two equal pages, and meanwhile, in all orders, a store through a translation that is cached or not, a write fault,
//! reclaim of either.

use crate::{NEW, OLD, PAGE, WORD, guests_read, private_world, world_ends_well};
use mm::{Access, Advice};
use models::{Bounds, Model, Program, Word};
use tests::lab::{gpage, page};
use tests::worlds::World;

/// The other page's word.
const OTHER: Word = Word::of(1);

/// Two pages that are equal and were so in the last pass; the guest has both cached, writable.
fn equal_pages() -> World {
    let world = private_world();
    let space = world.space(0);
    let guest = Program::guest_of(&world, &space, 0, 0);
    guest.store(OTHER, OLD).expect("memory");
    guest.store(WORD, OLD).expect("memory");
    space.madvise(page(0), 2 * PAGE, Advice::Mergeable).expect("is mapped");
    drop(space);
    let _ = world.mm.merge(u64::MAX);
    world
}

/// The same, merged.
fn one_page() -> World {
    let world = equal_pages();
    let _ = world.mm.merge(u64::MAX);
    assert_eq!(world.mm.merge_counts().sharing, 2);
    world
}

fn merge(world: &World) {
    let _ = world.mm.merge(u64::MAX);
}

/// The words in the end, as the guest finds them.
fn reads(world: World, word: u64, other: u64) {
    assert_eq!(guests_read(&world), Ok(word));
    let space = world.space(0);
    assert_eq!(Program::guest_of(&world, &space, 0, 0).load(OTHER), Ok(other));
    drop(space);
    world_ends_well(world);
}

fn stores(world: &World, word: Word) {
    let space = world.space(0);
    let guest = Program::guest_of(world, &space, 0, 0);
    guest.store(word, NEW).expect("memory");
    assert_eq!(guest.load(word), Ok(NEW));
}

#[test]
fn merging_against_a_store_to_the_first_page() {
    Model::new(equal_pages)
        .thread("guest", |world| stores(world, WORD))
        .thread("merging", merge)
        .end(|world| reads(world, NEW, OLD))
        .holds(Bounds::preemptions(1));
}

#[test]
fn merging_against_a_store_to_the_second_page() {
    Model::new(equal_pages)
        .thread("guest", |world| stores(world, OTHER))
        .thread("merging", merge)
        .end(|world| reads(world, OLD, NEW))
        .holds(Bounds::preemptions(1));
}

#[test]
fn merging_against_a_fault_that_writes_to_what_is_merged() {
    Model::new(one_page)
        .thread("guest", |world| {
            let space = world.space(0);
            let (mmu, _) = world.guest(0).expect("a guest");
            mmu.fault(gpage(0), Access::Write).expect("memory");
            Program::guest_of(world, &space, 0, 0).store(WORD, NEW).expect("memory");
        })
        .thread("merging", merge)
        .end(|world| reads(world, NEW, OLD))
        .holds(Bounds::preemptions(1));
}

#[test]
fn merging_against_reclaim() {
    Model::new(equal_pages)
        .thread("reclaim", |world| {
            let _ = world.space(0).madvise(page(1), PAGE, Advice::PageOut);
        })
        .thread("merging", merge)
        .end(|world| reads(world, OLD, OLD))
        .holds(Bounds::preemptions(1));
}
