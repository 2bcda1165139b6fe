//! Files whose pages come from a device that has to be waited for, privately mapped: a restored guest's memory. And the pages
//! that whoever writes a guest out has to look at.

use crate::Outcome;
use crate::bench::{Bench, SMALL, answer, bytes};
use crate::devices::{DISK, Platter};
use addr::{Hva, HvaRange};
use mm::{Access, File, VmaKind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tests::lab::{Verdict, page, pages};
use tests::machine::Machine;

/// A space with eight pages of such a file.
fn restored(b: &Bench) -> Result<(Arc<File<Machine>>, Arc<Platter>), tests::Violation> {
    let (file, platter) = b.disk_file(8);
    platter.waits.store(true, Ordering::Relaxed);
    b.map(0, pages(0, 8), VmaKind::Private(Arc::clone(&file), 0))?;
    Ok((file, platter))
}

fn caches(file: &File<Machine>, pages: u64) -> Outcome {
    let found = file.cached();
    let what = || answer("cached pages", format!("{pages}"), format!("{found}"));
    if found == pages { Ok(()) } else { Err(what()) }
}

/// The platter itself sees to it that nobody holds a lock who waits for it.
#[test]
fn who_waits_for_a_page_holds_no_lock() -> Outcome {
    let b = Bench::new(SMALL);
    let (file, _) = restored(&b)?;
    b.both_read(0, 0, DISK)?;
    b.guest_writes(0, 1, 5)?;
    b.herald_writes(0, 2, 6)?;
    b.guest_writes(0, 0, 7)?;
    for (index, value) in [(0, 7), (1, 5), (2, 6), (3, DISK + 3)] {
        b.both_read(0, index, value)?;
    }
    // Pages 1 and 2 were written first: nobody else wants what they were copied from.
    caches(&file, 2)?;
    drop(file);
    b.finish()
}

#[test]
fn a_page_that_cannot_be_read_fails_its_fault_alone() -> Outcome {
    let b = Bench::new(SMALL);
    let (file, platter) = restored(&b)?;
    b.both_read(0, 0, DISK)?;
    platter.fails_reads.store(true, Ordering::Relaxed);
    b.answers(0, "a fault", Verdict::DeviceFailed, |space| space.fault_in(page(1), Access::Write))?;
    b.both_read(0, 0, DISK)?;
    platter.fails_reads.store(false, Ordering::Relaxed);
    b.guest_writes(0, 1, 5)?;
    caches(&file, 1)?;
    drop(file);
    b.finish()
}

#[test]
fn what_was_written_goes_to_swap_and_what_was_read_back_to_the_file() -> Outcome {
    let b = Bench::new(SMALL);
    let (file, platter) = restored(&b)?;
    b.guest_writes(0, 0, 5)?;
    b.both_read(0, 1, DISK + 1)?;
    b.page_out(0, 0)?;
    b.page_out(0, 1)?;
    caches(&file, 0)?;
    b.both_read(0, 0, 5)?;
    b.both_read(0, 1, DISK + 1)?;
    assert_eq!(platter.writes(), 0);
    drop(file);
    b.finish()
}

/// Somebody else reads the same page while one waits: both see it, and one copy of it is left.
#[test]
fn two_may_wait_for_one_page() -> Outcome {
    let b = Arc::new(Bench::new(SMALL));
    let (file, platter) = restored(&b)?;
    let other = Arc::clone(&b);
    platter.after_next_read(move || _ = other.store(0, 0, 9));
    b.guest_reads(0, 0, 9)?;
    b.both_read(0, 0, 9)?;
    caches(&file, 0)?;
    drop(file);
    Arc::into_inner(b).expect("the other thread has ended").finish()
}

/// The same, where both read: the second finds what the first has cached.
#[test]
fn who_has_waited_takes_the_page_that_somebody_else_has_cached_meanwhile() -> Outcome {
    let b = Arc::new(Bench::new(SMALL));
    let (file, platter) = restored(&b)?;
    let second = b.add_space();
    b.map(second, pages(0, 8), VmaKind::Private(Arc::clone(&file), 0))?;
    let other = Arc::clone(&b);
    platter.after_next_read(move || {
        other.space(second).space.fault_in(page(0), Access::Read).expect("it is read");
    });
    b.both_read(0, 0, DISK)?;
    assert_eq!(b.frame(0, 0), b.frame(second, 0));
    caches(&file, 1)?;
    drop(file);
    Arc::into_inner(b).expect("the other thread has ended").finish()
}

#[test]
fn a_page_that_goes_before_it_is_mapped_is_waited_for_without_a_lock() -> Outcome {
    let b = Arc::new(Bench::new(SMALL));
    let (file, platter) = restored(&b)?;
    let second = b.add_space();
    b.map(second, pages(0, 8), VmaKind::Private(file, 0))?;
    b.both_read(0, 0, DISK)?;
    let other = Arc::clone(&b);
    platter.before_next_mapped(move || other.page_out(0, 0).expect("it goes"));
    b.both_read(second, 0, DISK)?;
    assert_eq!(platter.reads(), 2);
    Arc::into_inner(b).expect("the other thread has ended").finish()
}

/// A restored guest's virtual processors wait side by side.
#[test]
fn who_waits_for_a_page_reads_it_once_whatever_goes_meanwhile() -> Outcome {
    let b = Arc::new(Bench::new(SMALL));
    let (file, platter) = restored(&b)?;
    let other = Arc::clone(&b);
    platter.after_next_read(move || _ = other.store(0, 0, 9));
    b.guest_reads(0, 1, DISK + 1)?;
    assert_eq!(platter.reads(), 2);
    drop(file);
    Arc::into_inner(b).expect("the other thread has ended").finish()
}

/// The clone that is written out while its parent writes, as a snapshot is: it reads what was there at the instant.
#[test]
fn a_copy_of_a_restored_guest_is_written_out_as_it_was() -> Outcome {
    let b = Bench::new(SMALL);
    restored(&b)?;
    b.guest_writes(0, 0, 5)?;
    b.guest_writes(0, 1, 6)?;
    b.page_out(0, 1)?;
    let copy = b.fork(0)?;
    (0..4).try_for_each(|index| b.guest_writes(0, index, 70 + index))?;
    for (index, value) in [(0, 5), (1, 6), (2, DISK + 2), (3, DISK + 3)] {
        b.herald_reads(copy, index, value)?;
        b.does(copy, "discard", |space| space.discard(page(index), bytes(1)))?;
    }
    (0..4).try_for_each(|index| b.both_read(0, index, 70 + index))?;
    b.finish()
}

fn used(b: &Bench, id: usize, range: HvaRange) -> Vec<Hva> {
    let (mut next, mut found) = (range.start(), Vec::new());
    while let Some(page) = b.space(id).space.next_used(HvaRange::new(next, range.end())) {
        found.push(page);
        next = page.add(bytes(1));
    }
    found
}

#[test]
fn who_reads_all_of_a_space_passes_over_what_was_never_touched() -> Outcome {
    let b = Bench::new(SMALL);
    b.map_pages(0, 0, 8)?;
    b.guest_writes(0, 1, 5)?;
    b.guest_writes(0, 6, 6)?;
    b.page_out(0, 6)?;
    assert_eq!(used(&b, 0, pages(0, 8)), [page(1), page(6)]);
    assert_eq!(used(&b, 0, pages(2, 4)), []);
    let copy = b.fork(0)?;
    assert_eq!(used(&b, copy, pages(0, 8)), [page(1), page(6)]);
    b.does(0, "discard", |space| space.discard(page(0), bytes(2)))?;
    assert_eq!(used(&b, 0, pages(0, 8)), [page(6)]);
    assert_eq!(used(&b, copy, pages(0, 8)), [page(1), page(6)]);
    b.finish()
}

/// What of a file the store has, and what was written over the rest.
#[test]
fn who_reads_all_of_a_file_passes_over_what_its_store_has_not() -> Outcome {
    let b = Bench::new(SMALL);
    let (file, platter) = restored(&b)?;
    assert_eq!(used(&b, 0, pages(0, 8)), pages(0, 8).pages().collect::<Vec<_>>());
    platter.holds.store(0b0100_1000, Ordering::Relaxed);
    assert_eq!(used(&b, 0, pages(0, 8)), [page(3), page(6)]);
    assert_eq!(used(&b, 0, pages(4, 2)), []);
    b.guest_writes(0, 4, 5)?;
    b.guest_writes(0, 7, 6)?;
    b.page_out(0, 7)?;
    assert_eq!(used(&b, 0, pages(0, 8)), [page(3), page(4), page(6), page(7)]);
    drop(file);
    b.finish()
}
