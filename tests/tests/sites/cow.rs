//! Patch site `do_wp_page`: copies are announced, reuse is not.

use crate::Outcome;
use crate::bench::{Bench, SMALL};
use crate::scenario::Scenario;
use addr::PageSize;
use mm::{Host, Protection, VmaKind};
use tests::lab::{Notice, page, pages};

/// Both guests have read the shared page, so that each has it cached when the other side copies it.
pub(crate) const COPY: Scenario = Scenario {
    name: "do_wp_page: a page that guests have cached is copied",
    plan: SMALL,
    prepare: |b| {
        b.map_pages(0, 0, 4)?;
        b.fill(0, 0..4, 10)?;
        let child = b.fork(0)?;
        (0..4).try_for_each(|index| {
            b.both_read(0, index, 10 + index)?;
            b.both_read(child, index, 10 + index)
        })
    },
    act: |b| {
        b.herald_writes(0, 0, 20)?;
        b.guest_reads(0, 0, 20)?;
        b.guest_writes(0, 1, 21)?;
        b.herald_reads(0, 1, 21)?;
        b.guest_writes(1, 2, 22)?;
        b.herald_writes(1, 3, 23)?;
        b.guest_reads(1, 3, 23)?;
        b.both_read(0, 2, 12)?;
        b.both_read(0, 3, 13)?;
        b.both_read(1, 0, 10)
    },
};

/// Untouched memory reads as one page of zeros, which everybody shares.
pub(crate) const ZERO_PAGE: Scenario = Scenario {
    name: "do_wp_page: the zero page makes room for a real one",
    plan: SMALL,
    prepare: |b| {
        b.map_pages(0, 0, 4)?;
        (0..4).try_for_each(|index| b.both_read(0, index, 0))
    },
    act: |b| {
        assert_eq!(b.frame(0, 0), Some(b.mm.zero_page()));
        b.herald_writes(0, 0, 5)?;
        b.guest_reads(0, 0, 5)?;
        b.guest_writes(0, 1, 6)?;
        b.herald_reads(0, 1, 6)?;
        b.both_read(0, 2, 0)
    },
};

/// A write to a private mapping of a file is nobody else's business.
pub(crate) const PRIVATE_FILE: Scenario = Scenario {
    name: "do_wp_page: a private page of a file is copied",
    plan: SMALL,
    prepare: |b| {
        let (file, _) = b.disk_file(4);
        b.map(0, pages(0, 4), VmaKind::Private(file, 0))?;
        (0..4).try_for_each(|index| b.both_read(0, index, crate::devices::DISK + index))
    },
    act: |b| {
        b.herald_writes(0, 0, 5)?;
        b.guest_reads(0, 0, 5)?;
        b.guest_writes(0, 1, 6)?;
        b.both_read(0, 1, 6)?;
        b.both_read(0, 2, crate::devices::DISK + 2)
    },
};

#[test]
fn a_guest_reads_the_copy_and_the_other_side_the_original() -> Outcome {
    COPY.run()
}

#[test]
fn a_guest_that_has_read_zeros_reads_what_herald_writes_there() -> Outcome {
    ZERO_PAGE.run()
}

#[test]
fn a_private_page_of_a_file_is_copied_before_it_is_written() -> Outcome {
    PRIVATE_FILE.run()
}

#[test]
fn the_last_owner_of_a_page_writes_to_it_without_a_notice() -> Outcome {
    let b = Bench::new(SMALL);
    b.map_pages(0, 0, 2)?;
    b.fill(0, 0..2, 10)?;
    let child = b.fork(0)?;
    b.end_space(child)?;
    b.both_read(0, 0, 10)?;
    let (frame, calls) = (b.frame(0, 0), b.space(0).log.calls().len());
    b.herald_writes(0, 0, 20)?;
    b.guest_reads(0, 0, 20)?;
    assert_eq!(b.frame(0, 0), frame, "copied for nobody");
    assert_eq!(b.space(0).log.calls().len(), calls);
    b.finish()
}

/// CVE-2020-29374: the child holds on to the page; what the parent writes later is not for its eyes.
#[test]
fn a_page_that_somebody_holds_on_to_is_copied_and_not_reused() -> Outcome {
    let b = Bench::new(SMALL);
    b.map_pages(0, 0, 2)?;
    b.fill(0, 0..1, 10)?;
    let child = b.fork(0)?;
    let frame = b.frame(child, 0).expect("a shared frame");
    let pinned = b.machine.frames().meta(frame);
    pinned.get();
    b.end_space(child).expect_err("the oracle counts the pin");
    b.machine.exit(mm::CpuIndex(0));
    b.space(0).space.fault_in(page(0), mm::Access::Write).expect("a copy");
    assert_ne!(b.frame(0, 0), Some(frame), "the pinned frame was reused");
    assert_eq!(b.machine.peek(frame, 0), 10);
    Ok(())
}

#[test]
fn a_page_in_the_swap_cache_is_copied_and_not_reused() -> Outcome {
    let b = Bench::new(SMALL);
    b.map_pages(0, 0, 2)?;
    b.fill(0, 0..1, 10)?;
    let child = b.fork(0)?;
    b.page_out(0, 0)?;
    // Back in the parent only: the child still names the slot, which has the same contents as the frame.
    b.both_read(0, 0, 10)?;
    let frame = b.frame(0, 0);
    b.guest_writes(0, 0, 20)?;
    assert_ne!(b.frame(0, 0), frame);
    b.both_read(child, 0, 10)?;
    b.both_read(0, 0, 20)?;
    b.finish()
}

/// A notice for each page that is copied, and none for one that is not.
#[test]
fn only_what_is_copied_is_announced() -> Outcome {
    let b = Bench::new(SMALL);
    b.map(0, pages(0, 2), VmaKind::Anonymous(PageSize::Size4K))?;
    b.fill(0, 0..2, 10)?;
    b.does(0, "mprotect", |space| space.mprotect(page(0), 0x2000, Protection::Read))?;
    b.does(0, "mprotect", |space| space.mprotect(page(0), 0x2000, Protection::ReadWrite))?;
    b.guest_writes(0, 0, 20)?;
    assert_eq!(b.space(0).log.count(Notice::InvalidatePage), 0);
    let child = b.fork(0)?;
    b.guest_reads(0, 1, 11)?;
    b.herald_writes(0, 1, 21)?;
    assert_eq!(b.space(0).log.count(Notice::InvalidatePage), 1);
    b.both_read(child, 1, 11)?;
    b.finish()
}
