//! Patch site `__xip_unmap`: execute-in-place files with holes.

use crate::Outcome;
use crate::bench::{Bench, SMALL, bytes};
use crate::devices::{DISK, InPlace};
use crate::scenario::Scenario;
use mm::{Change, MapError, Protection, VmaKind};
use std::sync::Arc;
use tests::lab::{Verdict, page, pages};
use tests::machine::Event;

/// A file of holes, but for page 0, in two spaces; all have read it.
fn shared_by_two(b: &Bench) -> Outcome {
    let file = b.xip_file(4);
    b.add_space();
    for space in [0, 1] {
        b.map(space, pages(0, 4), VmaKind::Shared(Arc::clone(&file), 0))?;
        b.both_read(space, 0, DISK)?;
        (1..4).try_for_each(|index| b.both_read(space, index, 0))?;
    }
    Ok(())
}

pub(crate) const FILL_HOLE: Scenario = Scenario {
    name: "__xip_unmap: a hole that all have read as zeros is filled",
    plan: SMALL,
    prepare: shared_by_two,
    act: |b| {
        b.guest_writes(0, 1, 11)?;
        b.both_read(1, 1, 11)?;
        b.both_read(0, 1, 11)?;
        b.herald_writes(1, 2, 12)?;
        b.both_read(0, 2, 12)?;
        b.guest_writes(1, 2, 22)?;
        b.both_read(0, 2, 22)?;
        b.both_read(0, 3, 0)
    },
};

#[test]
fn everybody_reads_what_was_written_into_a_hole() -> Outcome {
    FILL_HOLE.run()
}

#[test]
fn frames_of_the_store_are_mapped_as_they_are_and_never_counted() -> Outcome {
    let b = Bench::new(SMALL);
    shared_by_two(&b)?;
    b.guest_writes(0, 1, 11)?;
    b.guest_writes(1, 0, 10)?;
    assert_eq!(b.frame(0, 0), Some(InPlace::frame(0)));
    assert_eq!(b.frame(0, 1), Some(InPlace::frame(1)));
    assert_eq!(b.frame(0, 2), Some(b.mm.zero_page()));
    assert_eq!(b.space(0).space.resident_frames(), 0);
    assert_eq!(b.file(0).cached(), 0);
    b.end_space(0)?;
    b.both_read(1, 1, 11)?;
    assert_eq!(b.machine.peek(InPlace::frame(0), 0), 10);
    b.finish()
}

#[test]
fn a_private_mapping_of_the_store_copies_what_it_writes() -> Outcome {
    let b = Bench::new(SMALL);
    let file = b.xip_file(4);
    b.add_space();
    b.map(0, pages(0, 4), VmaKind::Private(Arc::clone(&file), 0))?;
    b.map(1, pages(0, 4), VmaKind::Shared(file, 0))?;
    b.both_read(0, 0, DISK)?;
    (1..4).try_for_each(|index| b.both_read(0, index, 0))?;
    b.guest_writes(0, 0, 5)?;
    b.herald_writes(0, 1, 6)?;
    b.both_read(1, 0, DISK)?;
    b.both_read(1, 1, 0)?;
    // The hole is filled: who has not written sees it, private or not.
    b.guest_writes(1, 2, 7)?;
    b.both_read(0, 2, 7)?;
    b.guest_writes(1, 1, 8)?;
    b.both_read(0, 1, 6)?;
    // A page of the private mapping that was never touched.
    b.guest_writes(0, 3, 9)?;
    b.both_read(1, 3, 0)?;
    b.page_out(0, 3)?;
    b.both_read(0, 3, 9)?;
    b.finish()
}

#[test]
fn a_fork_shares_the_store_and_copies_private_pages() -> Outcome {
    let b = Bench::new(SMALL);
    let file = b.xip_file(4);
    b.map(0, pages(0, 2), VmaKind::Shared(Arc::clone(&file), 0))?;
    b.map(0, pages(4, 2), VmaKind::Private(file, 0))?;
    b.both_read(0, 0, DISK)?;
    b.both_read(0, 4, DISK)?;
    b.guest_writes(0, 5, 5)?;
    let child = b.fork(0)?;
    b.guest_writes(child, 0, 6)?;
    b.both_read(0, 0, 6)?;
    b.both_read(0, 4, 6)?;
    b.guest_writes(child, 5, 7)?;
    b.both_read(0, 5, 5)?;
    b.finish()
}

/// Between the question what is there and the entry for the answer, another space fills the hole.
#[test]
fn a_hole_that_is_filled_while_it_is_mapped_does_not_stay_zero() -> Outcome {
    let b = Arc::new(Bench::new(SMALL));
    shared_by_two(&b)?;
    // Far away, so that the fault allocates tables after it has asked.
    b.map(0, pages(1 << 27, 4), VmaKind::Shared(b.file(0), 0))?;
    let writer = Arc::downgrade(&b);
    let mut waits = true;
    b.machine.set_hook(move |event| {
        if event == Event::AllocateTable && std::mem::take(&mut waits) {
            let writer = writer.upgrade().expect("the bench lives");
            let write = std::thread::spawn(move || writer.guest_store(1, 1, 11));
            assert_eq!(write.join().expect("a store"), Verdict::Done);
        }
    });
    b.load(0, (1 << 27) + 1);
    b.machine.clear_hook();
    b.herald_reads(0, (1 << 27) + 1, 11)?;
    b.both_read(0, 1, 11)?;
    Arc::into_inner(b).expect("the writer has ended").finish()
}

#[test]
fn a_write_protected_frame_of_the_store_is_writable_again_by_a_fault() -> Outcome {
    let b = Bench::new(SMALL);
    shared_by_two(&b)?;
    b.guest_writes(0, 0, 10)?;
    b.does(0, "apply_to_page_range", |space| {
        space.apply_to_page_range(page(0), bytes(1), |_, _| Ok::<_, MapError>(Change::WriteProtect))
    })?;
    b.guest_writes(0, 0, 20)?;
    b.both_read(1, 0, 20)?;
    b.does(0, "mprotect", |space| space.mprotect(page(0), bytes(2), Protection::Read))?;
    b.does(0, "mprotect", |space| space.mprotect(page(0), bytes(2), Protection::ReadWrite))?;
    b.guest_writes(0, 0, 30)?;
    b.guest_writes(0, 1, 31)?;
    b.both_read(1, 1, 31)?;
    b.finish()
}
