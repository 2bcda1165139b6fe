//! Operations made by hand, through the table seam: what the memory manager must not do.

use addr::{PAGE_SHIFT, PageSize, Pfn};
use mm::Host;
use paging::{EntryRef, HostEntry, TableEntry, walk};
use tests::lab::page;
use tests::worlds::World;

/// The primary entry of a page of space 0, and its place.
pub(crate) fn entry(world: &World, index: u64) -> (EntryRef, HostEntry) {
    let found = walk::<HostEntry, _>(&*world.machine, world.space(0).root(), page(index).as_u64());
    (found.at, found.entry)
}

/// The bits of an entry, with another frame.
pub(crate) fn with_frame(entry: HostEntry, frame: Pfn) -> u64 {
    let number = 0xff_ffff_ffff << PAGE_SHIFT;
    entry.bits() & !number | frame.as_u64() << PAGE_SHIFT
}

/// A frame that nobody has.
pub(crate) fn frame(world: &World) -> Pfn {
    world.machine.allocate_zeroed(PageSize::Size4K).expect("a frame")
}
