//! I14 over the policy's own path: unmap, flush, write, and meanwhile, in all orders, a fault that brings the page back, a
//! store that makes it dirty again, and what else may take it.

use crate::{NEW, OLD, PAGE, TWO, WORD, guests_read, private_world, world_ends_well};
use mm::{Access, Advice};
use models::{Bounds, Found, Model, Program, in_memory};
use std::sync::Mutex;
use tests::lab::{gpage, page};
use tests::worlds::World;

/// A page that the guest has written, long ago: it is old, dirty, and mapped writable, and no CPU has cached it. (What one has
/// cached it fetches again after each flush, and the page is young.)
fn old_world() -> World {
    let world = private_world();
    let space = world.space(0);
    space.madvise(page(0), PAGE, Advice::PageOut).expect("is mapped");
    let (mmu, _) = world.guest(0).expect("a guest");
    mmu.fault(gpage(0), Access::Write).expect("memory");
    drop(space);
    (0..2).for_each(|_| world.mm.age_all());
    world
}

/// The same, and its contents are in swap.
fn world_in_swap() -> World {
    let world = old_world();
    assert_eq!(world.mm.shrink(1).reclaimed, 1);
    world
}

/// Whoever uses the page may be faster, and it stays.
fn shrink(world: &World) {
    assert!(world.mm.shrink(1).reclaimed <= 1);
}

fn guest(world: &World, run: impl FnOnce(Program<'_>)) {
    let space = world.space(0);
    run(Program::guest_of(world, &space, 0, 0));
}

fn reads(world: World, expected: Found) {
    assert_eq!(guests_read(&world), expected);
    world_ends_well(world);
}

#[test]
fn reclaim_against_a_fault_that_reads() {
    Model::new(old_world)
        .thread("guest", |world| guest(world, |guest| assert_eq!(guest.load(WORD), Ok(OLD))))
        .thread("reclaim", shrink)
        .end(|world| reads(world, Ok(OLD)))
        .holds(TWO.with_passes(2));
}

#[test]
fn reclaim_against_a_fault_that_writes() {
    Model::new(old_world)
        .thread("guest", |world| {
            guest(world, |guest| {
                guest.store(WORD, NEW).expect("memory");
                assert_eq!(guest.load(WORD), Ok(NEW));
            });
        })
        .thread("reclaim", shrink)
        .end(|world| reads(world, Ok(NEW)))
        .holds(TWO.with_passes(2));
}

/// The page comes back clean, is stored to, and goes again: the slot's copy is the older one.
#[test]
fn reclaim_against_a_page_that_comes_back_and_is_dirty_again() {
    Model::new(world_in_swap)
        .thread("guest", |world| {
            guest(world, |guest| {
                assert_eq!(guest.load(WORD), Ok(OLD));
                guest.store(WORD, NEW).expect("memory");
                assert_eq!(guest.load(WORD), Ok(NEW));
            });
        })
        .thread("reclaim", shrink)
        .end(|world| reads(world, Ok(NEW)))
        .holds(TWO.with_passes(1));
}

#[test]
fn reclaim_against_discard() {
    Model::new(old_world)
        .thread("host", |world| world.space(0).discard(page(0), PAGE).expect("is mapped"))
        .thread("reclaim", shrink)
        .end(|world| reads(world, Ok(0)))
        .holds(TWO.with_passes(2));
}

#[test]
fn reclaim_against_discard_and_a_fault_that_writes() {
    Model::new(old_world)
        .thread("host", |world| world.space(0).discard(page(0), PAGE).expect("is mapped"))
        .thread("guest", |world| {
            guest(world, |guest| {
                guest.store(WORD, NEW).expect("memory");
                assert!(matches!(guest.load(WORD), Ok(0 | NEW)));
            });
        })
        .thread("reclaim", shrink)
        .end(|world| {
            assert!(matches!(guests_read(&world), Ok(0 | NEW)));
            world_ends_well(world);
        })
        .holds(Bounds::preemptions(1).with_passes(1));
}

/// The child has what the parent had, whichever way it gets it: an entry, or a note.
#[test]
fn reclaim_against_fork() {
    struct Family {
        world: World,
        child: Mutex<Option<std::sync::Arc<mm::AddressSpace<tests::machine::Machine>>>>,
    }
    Model::new(|| Family { world: old_world(), child: Mutex::new(None) })
        .thread("host", |family| {
            let child = family.world.space(0).fork().expect("frames for tables");
            *family.child.lock().expect("no panic") = Some(child);
        })
        .thread("reclaim", |family| shrink(&family.world))
        .end(|Family { world, child }| {
            let child = child.into_inner().expect("no panic").expect("a child");
            guest(&world, |guest| assert_eq!(guest.store(WORD, NEW), Ok(NEW)));
            child.fault_in(page(0), Access::Read).expect("memory");
            assert_eq!(in_memory(&child, WORD), Some(OLD), "the child's page");
            drop(child);
            reads(world, Ok(NEW));
        })
        .holds(TWO.with_passes(2));
}
