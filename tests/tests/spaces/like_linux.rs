//! What the comparison with Linux (`tests/linux`) has found, one short scene each: what programs rely on at the edges.

use crate::{CPU0, Outcome, SMALL, world};
use addr::{Hva, PAGE_SIZE};
use mm::{AddressSpace, Advice, MapError, MapRequest, Placement, Protection, Remap, VmaFlags, VmaKind};
use tests::lab::{ARENA, Verdict};
use tests::machine::Machine;
use tests::worlds::{Backing, Move, STORED, World};

const RW: Protection = Protection::ReadWrite;
/// First number behind the lower half's last mapping.
const TOP: u64 = 0x7fff_ffff_f000;

type Call = fn(&AddressSpace<Machine>, Hva, u64) -> Result<(), MapError>;

/// Calls that take any range and answer for its holes.
const NAMED: [(&str, Call); 6] = [
    ("mprotect", |space, start, len| space.mprotect(start, len, RW)),
    ("madvise", |space, start, len| space.madvise(start, len, Advice::HugePage)),
    ("discard", AddressSpace::discard),
    ("mlock", AddressSpace::mlock),
    ("munlock", AddressSpace::munlock),
    ("msync", AddressSpace::msync),
];

fn page(index: u64) -> Hva {
    ARENA.add(index * PAGE_SIZE)
}

/// Whether a page of space 0 is there.
fn is_there(world: &World, index: u64) -> bool {
    world.space(0).lookup(page(index)).is_some()
}

fn map_at(world: &World, start: u64, len: u64) -> Result<(), MapError> {
    let placement = Placement::Fixed(Hva::new(start));
    let kind = VmaKind::Anonymous(addr::PageSize::Size4K);
    world.space(0).mmap(MapRequest { placement, len, protection: RW, kind }).map(|_| ())
}

#[test]
fn of_no_pages_there_is_nothing_to_do_but_to_map_and_to_unmap() -> Outcome {
    let world = world()?;
    for (name, call) in NAMED {
        assert_eq!(call(&world.space(0), page(0), 0), Ok(()), "{name}");
    }
    assert!(matches!(map_at(&world, page(0).as_u64(), 0), Err(MapError::BadRange { .. })));
    assert!(matches!(world.space(0).munmap(page(0), 0), Err(MapError::BadRange { .. })));
    world.finish()
}

#[test]
fn what_lies_behind_every_area_is_a_hole_and_no_room() -> Outcome {
    let mut world = world()?;
    world.mmap(0, (0, 2), RW, SMALL)?;
    for (name, call) in NAMED {
        for start in [Hva::new(TOP), Hva::new(0xffff_8000_0000_0000)] {
            let answer = call(&world.space(0), start, PAGE_SIZE);
            assert!(matches!(answer, Err(MapError::Hole(_))), "{name} at {start}: {answer:?}");
        }
    }
    assert!(matches!(map_at(&world, page(0).as_u64(), TOP), Err(MapError::NoRoom { .. })));
    assert!(matches!(map_at(&world, page(0).as_u64(), u64::MAX), Err(MapError::NoRoom { .. })));
    assert!(matches!(map_at(&world, TOP, PAGE_SIZE), Err(MapError::NoRoom { .. })));
    let longer = world.space(0).mremap(page(0), PAGE_SIZE, TOP, Remap::InPlace);
    assert!(matches!(longer, Err(MapError::NoRoom { .. })), "{longer:?}");
    world.finish()
}

#[test]
fn a_range_that_wraps_around_is_refused_and_nothing_changes() -> Outcome {
    let mut world = world()?;
    world.mmap(0, (0, 2), RW, SMALL)?;
    for (name, call) in NAMED {
        let answer = call(&world.space(0), page(0), u64::MAX - 2 * PAGE_SIZE);
        let hole = matches!(answer, Err(MapError::Hole(_)));
        assert_eq!(hole, matches!(name, "mprotect" | "msync"), "{name}: {answer:?}");
        assert!(answer.is_err(), "{name}");
    }
    world.check()?;
    world.finish()
}

#[test]
fn locks_reach_as_far_as_the_pages_that_a_range_touches_up_to_a_hole() -> Outcome {
    let mut world = world()?;
    world.mmap(0, (0, 4), RW, SMALL)?;
    let locked = || -> Vec<_> {
        let vmas = world.space(0).vmas();
        let locked = vmas.iter().filter(|vma| vma.flags.contains(VmaFlags::LOCKED));
        locked.map(|vma| (vma.range.start(), vma.range.end())).collect()
    };
    world.space(0).mlock(page(1).add(100), PAGE_SIZE).expect("two pages");
    assert_eq!(locked(), [(page(1), page(3))]);
    world.space(0).munlock(page(1).add(100), 1).expect("a page");
    assert_eq!(locked(), [(page(2), page(3))]);
    world.space(0).munlock(page(2), 1).expect("a page");
    world.munmap(0, (1, 1))?;
    // The model knows which areas are locked now.
    assert_eq!(world.mlock(0, (0, 4))?, Verdict::Hole);
    assert_eq!(world.munlock(0, (0, 4))?, Verdict::Hole);
    world.finish()
}

#[test]
fn memory_that_nobody_may_touch_is_locked_with_an_error() -> Outcome {
    let mut world = world()?;
    world.mmap(0, (0, 1), Protection::None, SMALL)?;
    assert_eq!(world.mlock(0, (0, 1))?, Verdict::Denied);
    assert!(!is_there(&world, 0));
    // What is locked already is brought in as soon as it may be written.
    world.mprotect(0, (0, 1), Protection::Read)?;
    assert!(!is_there(&world, 0));
    world.mprotect(0, (0, 1), RW)?;
    assert!(is_there(&world, 0));
    world.finish()
}

#[test]
fn what_is_added_to_locked_memory_is_there() -> Outcome {
    let mut world = world()?;
    world.mmap(0, (0, 2), RW, Backing::Private { file: STORED, index: 0 })?;
    world.mlock(0, (0, 2))?;
    world.mremap(0, (0, 2), 3, Move::InPlace)?;
    assert!(is_there(&world, 2));
    world.mremap(0, (0, 3), 5, Move::Fixed(20))?;
    assert!((20..25).all(|index| is_there(&world, index)));
    assert_eq!(world.load(0, CPU0, 24, 0)?, Verdict::Value(0xf11e_0004));
    world.finish()
}

#[test]
fn what_merely_shrinks_need_not_be_one_area() -> Outcome {
    let mut world = world()?;
    world.mmap(0, (0, 2), RW, SMALL)?;
    world.mmap(0, (2, 2), Protection::Read, SMALL)?;
    world.mmap(0, (6, 2), RW, SMALL)?;
    world.store(0, CPU0, (1, 0), 5)?;
    assert_eq!(world.mremap(0, (0, 8), 8, Move::MayMove)?, Verdict::Done);
    assert_eq!(world.mremap(0, (0, 8), 3, Move::InPlace)?, Verdict::Done);
    assert_eq!(world.load(0, CPU0, 6, 0)?, Verdict::Unmapped);
    assert_eq!(world.load(0, CPU0, 1, 0)?, Verdict::Value(5));
    assert_eq!(world.mremap(0, (0, 3), 4, Move::MayMove)?, Verdict::Hole);
    assert_eq!(world.mremap(0, (4, 2), 2, Move::Fixed(5))?, Verdict::BadRange, "an overlap is seen first");
    world.finish()
}

#[test]
fn shared_memory_takes_no_advice_to_be_merged() -> Outcome {
    let mut world = world()?;
    world.mmap(0, (0, 2), RW, Backing::Shared { file: STORED, index: 0 })?;
    world.mmap(0, (2, 2), RW, Backing::Private { file: STORED, index: 2 })?;
    assert_eq!(world.madvise(0, (0, 4), Advice::Mergeable)?, Verdict::Done);
    let flags: Vec<_> = world.space(0).vmas().iter().map(|vma| vma.flags).collect();
    assert_eq!(flags, [VmaFlags::empty(), VmaFlags::MERGEABLE]);
    world.finish()
}

#[test]
fn a_file_that_grows_again_reads_zeros_there() -> Outcome {
    let mut world = world()?;
    world.mmap(0, (0, 4), RW, Backing::Shared { file: STORED, index: 0 })?;
    world.mm.truncate(world.file(STORED), 2);
    world.mm.truncate(world.file(STORED), 24);
    for (index, value) in [(0, 0xf11e_0000), (1, 0xf11e_0001), (2, 0), (3, 0)] {
        let found = world.space(0).fault_in(page(index), mm::Access::Read).expect("a page of the file");
        assert_eq!(world.machine.peek(found.pfn, 0), value, "page {index}");
    }
    // The model learns of it.
    world.truncate(STORED, 2)?;
    world.finish()
}
