//! Patch site `page_mkclean_one`: dirty pages of files are written back, and become dirty again.

use crate::Outcome;
use crate::bench::{Bench, SMALL, answer, bytes};
use crate::devices::{DISK, Platter};
use crate::scenario::Scenario;
use mm::{Host, Spared, VmaKind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tests::lab::{Verdict, page, pages};

/// One file in two spaces, and what both write arrives on the disk, however often it is written back.
pub(crate) const WRITE_BACK: Scenario = Scenario {
    name: "page_mkclean_one: what guests write after a write-back is written by the next",
    plan: SMALL,
    prepare: |b| {
        shared_by_two(b)?;
        b.guest_writes(0, 0, 10)?;
        b.herald_writes(1, 1, 11)?;
        b.guest_writes(1, 2, 12)
    },
    act: |b| {
        sync(b, [10, 11, 12])?;
        b.guest_writes(0, 0, 20)?;
        b.guest_writes(1, 1, 21)?;
        b.herald_writes(0, 2, 22)?;
        b.both_read(1, 0, 20)?;
        sync(b, [20, 21, 22])?;
        b.guest_writes(1, 2, 32)?;
        sync(b, [20, 21, 32])
    },
};

/// Two spaces with one shared file of four pages at their start.
fn shared_by_two(b: &Bench) -> Outcome {
    let (file, _) = b.disk_file(4);
    b.add_space();
    for space in [0, 1] {
        b.map(space, pages(0, 4), VmaKind::Shared(Arc::clone(&file), 0))?;
    }
    (0..4).try_for_each(|index| {
        b.both_read(0, index, DISK + index)?;
        b.both_read(1, index, DISK + index)
    })
}

/// Writes the bench's only file back; its first pages must hold this then.
fn sync(b: &Bench, values: [u64; 3]) -> Outcome {
    b.does(0, "msync", |space| space.msync(page(0), bytes(4)))?;
    let platter = b.platter(1);
    (0..).zip(values).try_for_each(|(index, value)| on_disk(&platter, index, value))
}

fn on_disk(platter: &Platter, index: u64, value: u64) -> Outcome {
    let found = platter.word(index);
    let lost = || answer("page on the disk", format!("{value:#x}"), format!("{found:#x}"));
    if found == value { Ok(()) } else { Err(lost()) }
}

#[test]
fn what_a_guest_writes_after_a_write_back_reaches_the_disk_with_the_next() -> Outcome {
    WRITE_BACK.run()
}

#[test]
fn clean_pages_are_not_written() -> Outcome {
    let b = Bench::new(SMALL);
    shared_by_two(&b)?;
    b.guest_writes(0, 1, 5)?;
    sync(&b, [DISK, 5, DISK + 2])?;
    sync(&b, [DISK, 5, DISK + 2])?;
    assert_eq!(b.platter(1).writes(), 1);
    b.finish()
}

#[test]
fn a_page_that_cannot_be_written_stays_dirty() -> Outcome {
    let b = Bench::new(SMALL);
    shared_by_two(&b)?;
    b.guest_writes(0, 0, 5)?;
    let platter = b.platter(1);
    platter.fails_writes.store(true, Ordering::Relaxed);
    b.answers(0, "msync", Verdict::DeviceFailed, |space| space.msync(page(0), bytes(4)))?;
    let frame = b.frame(0, 0).expect("still mapped");
    assert!(b.machine.frames().meta(frame).is_dirty());
    assert!(matches!(b.holding(0, 0, |frame| b.mm.page_out(frame))?, Err(Spared::Store(_))));
    b.both_read(1, 0, 5)?;
    platter.fails_writes.store(false, Ordering::Relaxed);
    sync(&b, [5, DISK + 1, DISK + 2])?;
    b.finish()
}

#[test]
fn a_page_of_a_file_is_reclaimed_from_both_spaces_and_read_again() -> Outcome {
    let b = Bench::new(SMALL);
    shared_by_two(&b)?;
    b.guest_writes(0, 0, 5)?;
    b.page_out(1, 0)?;
    assert_eq!((b.frame(0, 0), b.frame(1, 0)), (None, None));
    on_disk(&b.platter(1), 0, 5)?;
    b.both_read(1, 0, 5)?;
    b.guest_writes(1, 0, 6)?;
    b.both_read(0, 0, 6)?;
    b.finish()
}

/// Private pages that were not written are the file's, and read-only for everybody.
#[test]
fn a_private_mapping_sees_the_file_until_it_writes() -> Outcome {
    let b = Bench::new(SMALL);
    let (file, platter) = b.disk_file(4);
    b.add_space();
    b.map(0, pages(0, 4), VmaKind::Private(Arc::clone(&file), 0))?;
    b.map(1, pages(0, 4), VmaKind::Shared(file, 0))?;
    b.both_read(0, 0, DISK)?;
    b.guest_writes(1, 0, 5)?;
    b.both_read(0, 0, 5)?;
    b.guest_writes(0, 0, 6)?;
    b.both_read(1, 0, 5)?;
    b.does(1, "msync", |space| space.msync(page(0), bytes(4)))?;
    on_disk(&platter, 0, 5)?;
    b.both_read(0, 0, 6)?;
    b.does(0, "discard", |space| space.discard(page(0), bytes(1)))?;
    b.both_read(0, 0, 5)?;
    b.finish()
}

#[test]
fn a_store_that_cannot_be_read_fails_the_access_and_works_later() -> Outcome {
    let b = Bench::new(SMALL);
    let (file, platter) = b.disk_file(4);
    b.map(0, pages(0, 4), VmaKind::Shared(file, 0))?;
    platter.fails_reads.store(true, Ordering::Relaxed);
    b.same("a guest's load", Verdict::DeviceFailed, b.guest_load(0, 1))?;
    platter.fails_reads.store(false, Ordering::Relaxed);
    b.both_read(0, 1, DISK + 1)?;
    b.finish()
}
