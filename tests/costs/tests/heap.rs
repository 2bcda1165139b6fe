//! What a fault takes from the heap: nothing. Frames and tables are another matter; those can run out in order.

#[path = "../src/plain.rs"]
#[expect(dead_code, reason = "the program uses the rest")]
mod plain;

use addr::{Hva, HvaRange, PAGE_SIZE, PageSize};
use mm::{Access, AddressSpace, Advice, MapRequest, Mm, Placement, Protection, VmaKind};
use plain::{Nowhere, Plain};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

/// Counts what each thread asks for.
struct Counting;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: `System` does all of it; a counter without a destructor, which allocates nothing, is beside it.
unsafe impl GlobalAlloc for Counting {
    /// # Safety
    /// That of [`GlobalAlloc::alloc`].
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    /// # Safety
    /// That of [`GlobalAlloc::dealloc`].
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) };
    }
}

#[global_allocator]
static HEAP: Counting = Counting;

const PAGES: u64 = 64;
const START: Hva = Hva::new(0x20_0000_0000);

/// How often this thread asks for memory meanwhile.
fn asked(work: impl FnOnce()) -> u64 {
    let before = ASKED.get();
    work();
    ASKED.get() - before
}

fn range() -> HvaRange {
    HvaRange::new(START, START.add(PAGES * PAGE_SIZE))
}

fn space(mm: &Arc<Mm<Plain>>) -> Arc<AddressSpace<Plain>> {
    let space = AddressSpace::new(mm).expect("a root");
    let request = MapRequest {
        placement: Placement::Fixed(START),
        len: range().len(),
        protection: Protection::ReadWrite,
        kind: VmaKind::Anonymous(PageSize::Size4K),
    };
    space.mmap(request).expect("the address space is empty");
    space
}

/// Faults on all pages; how often these ask the heap.
fn touch(space: &AddressSpace<Plain>, access: Access) -> u64 {
    asked(|| {
        range().pages().for_each(|page| assert!(space.fault_in(page, access).is_ok(), "there are frames"))
    })
}

fn swap_out(space: &AddressSpace<Plain>) {
    space.madvise(START, range().len(), Advice::PageOut).expect("the range is mapped");
}

#[test]
fn no_fault_asks_the_heap_for_anything() {
    let mm = Mm::new(Arc::new(Plain::new(4096)), Some(Box::new(Nowhere(1024)))).expect("a frame");
    let parent = space(&mm);
    assert!(asked(|| drop(vec![0_u8; 1])) > 0, "what is asked for is counted");
    assert_eq!(touch(&parent, Access::Read), 0, "the zero page");
    assert_eq!(touch(&parent, Access::Write), 0, "first touch");

    let child = parent.fork().expect("there are tables");
    assert_eq!(touch(&child, Access::Write), 0, "copy on write, in tables that are shared");
    assert_eq!(touch(&parent, Access::Write), 0, "what the parent has left");

    swap_out(&child);
    assert_eq!(touch(&child, Access::Read), 0, "a page from swap");
    assert_eq!(touch(&child, Access::Write), 0, "a write to it");

    let other = space(&mm);
    for (space, page) in
        [&parent, &other].into_iter().flat_map(|space| range().pages().map(move |page| (space, page)))
    {
        let mapping = space.fault_in(page, Access::Write).expect("there are frames");
        space.host().fill(mapping.pfn, 1 + page.as_u64());
    }
    for space in [&parent, &other] {
        space.madvise(START, range().len(), Advice::Mergeable).expect("the range is mapped");
    }
    (0..2).for_each(|_| assert!(mm.merge(u64::MAX).is_some(), "a whole pass"));
    assert_eq!(mm.merge_counts().merged, PAGES);
    assert_eq!(touch(&parent, Access::Read), 0, "a merged page");
    assert_eq!(touch(&parent, Access::Write), 0, "a write to one");
    (0..2).for_each(|_| assert!(mm.merge(u64::MAX).is_some(), "a whole pass"));
    assert_eq!(mm.merge_counts().sharing, 2 * PAGES);
    swap_out(&parent);
    assert_eq!([&parent, &other].map(|space| space.swapped_pages().now), [PAGES; 2]);
    assert_eq!(touch(&other, Access::Read), 0, "a merged page from swap, for one");
    assert_eq!(touch(&parent, Access::Write), 0, "and for the other");
}
