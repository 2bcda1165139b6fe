//! Every prefix of the table writes of an operation is a state that a CPU may see: each must be the old mapping or
//! the new one, never a third. The world looks at all of its operations that way; here is the proof that it sees
//! something, and that it would say so.

use crate::by_hand::{entry, frame, with_frame};
use crate::scenes::SCENES;
use crate::{CPU0, Outcome, SMALL, world};
use addr::PageSize;
use mm::{AddressSpace, CpuIndex, FrameMemory, Host, Protection};
use paging::{Rights, TableEntry, TableMemory};
use tests::Violation;
use tests::lab::{Verdict, page};
use tests::machine::{Machine, Paging};
use tests::worlds::World;

/// Scenes that change only tables which nobody uses yet, or notes, or what no CPU looks at.
fn quiet_ones() -> usize {
    match Paging::chosen() {
        Paging::Ept => 7,
        // Under a shadow nobody but Herald reads a guest's tables.
        Paging::Shadow => 8,
    }
}

#[test]
fn no_operation_shows_a_third_mapping_between_its_writes() -> Outcome {
    let (mut sights, mut quiet) = (0, 0);
    for scene in &SCENES {
        let mut world = world()?;
        (scene.set)(&mut world)?;
        let before = world.machine.sights();
        (scene.act)(&mut world)?;
        let seen = world.machine.sights() - before;
        quiet += usize::from(seen == 0);
        sights += seen;
        world.finish()?;
    }
    assert_eq!(quiet, quiet_ones(), "scenes that show nothing");
    println!("{sights} sights");
    Ok(())
}

/// A world with two pages: 1 and 2 are in them.
fn two_pages() -> Result<World, Violation> {
    let mut world = world()?;
    world.mmap(0, (0, 2), Protection::ReadWrite, SMALL)?;
    for index in 0..2 {
        world.store(0, CPU0, (index, 0), index + 1)?;
        world.guest_load(0, CpuIndex(1), index, 0)?;
    }
    Ok(world)
}

/// What the rule says of an operation that is made by hand.
fn judge(operation: impl FnOnce(&World, &Machine, &AddressSpace<Machine>)) -> Option<Violation> {
    let world = std::mem::ManuallyDrop::new(two_pages().expect("a world in order"));
    operation(&world, &world.machine, &world.space(0));
    world.machine.settle();
    world.check().err()
}

fn is_torn(violation: Option<&Violation>) -> bool {
    matches!(violation, Some(Violation::Torn { .. }))
}

#[test]
fn an_entry_that_is_written_in_two_halves_is_found() {
    let mut world = std::mem::ManuallyDrop::new(two_pages().expect("a world in order"));
    world.machine.tear_entries();
    let found = world.munmap(0, (1, 1)).and_then(|_| world.store(0, CPU0, (0, 0), 3));
    let found = found.and_then(|_| world.mmap(0, (1, 1), Protection::ReadWrite, SMALL));
    let found = found.and_then(|_| world.store(0, CPU0, (1, 0), 3));
    assert!(
        matches!(found, Err(Violation::DeadFrameSeen { .. } | Violation::Torn { .. })),
        "{found:?} although entries are written in halves"
    );
}

#[test]
fn a_third_page_in_passing_is_found() {
    let found = judge(|world, machine, _| {
        let ((at, own), (_, other)) = (entry(world, 0), entry(world, 1));
        machine.store(at, other.bits());
        machine.store(at, own.bits());
    });
    assert!(is_torn(found.as_ref()), "{found:?}");
}

#[test]
fn a_page_that_is_mapped_before_it_is_filled_is_found() {
    let found = judge(|world, machine, space| {
        let frame = frame(world);
        let old = space.lookup(page(0)).expect("a page").pfn;
        let (at, own) = entry(world, 0);
        machine.store(at, with_frame(own, frame));
        machine.copy(old, frame);
        machine.store(at, own.bits());
    });
    assert!(is_torn(found.as_ref()), "{found:?}");
}

#[test]
fn a_page_that_is_emptied_before_it_is_unmapped_is_found() {
    let found = judge(|world, machine, space| {
        let frame = space.lookup(page(0)).expect("a page").pfn;
        let (at, own) = entry(world, 0);
        let read_only = own.with_rights(Rights::READ);
        machine.store(at, read_only.bits());
        machine.zero(frame, PageSize::Size4K);
        machine.store(at, 0);
    });
    assert!(is_torn(found.as_ref()), "{found:?}");
}

#[test]
fn a_copy_that_can_be_written_while_the_old_page_counts_is_found() {
    let found = judge(|world, machine, space| {
        let frame = frame(world);
        machine.copy(space.lookup(page(0)).expect("a page").pfn, frame);
        let (at, own) = entry(world, 0);
        machine.store(at, with_frame(own, frame));
        machine.store(at, own.bits());
    });
    assert!(is_torn(found.as_ref()), "{found:?}");
}

#[test]
fn a_frame_that_is_nobodys_is_found_in_passing() {
    let found = judge(|world, machine, _| {
        let frame = frame(world);
        machine.retire(frame, PageSize::Size4K);
        let (at, own) = entry(world, 0);
        machine.store(at, with_frame(own, frame));
        machine.store(at, own.bits());
    });
    assert!(matches!(found, Some(Violation::DeadFrameSeen { .. })), "{found:?}");
}

#[test]
fn the_same_contents_in_another_frame_are_no_third_page() -> Outcome {
    let mut world = two_pages()?;
    let frame = frame(&world);
    let (at, own) = entry(&world, 0);
    world.machine.copy(world.space(0).lookup(page(0)).expect("a page").pfn, frame);
    world.machine.store(at, with_frame(own.with_rights(Rights::READ), frame));
    world.machine.store(at, own.bits());
    world.machine.retire(frame, PageSize::Size4K);
    assert_eq!(world.load(0, CPU0, 0, 0)?, Verdict::Value(1));
    world.finish()
}
