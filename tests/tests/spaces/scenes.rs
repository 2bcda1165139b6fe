//! What is done to a world, again and again: each operation once, in a place where it has much to do.

use crate::{CPU0, SMALL};
use addr::PageSize;
use mm::{Advice, Change, CpuIndex, Protection};
use tests::Violation;
use tests::lab::Verdict;
use tests::worlds::{Backing, Callback, IN_PLACE, Move, Reclaim, SHARED, STORED, TABLES, With, World};

const RW: Protection = Protection::ReadWrite;
const CPU1: CpuIndex = CpuIndex(1);

type Result = std::result::Result<Verdict, Violation>;

/// What is done to a world first, and then.
pub(crate) struct Scene {
    pub(crate) name: &'static str,
    /// Allocations that it takes at least: without them nothing could fail.
    pub(crate) least: u64,
    pub(crate) set: fn(&mut World) -> Result,
    pub(crate) act: fn(&mut World) -> Result,
}

/// Pages with contents of their own: 0..4.
pub(crate) fn own(world: &mut World) -> Result {
    world.mmap(0, (0, 8), RW, SMALL)?;
    for page in 0..4 {
        world.store(0, CPU0, (page, 0), page + 1)?;
    }
    Ok(Verdict::Done)
}

/// The same, shared with a child.
pub(crate) fn forked(world: &mut World) -> Result {
    own(world)?;
    world.fork(0, 1, With::Guest)
}

/// Pages of their own, and a guest with paging.
fn paging(world: &mut World) -> Result {
    own(world)?;
    world.guest_store_linear(0, CPU1, (1, 0), 5)
}

/// The same, shared with a child.
fn paging_forked(world: &mut World) -> Result {
    paging(world)?;
    world.fork(0, 1, With::Guest)
}

/// The same, with the guest's tables in swap.
fn paging_swapped(world: &mut World) -> Result {
    paging(world)?;
    world.madvise(0, TABLES, Advice::PageOut)
}

/// The same, in swap.
fn swapped(world: &mut World) -> Result {
    own(world)?;
    world.madvise(0, (0, 8), Advice::PageOut)
}

/// A transparent huge page, 512..1024.
fn huge(world: &mut World) -> Result {
    world.mmap(0, (512, 512), RW, SMALL)?;
    world.madvise(0, (512, 512), Advice::HugePage)?;
    world.store(0, CPU0, (515, 0), 9)
}

/// Small pages where a huge one could be.
fn full(world: &mut World) -> Result {
    world.mmap(0, (512, 512), RW, SMALL)?;
    world.store(0, CPU0, (515, 0), 9)?;
    world.populate(0, (512, 512))
}

fn hugetlb(world: &mut World) -> Result {
    world.mmap(0, (512, 512), RW, Backing::Anonymous(PageSize::Size2M))?;
    world.store(0, CPU0, (515, 0), 9)
}

fn hugetlb_forked(world: &mut World) -> Result {
    hugetlb(world)?;
    world.fork(0, 1, With::Guest)
}

/// Mappings of all files: the stored one shared at 0, private at 8, in place at 16 and 24, shared memory at 32.
pub(crate) fn files(world: &mut World) -> Result {
    world.mmap(0, (0, 6), RW, Backing::Shared { file: STORED, index: 0 })?;
    world.mmap(0, (8, 6), RW, Backing::Private { file: STORED, index: 0 })?;
    world.mmap(0, (16, 6), RW, Backing::Shared { file: IN_PLACE, index: 0 })?;
    world.mmap(0, (24, 6), RW, Backing::Private { file: IN_PLACE, index: 0 })?;
    world.mmap(0, (32, 6), RW, Backing::Shared { file: SHARED, index: 0 })
}

/// The same, read by the guest.
fn files_read(world: &mut World) -> Result {
    files(world)?;
    for first in [0, 8, 16, 24, 32] {
        for page in first..first + 4 {
            world.guest_load(0, CPU1, page, 0)?;
        }
    }
    Ok(Verdict::Done)
}

/// Notes of places, and nothing mapped.
fn rearranged(world: &mut World) -> Result {
    files(world)?;
    world.remap_file_pages(0, (0, 3), 3)
}

pub(crate) const fn scene(
    name: &'static str,
    least: u64,
    set: fn(&mut World) -> Result,
    act: fn(&mut World) -> Result,
) -> Scene {
    Scene { name, least, set, act }
}

/// All scenes.
pub(crate) const SCENES: [Scene; 39] = [
    scene("a new space", 2, own, |world| world.spawn(2, With::Guest)),
    scene("first store", 1, own, |world| world.store(0, CPU0, (5, 0), 1)),
    scene("guest's first store", 4, own, |world| world.guest_store(0, CPU1, (5, 0), 1)),
    scene("guest's first load", 3, own, |world| world.guest_load(0, CPU1, 5, 0)),
    scene("first store in another region", 2, own, |world| {
        world.mmap(0, (1024, 4), RW, SMALL)?;
        world.store(0, CPU0, (1025, 0), 1)
    }),
    scene("fork", 3, own, |world| world.fork(0, 1, With::Nothing)),
    scene("fork of swapped pages", 3, swapped, |world| world.fork(0, 1, With::Nothing)),
    scene("fork of a huge page", 3, huge, |world| world.fork(0, 1, With::Nothing)),
    scene("fork of a hugetlb page", 3, hugetlb, |world| world.fork(0, 1, With::Nothing)),
    scene("fork of a rearranged file", 4, rearranged, |world| world.fork(0, 1, With::Nothing)),
    scene("copy in the parent", 1, forked, |world| world.store(0, CPU0, (0, 0), 7)),
    scene("copy by the child's guest", 5, forked, |world| world.guest_store(1, CPU1, (0, 0), 7)),
    scene("copy of a hugetlb page", 1, hugetlb_forked, |world| world.store(1, CPU0, (515, 1), 7)),
    scene(
        "copy out of a huge page",
        2,
        |world| huge(world).and_then(|_| world.fork(0, 1, With::Guest)),
        |world| world.store(1, CPU0, (515, 1), 7),
    ),
    scene("swap-in", 1, swapped, |world| world.load(0, CPU0, 2, 0)),
    scene("swap-in by a store", 4, swapped, |world| world.guest_store(0, CPU1, (2, 0), 8)),
    scene(
        "swap-in by a store after fork",
        6,
        |world| swapped(world).and_then(|_| world.fork(0, 1, With::Guest)),
        |world| world.guest_store(1, CPU1, (2, 0), 8),
    ),
    scene("huge first store", 1, own, |world| {
        world.mmap(0, (512, 512), RW, SMALL)?;
        world.madvise(0, (512, 512), Advice::HugePage)?;
        world.store(0, CPU0, (515, 0), 9)
    }),
    scene("hugetlb first store", 1, own, hugetlb),
    scene("partial munmap of a huge page", 1, huge, |world| world.munmap(0, (600, 10))),
    scene("partial mprotect of a huge page", 1, huge, |world| world.mprotect(0, (600, 10), Protection::Read)),
    scene("partial discard of a huge page", 1, huge, |world| world.discard(0, (600, 10))),
    scene("a map over a part of a huge page", 1, huge, |world| world.mmap(0, (600, 600), RW, SMALL)),
    scene("page-out of a huge page", 1, huge, |world| world.madvise(0, (512, 512), Advice::PageOut)),
    scene("MADV_FREE of a huge page", 1, huge, |world| world.madvise(0, (512, 512), Advice::Free)),
    scene("a callback for a huge page", 1, huge, |world| {
        world.apply(0, (512, 512), Callback::Each(Change::WriteProtect))
    }),
    scene("mlock of a part of a huge page", 1, huge, |world| world.mlock(0, (514, 4))),
    scene("collapse", 1, full, |world| world.collapse(0, 512)),
    scene("a move of small pages", 1, own, |world| world.mremap(0, (1, 4), 4, Move::Fixed(1100))),
    scene("a move of swapped pages that grow", 2, swapped, |world| world.mremap(0, (1, 4), 9, Move::MayMove)),
    scene("a move of a huge page", 3, huge, |world| world.mremap(0, (512, 512), 512, Move::Fixed(1100))),
    scene("mlock", 15, files, |world| world.mlock(0, (8, 6))),
    scene("file reads", 14, files, files_read),
    scene("file writes", 3, files_read, |world| {
        for page in [0, 8, 16, 17, 24, 25, 32] {
            world.guest_store(0, CPU0, (page, 1), page + 1)?;
        }
        world.reclaim(0, 0, Reclaim::Any)
    }),
    scene("remap_file_pages", 1, own, |world| {
        world.mmap(0, (1024, 4), RW, Backing::Shared { file: STORED, index: 0 })?;
        world.remap_file_pages(0, (1024, 3), 3)
    }),
    scene("a guest's own tables", 9, own, |world| world.guest_load_linear(0, CPU1, 2, 0)),
    scene("copies by the child's guest, and of its tables", 9, paging_forked, |world| {
        world.guest_store_linear(1, CPU1, (0, 0), 7)
    }),
    scene("swap-in of a guest's tables", 3, paging_swapped, |world| {
        world.guest_store_linear(0, CPU1, (0, 0), 7)
    }),
    scene("a touch of a rearranged page", 1, rearranged, |world| world.load(0, CPU0, 1, 0)),
];
