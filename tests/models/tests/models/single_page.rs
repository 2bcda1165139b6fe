//! A fault, and `invalidate_page`: the sequence rises there, too (I3).

use crate::{
    Bench, NEW, OLD, PAGE, TWO, WORD, busy_lab, evict, file_world, guests_read, lab, machine, note_stores,
    private_world, world_ends_well, world_on,
};
use addr::PageSize;
use mm::{Advice, Change, MapError};
use models::{Bounds, Model, Program, Touch, Word, by_device, ends_well, everybody_reads, in_memory};
use tests::lab::{Lab, Verdict, page};
use tests::machine::Options;
use tests::worlds::{Backing, STORED, With, World};

/// Migration leaves a page alone that somebody works on.
fn migrate(lab: &Lab) {
    if let Err(error) = lab.space.migrate_page(page(0)) {
        assert_eq!(Verdict::from(error), Verdict::Shared);
    }
}

#[test]
fn fault_against_migration() {
    Model::new(lab)
        .thread("guest", |lab| {
            let guest = Program::guest(lab, 0);
            assert_eq!(guest.load(WORD), Ok(OLD));
            guest.store(WORD, NEW).expect("memory");
            assert_eq!(guest.load(WORD), Ok(NEW));
        })
        .thread("host", migrate)
        .end(|lab| {
            assert_eq!(everybody_reads(&lab, WORD), Ok(NEW));
            ends_well(lab);
        })
        .holds(TWO);
}

/// A guest that needs no fault stores on: nothing is lost between the copy and the new entry (I8).
#[test]
fn running_guest_against_migration() {
    Model::new(busy_lab)
        .thread("guest", |lab| {
            let guest = Program::guest(lab, 0);
            for value in [NEW, NEW + 1] {
                guest.store(WORD, value).expect("memory");
                assert_eq!(guest.load(WORD), Ok(value));
            }
        })
        .thread("host", migrate)
        .end(|lab| {
            assert_eq!(everybody_reads(&lab, WORD), Ok(NEW + 1));
            ends_well(lab);
        })
        .holds(TWO);
}

#[test]
fn device_against_migration() {
    Model::new(lab)
        .thread("device", |lab| {
            assert_eq!(by_device(lab, WORD, Touch::Load), Ok(OLD));
            by_device(lab, WORD, Touch::Store(NEW)).expect("memory");
            assert_eq!(by_device(lab, WORD, Touch::Load), Ok(NEW));
        })
        .thread("host", migrate)
        .end(|lab| {
            assert_eq!(everybody_reads(&lab, WORD), Ok(NEW));
            ends_well(lab);
        })
        .holds(TWO);
}

/// A space whose page a child shares: Herald's store copies it.
fn shared_with_a_child() -> Bench<(Lab, std::sync::Arc<mm::AddressSpace<tests::machine::Machine>>)> {
    let lab = lab();
    let child = lab.space.fork().expect("frames for tables");
    Bench::new((lab, child))
}

fn copies_on_write(name: &'static str, other: impl Fn(&Lab) -> models::Found + Send + Sync + 'static) {
    Model::new(shared_with_a_child)
        .thread(name, move |b| {
            let late = b.is_finished();
            let found = other(&b.bed.0);
            assert!(found == Ok(NEW) || found == Ok(OLD) && !late, "{found:?}, after the store: {late}");
        })
        .thread("herald", |b| {
            Program::herald(&b.bed.0, 1).store(WORD, NEW).expect("memory");
            b.finish();
        })
        .end(|b| {
            let (lab, child) = b.bed;
            assert_eq!(everybody_reads(&lab, WORD), Ok(NEW));
            assert_eq!(in_memory(&child, WORD), Some(OLD), "the child's page");
            drop(child);
            ends_well(lab);
        })
        .holds(TWO.with_passes(3));
}

#[test]
fn fault_against_copy_on_write_by_herald() {
    copies_on_write("guest", |lab| Program::guest(lab, 0).load(WORD));
}

#[test]
fn device_against_copy_on_write_by_herald() {
    copies_on_write("device", |lab| by_device(lab, WORD, Touch::Load));
}

/// The guest's fault copies the page itself, and goes on with the sequence that its own call has raised: what others do meanwhile is
/// not hidden by that.
fn copies_for_a_guest(name: &'static str, other: impl Fn(&Lab) + Send + Sync + 'static) {
    Model::new(shared_with_a_child)
        .thread("guest", |b: &Bench<(Lab, _)>| {
            let guest = Program::guest(&b.bed.0, 0);
            guest.store(WORD, NEW).expect("memory");
            assert_eq!(guest.load(WORD), Ok(NEW));
        })
        .thread(name, move |b| other(&b.bed.0))
        .end(|b| {
            let (lab, child) = b.bed;
            assert_eq!(everybody_reads(&lab, WORD), Ok(NEW));
            assert_eq!(in_memory(&child, WORD), Some(OLD), "the child's page");
            drop(child);
            ends_well(lab);
        })
        .holds(TWO.with_passes(2));
}

#[test]
fn copy_on_write_by_a_guest_against_migration() {
    copies_for_a_guest("host", migrate);
}

#[test]
fn copy_on_write_by_a_guest_against_a_load_by_herald() {
    copies_for_a_guest("herald", |lab| {
        assert!(matches!(Program::herald(lab, 1).load(WORD), Ok(OLD | NEW)));
    });
}

/// Pages the page out, if nobody is at work on it.
fn page_out(world: &World) {
    let space = world.space(0);
    if space.lookup(page(0)).is_some() {
        space.madvise(page(0), PAGE, Advice::PageOut).expect("is mapped");
    }
}

fn guest_stores(world: &World) {
    let space = world.space(0);
    let guest = Program::guest_of(world, &space, 0, 0);
    assert_eq!(guest.load(WORD), Ok(OLD));
    guest.store(WORD, NEW).expect("memory");
    assert_eq!(guest.load(WORD), Ok(NEW));
}

#[test]
fn fault_against_swap_out() {
    Model::new(private_world)
        .thread("guest", guest_stores)
        .thread("reclaim", page_out)
        .end(|world| {
            assert_eq!(guests_read(&world), Ok(NEW));
            world_ends_well(world);
        })
        .holds(TWO);
}

/// A page that is in swap for the time that is said: the first slots are read without a lock, the third is read at once.
fn in_swap(times: usize) -> World {
    let world = private_world();
    for time in 0..times {
        if time > 0 {
            assert_eq!(guests_read(&world), Ok(OLD));
        }
        page_out(&world);
    }
    world
}

/// The last of two faults on a page in swap finds the slot empty: whoever was faster has given it back.
#[test]
fn two_faults_on_a_page_in_swap() {
    two_faults_on(|| in_swap(1));
}

#[test]
fn two_faults_on_a_page_in_swap_that_does_not_wait() {
    two_faults_on(|| in_swap(3));
}

#[test]
fn a_fault_that_reads_from_swap_at_once_against_discard() {
    Model::new(|| in_swap(3))
        .thread("guest", |world: &World| {
            let space = world.space(0);
            assert!(matches!(Program::guest_of(world, &space, 0, 0).load(WORD), Ok(OLD | 0)));
        })
        .thread("host", |world| world.space(0).discard(page(0), PAGE).expect("is mapped"))
        .end(|mut world| {
            assert_eq!(guests_read(&world), Ok(0));
            world.discard(0, (0, 1)).expect("what the world knows of it, too");
            world_ends_well(world);
        })
        .holds(TWO);
}

fn two_faults_on(in_swap: impl Fn() -> World + Send + Sync + 'static) {
    Model::new(in_swap)
        .thread("guest", guest_stores)
        .thread("herald", |world: &World| {
            let space = world.space(0);
            assert!(matches!(Program::herald_in(world, &space, 1).load(WORD), Ok(OLD | NEW)));
        })
        .end(|world| {
            assert_eq!(guests_read(&world), Ok(NEW));
            world_ends_well(world);
        })
        .holds(TWO);
}

/// What is in the file in the end: the page is written, dropped, and read again.
fn reads_back(mut world: World) {
    assert_eq!(guests_read(&world), Ok(NEW));
    note_stores(&mut world);
    world.write_back(STORED).expect("the store works");
    evict(&world, 0);
    assert_eq!(guests_read(&world), Ok(NEW), "the page that was read again");
    world_ends_well(world);
}

#[test]
fn fault_against_write_back() {
    Model::new(file_world)
        .thread("guest", guest_stores)
        .thread("write-back", |world| world.mm.write_back(world.file(STORED)).expect("the store works"))
        .end(reads_back)
        .holds(TWO);
}

#[test]
fn fault_against_reclaim_of_a_file_page() {
    Model::new(file_world)
        .thread("guest", guest_stores)
        .thread("reclaim", page_out)
        .end(reads_back)
        .holds(TWO);
}

/// What two guests have stored since MADV_FREE, each in its word, is not dropped with the page: the frame is dirty before
/// anybody can store through the entry that one fault has made for both (I7).
#[test]
fn two_stores_against_reclaim_of_a_page_that_may_be_dropped() {
    let freed = || {
        let mut world = private_world();
        world.madvise(0, (0, 1), Advice::Free).expect("is mapped");
        world
    };
    let store = |cpu: usize, word: Word| {
        move |world: &World| {
            let space = world.space(0);
            Program::guest_of(world, &space, 0, cpu).store(word, NEW).expect("memory");
        }
    };
    Model::new(freed)
        .thread("guest", store(0, WORD))
        .thread("other guest", store(1, WORD.next()))
        .thread("reclaim", page_out)
        .end(|world| {
            let space = world.space(0);
            let found = [WORD, WORD.next()].map(|word| Program::guest_of(&world, &space, 0, 0).load(word));
            assert_eq!(found, [Ok(NEW), Ok(NEW)]);
            drop(space);
            world_ends_well(world);
        })
        .holds(Bounds::preemptions(1));
}

/// A page that fork has shared. A frame that is freed is free at once where nothing is kept in quarantine.
fn forked_world(quarantine: u64) -> World {
    let options = Options { quarantine, ..machine() };
    let mut world = world_on(options, Backing::Anonymous(PageSize::Size4K));
    // A second area there, so that fork copies the page table: what is meant here comes after its sharing.
    world.mmap(0, (8, 1), crate::RW, Backing::Anonymous(PageSize::Size4K)).expect("room");
    world.fork(0, 1, With::Nothing).expect("a child");
    world
}

/// What is copied may go to swap and be free before the copy is made: whoever copies holds it.
#[test]
fn copy_on_write_by_a_guest_against_swap_out() {
    Model::new(|| forked_world(0))
        .thread("guest", guest_stores)
        .thread("reclaim", |world| {
            for id in 0..2 {
                world.space(id).madvise(page(0), PAGE, Advice::PageOut).expect("is mapped");
            }
        })
        .end(|world| {
            assert_eq!(guests_read(&world), Ok(NEW));
            world_ends_well(world);
        })
        .holds(TWO.with_passes(2));
}

/// A page that fork has shared is copied for a store. Meanwhile the child gives it up, it goes half-way to swap and comes
/// back as the space's own, is stored to, and protected again: it looks as before, and is not.
#[test]
fn copy_on_write_against_a_page_that_becomes_the_spaces_own() {
    let protect = |world: &World| {
        let protected = world.space(0).apply_to_page_range(page(0), PAGE, |_, _| Ok(Change::WriteProtect));
        protected.unwrap_or_else(|error: MapError| panic!("{error}"));
    };
    Model::new(|| forked_world(machine().quarantine))
        .thread("Herald", |world: &World| {
            let space = world.space(0);
            assert_eq!(Program::herald_in(world, &space, 0).store(WORD, NEW), Ok(NEW));
        })
        .thread("host", move |world| {
            world.space(1).discard(page(0), PAGE).expect("is mapped");
            world.swap.set_failing(true);
            let space = world.space(0);
            space.madvise(page(0), PAGE, Advice::PageOut).expect("is mapped");
            world.swap.set_failing(false);
            let _ = Program::herald_in(world, &space, 1).load(WORD);
            protect(world);
        })
        .thread("Herald elsewhere", move |world| {
            let space = world.space(0);
            assert_eq!(Program::herald_in(world, &space, 1).store(WORD.next(), NEW), Ok(NEW));
            protect(world);
        })
        .end(|world| {
            let space = world.space(0);
            let found = [WORD, WORD.next()].map(|word| Program::herald_in(&world, &space, 0).load(word));
            assert_eq!(found, [Ok(NEW), Ok(NEW)]);
            drop(space);
            world_ends_well(world);
        })
        .holds(TWO.with_passes(1));
}
