//! Truncation, and a fault that makes a private copy of a page that is about to go.

use crate::{NEW, RW, TWO, WORD, guests_read, machine, world_ends_well};
use models::{Model, Program};
use tests::lab::Verdict;
use tests::machine::Options;
use tests::worlds::{Backing, STORED, With, World};

/// A private mapping of the file, of which nobody has touched a page.
fn untouched_copies() -> World {
    let mut world = World::new(Options { frames: 224, ..machine() }, 4);
    world.machine.excuse_unaged_guests();
    world.machine.ignore_writes();
    world.spawn(0, With::Guest).expect("a space");
    world.mmap(0, (0, 2), RW, Backing::Private { file: STORED, index: 0 }).expect("a mapping");
    for cpu in world.machine.cpus() {
        world.load(0, cpu, 1, 0).expect("a load");
    }
    world
}

/// The copy may be mapped after truncation has looked for entries the first time: it looks again.
#[test]
fn truncation_against_a_private_copy() {
    Model::new(untouched_copies)
        .thread("guest", |world: &World| {
            let space = world.space(0);
            let stored = Program::guest_of(world, &space, 0, 0).store(WORD, NEW);
            assert!(matches!(stored, Ok(NEW) | Err(Verdict::BeyondEnd)), "{stored:?}");
        })
        .thread("truncation", |world| world.mm.truncate(world.file(STORED), 0))
        .end(|mut world| {
            assert_eq!(guests_read(&world), Err(Verdict::BeyondEnd));
            world.truncate(STORED, 0).expect("a second truncation");
            world_ends_well(world);
        })
        .holds(TWO.with_passes(3));
}
