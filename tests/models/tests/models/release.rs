//! The end of an address space, with its last notice to subscribers, against faults and against reclaim by reverse map.

use crate::{OLD, TWO, WORD, busy_lab, file_world, private_world, world_ends_well};
use mm::{Access, Spared};
use models::{Bounds, Found, Model, Program, Touch, by_device, ends_well, frame_of, in_memory};
use tests::lab::{Lab, Verdict, page};
use tests::worlds::{STORED, With, World};

fn read_or_gone(found: Found) {
    assert!(matches!(found, Ok(OLD) | Err(Verdict::Unmapped | Verdict::Released)), "{found:?}");
}

#[test]
fn release_against_a_fault_and_a_device() {
    Model::new(busy_lab)
        .thread("guest", |lab| read_or_gone(Program::guest(lab, 0).load(WORD)))
        .thread("device", |lab| read_or_gone(by_device(lab, WORD, Touch::Load)))
        .thread("host", |lab| lab.space.exit())
        .end(|lab| {
            assert!(Program::guest(&lab, 0).load(WORD).is_err(), "a guest of a space that is gone");
            assert!(by_device(&lab, WORD, Touch::Load).is_err(), "a device of a space that is gone");
            ends_well(lab);
        })
        .holds(Bounds::preemptions(1).with_passes(3));
}

#[test]
fn release_against_a_fault() {
    Model::new(crate::lab)
        .thread("guest", |lab: &Lab| read_or_gone(Program::guest(lab, 0).load(WORD)))
        .thread("host", |lab| lab.space.exit())
        .end(|lab| {
            assert!(Program::guest(&lab, 0).load(WORD).is_err(), "a guest of a space that is gone");
            ends_well(lab);
        })
        .holds(TWO.with_passes(3));
}

/// Reclaim finds the page at two places, while one of the spaces exits.
fn against_reclaim(setup: fn() -> World) {
    Model::new(move || {
        let mut world = setup();
        world.fork(0, 1, With::Nothing).expect("a child");
        let _mapping = world.space(1).fault_in(page(0), Access::Read).expect("memory");
        world
    })
    .thread("host", |world| world.space(0).exit())
    .thread("reclaim", |world| {
        let space = world.space(1);
        let held = frame_of(&space, 0);
        let outcome = world.mm.page_out(held.frame);
        assert!(matches!(outcome, Ok(()) | Err(Spared::Busy)), "{outcome:?}");
    })
    .end(|mut world| {
        world.exit(0).expect("a second end");
        let space = world.space(1);
        let _mapping = space.fault_in(page(0), Access::Read).expect("memory");
        assert_eq!(in_memory(&space, WORD), Some(OLD));
        drop(space);
        world_ends_well(world);
    })
    .holds(TWO.with_passes(2));
}

#[test]
fn release_against_reclaim_of_private_memory() {
    against_reclaim(private_world);
}

#[test]
fn release_against_reclaim_of_a_file_page() {
    against_reclaim(file_world);
}

#[test]
fn release_against_truncation() {
    Model::new(file_world)
        .thread("host", |world| world.space(0).exit())
        .thread("truncation", |world| world.mm.truncate(world.file(STORED), 0))
        .thread("guest", |world| {
            let space = world.space(0);
            let found = Program::guest_of(world, &space, 0, 0).load(WORD);
            let gone = [Verdict::Unmapped, Verdict::Released, Verdict::BeyondEnd];
            assert!(found == Ok(OLD) || found.is_err_and(|verdict| gone.contains(&verdict)), "{found:?}");
        })
        .end(|mut world| {
            assert_eq!(world.file(STORED).cached(), 0);
            world.exit(0).expect("a second end");
            world.truncate(STORED, 0).expect("a second truncation");
            world_ends_well(world);
        })
        .holds(Bounds::preemptions(1).with_passes(2));
}
