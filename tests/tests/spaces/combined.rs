//! Guests with paging: their translations name host frames, by way of tables that lie in memory which the host takes
//! away like any other. First what the machine keeps and drops, then that a flush which leaves them is found.

use crate::{CPU0, Outcome, SMALL};
use addr::{Gfn, Hva, HvaRange, PAGE_SHIFT, PageSize, Pfn};
use mm::{Advice, CpuIndex, Protection};
use mmu::AccessedDirty;
use paging::{EntryRef, EptEntry, FlushScope, Shootdown, TableEntry, TableMemory, walk};
use tests::Violation;
use tests::lab::{Verdict, page};
use tests::machine::{GuestFault, Kind, Options, Skip, Speculation};
use tests::worlds::{Lost, Reclaim, TABLES, With, World, gva};

const RW: Protection = Protection::ReadWrite;
const CPU1: CpuIndex = CpuIndex(1);
/// Guest frames: of a small guest page, and of a large one.
const FRAMES: [u64; 2] = [513, 3];
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;

/// A guest that has stored 1 to a small and 2 to a large page of its own, on CPU 1. Under a shadow there are no combined translations.
fn guest() -> Result<World, Violation> {
    let mut world = World::new(Options { cpus: 4, ..Options::default() }, 20);
    world.spawn(0, With::Guest)?;
    set(world)
}

fn set(mut world: World) -> Result<World, Violation> {
    world.mmap(0, (0, 8), RW, SMALL)?;
    world.mmap(0, (512, 8), RW, SMALL)?;
    for (frame, value) in FRAMES.into_iter().zip(1..) {
        assert_eq!(world.guest_store_linear(0, CPU1, (frame, 0), value)?, Verdict::Done);
    }
    Ok(world)
}

fn secondary_entry(world: &World, frame: u64) -> (EntryRef, EptEntry) {
    let (_, root) = world.guest(0).expect("a guest");
    let found = walk::<EptEntry, _>(&*world.machine, root, Gfn::new(frame).base().as_u64());
    (found.at, found.entry)
}

fn has_combined(world: &World, frame: u64) -> bool {
    world.machine.has_cached(CPU1, Kind::Combined, gva(frame).as_u64())
}

fn frame_of(entry: EptEntry) -> Pfn {
    Pfn::new((entry.bits() & 0xff_ffff_f000) >> PAGE_SHIFT)
}

/// A word of one of the guest's tables.
fn entry_of_guest(world: &World, table: u64, place: u16) -> u64 {
    let (_, entry) = secondary_entry(world, TABLES.0 + table);
    world.machine.peek(frame_of(entry), place)
}

#[test]
fn a_combined_translation_outlives_its_entry_until_the_invept() -> Outcome {
    for frame in FRAMES {
        let mut world = guest()?;
        let (at, _) = secondary_entry(&world, frame);
        world.machine.store(at, 0);
        world.machine.evict(CPU1, Kind::GuestPhysical);
        assert!(world.machine.guest_load_linear(CPU1, gva(frame)).is_ok());
        let found = world.check();
        assert!(matches!(found, Err(Violation::Stale { cpu: 1, kind: Kind::Combined, .. })), "{found:?}");
        let (_, root) = world.guest(0).expect("a guest");
        world.machine.flush(FlushScope::Secondary { root });
        let refused = world.machine.guest_load_linear(CPU1, gva(frame));
        assert!(matches!(refused, Err(GuestFault::Ept { .. })), "{refused:?}");
        assert_eq!(
            world.guest_load_linear(0, CPU1, frame, 0)?,
            Verdict::Value(1 + u64::from(frame == FRAMES[1]))
        );
        world.finish()?;
    }
    Ok(())
}

#[test]
fn a_table_that_moved_is_still_walked_until_the_invept() -> Outcome {
    let world = std::mem::ManuallyDrop::new(guest()?);
    let (at, entry) = secondary_entry(&world, TABLES.0 + 3);
    world.machine.store(at, 0);
    world.machine.evict(CPU1, Kind::GuestPhysical);
    let found = world.check();
    assert!(matches!(found, Err(Violation::Stale { kind: Kind::Combined, .. })), "{found:?}");
    // The way to the last table is cached, and so is the EPT's part of it: the entry of a page never used is read.
    let found = world.machine.guest_load_linear(CPU1, gva(514));
    let gpa = Gfn::new(514).base();
    assert_eq!(found, Err(GuestFault::Ept { gpa, access: mm::Access::Read }), "its table was read");
    world.machine.store(at, entry.bits());
    world.check().map(|_| ())
}

#[test]
fn transitions_and_the_hosts_own_flushes_leave_combined_translations() -> Outcome {
    let world = guest()?;
    let (_, root) = world.guest(0).expect("a guest");
    let space = world.space(0).root();
    world.machine.exit(CPU1);
    world.machine.load_space(CPU1, Some(space));
    let range = HvaRange::new(Hva::ZERO, page(4096));
    world.machine.flush(FlushScope::Primary { root: space, range });
    world.machine.enter(CPU1, root);
    assert!(FRAMES.into_iter().all(|frame| has_combined(&world, frame)));
    world.machine.flush(FlushScope::Secondary { root });
    assert!(!FRAMES.into_iter().any(|frame| has_combined(&world, frame)));
    world.finish()
}

#[test]
fn a_guests_own_flushes_drop_its_combined_translations_and_no_others() -> Outcome {
    let mut world = guest()?;
    let physical = |world: &World, frame| {
        world.machine.has_cached(CPU1, Kind::GuestPhysical, Gfn::new(frame).base().as_u64())
    };
    world.lose(CPU1, Lost::GuestsPage(FRAMES[0]))?;
    assert_eq!(FRAMES.map(|frame| has_combined(&world, frame)), [false, true]);
    world.lose(CPU1, Lost::GuestsAll)?;
    assert_eq!(FRAMES.map(|frame| has_combined(&world, frame)), [false, false]);
    assert_eq!(FRAMES.map(|frame| physical(&world, frame)), [true, true]);
    world.finish()
}

#[test]
fn a_walk_sets_the_guests_bits_and_writes_its_tables_in_the_ept() -> Outcome {
    for (accessed_dirty, written) in [(AccessedDirty::Hardware, true), (AccessedDirty::Absent, false)] {
        let options = Options { cpus: 4, accessed_dirty, ..Options::default() };
        let mut world = World::new(options, 20);
        world.spawn(0, With::Guest)?;
        world.mmap(0, (512, 8), RW, SMALL)?;
        world.guest_load_linear(0, CPU1, 513, 0)?;
        let bits = |world: &World| entry_of_guest(world, 3, 1) & (ACCESSED | DIRTY);
        assert_eq!(bits(&world), ACCESSED);
        assert_eq!(entry_of_guest(&world, 2, 1) & (ACCESSED | DIRTY), ACCESSED);
        for table in 0..TABLES.1 {
            let dirty = secondary_entry(&world, TABLES.0 + table).1.bits() & EptEntry::DIRTY != 0;
            assert_eq!(dirty, written, "table {table} with {accessed_dirty:?}");
        }
        world.guest_store_linear(0, CPU1, (513, 0), 1)?;
        assert_eq!(bits(&world), ACCESSED | DIRTY);
        world.finish()?;
    }
    Ok(())
}

#[test]
fn a_translation_is_as_large_as_both_pages_are() -> Outcome {
    let mut world = guest()?;
    world.mmap(0, (1024, 512), RW, SMALL)?;
    world.madvise(0, (1024, 512), Advice::HugePage)?;
    world.guest_store_linear(0, CPU1, (1030, 0), 3)?;
    let cached = world.machine.cached(CPU1);
    let size = |frame: u64| {
        let covers = |size: PageSize, page| gva(frame).align_down(size).as_u64() == page;
        let mut of = cached
            .iter()
            .filter(|(kind, page, cached)| *kind == Kind::Combined && covers(cached.size, *page));
        of.next().map(|(_, _, cached)| cached.size)
    };
    assert_eq!([513, 3, 1030].map(size), [PageSize::Size4K, PageSize::Size4K, PageSize::Size2M].map(Some));
    world.finish()
}

#[test]
fn a_child_has_its_parents_tables_and_walks_its_own_copy() -> Outcome {
    let mut world = guest()?;
    world.fork(0, 1, With::Guest)?;
    // The same CPU, the same addresses: the tags tell them apart.
    for (id, value) in [(0, 10), (1, 20)] {
        world.guest_store_linear(id, CPU1, (513, 0), value)?;
    }
    for (id, value) in [(0, 10), (1, 20)] {
        assert_eq!(world.guest_load_linear(id, CPU1, 513, 0)?, Verdict::Value(value));
        assert_eq!(world.guest_load_linear(id, CPU1, 3, 0)?, Verdict::Value(2));
    }
    world.exit(0)?;
    assert_eq!(world.guest_load_linear(1, CPU1, 513, 0)?, Verdict::Value(20));
    world.finish()
}

#[test]
fn tables_that_were_paged_out_are_paged_in_one_by_one() -> Outcome {
    let mut world = guest()?;
    for index in 0..TABLES.1 {
        assert_eq!(world.reclaim(0, TABLES.0 + index, Reclaim::Any)?, Verdict::Done);
    }
    assert_eq!(world.guest_load_linear(0, CPU1, 513, 0)?, Verdict::Value(1));
    world.finish()
}

/// What the host does to pages of the guest, or to its tables.
type Operation = fn(&mut World) -> Result<Verdict, Violation>;

const OPERATIONS: [(&str, Operation); 9] = [
    ("munmap", |world| world.munmap(0, (513, 1))),
    ("munmap in a large page", |world| world.munmap(0, (3, 1))),
    ("mprotect", |world| world.mprotect(0, (512, 8), Protection::Read)),
    ("discard", |world| world.discard(0, (0, 8))),
    ("migration", |world| world.migrate(0, 513)),
    ("page-out", |world| world.reclaim(0, 3, Reclaim::Any)),
    ("fork", |world| world.fork(0, 1, With::Nothing)),
    ("migration of the last table", |world| world.migrate(0, TABLES.0 + 3)),
    ("page-out of the directory", |world| world.reclaim(0, TABLES.0 + 2, Reclaim::Any)),
];

fn is_of_combined(violation: &Violation) -> bool {
    matches!(
        violation,
        Violation::Stale { kind: Kind::Combined, .. }
            | Violation::FreedWhileTranslated { kind: Kind::Combined, .. }
            | Violation::FreedWhileWalkable { .. }
    )
}

#[test]
fn a_missing_invept_is_found_by_combined_translations_alone() {
    for (name, operation) in OPERATIONS {
        let mut world = std::mem::ManuallyDrop::new(guest().expect("a world in order"));
        world.lose(CPU1, Lost::GuestPhysical).expect("nothing is wrong yet");
        world.machine.skip_flushes(Skip::Secondary);
        let violation = operation(&mut world).expect_err(name);
        assert!(is_of_combined(&violation), "{name}: {violation:?}");
    }
}

#[test]
fn an_invept_that_drops_guest_physical_translations_only_is_found() {
    for (name, operation) in OPERATIONS {
        let mut world = std::mem::ManuallyDrop::new(guest().expect("a world in order"));
        world.machine.skip_flushes(Skip::Combined);
        let violation = operation(&mut world).expect_err(name);
        assert!(is_of_combined(&violation), "{name}: {violation:?}");
    }
}

#[test]
fn with_the_flush_all_of_these_are_in_order() -> Outcome {
    for speculation in [Speculation::Off, Speculation::AfterFlush] {
        for (_, operation) in OPERATIONS {
            let mut world = World::new(Options { cpus: 4, speculation, ..Options::default() }, 20);
            world.spawn(0, With::Guest)?;
            let mut world = set(world)?;
            operation(&mut world)?;
            for frame in FRAMES {
                world.guest_load_linear(0, CPU1, frame, 0)?;
                world.load(0, CPU0, frame, 0)?;
            }
            world.finish()?;
        }
    }
    Ok(())
}
