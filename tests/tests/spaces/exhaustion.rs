//! Out of memory at every allocation of every operation: an error and no panic, everything in order, contents as they
//! were or as they were to be, and the next try succeeds (I16).

use crate::scenes::{SCENES, Scene};
use crate::{Outcome, world};
use tests::Violation;
use tests::lab::Verdict;
use tests::machine::Paging;

/// Fails each allocation of a scene in turn, until it needs no more; returns how many it needed.
fn fail_each(scene: &Scene) -> Result<u64, Violation> {
    for failing in 0.. {
        let mut world = world()?;
        (scene.set)(&mut world)?;
        world.fail_allocation_after(failing);
        let first = (scene.act)(&mut world)?;
        let enough = world.cancel_failure();
        // What was refused, or done in a smaller way, is possible now.
        let again = if first == Verdict::OutOfMemory { (scene.act)(&mut world)? } else { first };
        assert_ne!(again, Verdict::OutOfMemory, "{}: allocation {failing}", scene.name);
        world.finish()?;
        if enough {
            return Ok(failing);
        }
    }
    unreachable!("some number of allocations is enough")
}

#[test]
fn every_operation_survives_the_failure_of_each_of_its_allocations() -> Outcome {
    for scene in &SCENES {
        let needed = fail_each(scene)?;
        // A shadow has tables in reserve.
        let least = if Paging::chosen() == Paging::Ept { scene.least } else { 0 };
        assert!(needed >= least, "{} takes {needed} allocations", scene.name);
    }
    Ok(())
}
