//! Patch site `__unmap_hugepage_range`, and what v8 did not announce: hugetlb pages that fork shares and writes copy.

use crate::Outcome;
use crate::bench::{Bench, LARGE, Plan, bytes};
use crate::scenario::Scenario;
use addr::PageSize;
use mm::{Advice, Protection, Remap, VmaKind};
use tests::lab::{Notice, Verdict, page, pages};

fn huge(size: PageSize) -> VmaKind<tests::machine::Machine> {
    VmaKind::Anonymous(size)
}

/// Two pages of 2 MiB, some words of which guest and Herald have written.
fn two_pages(b: &Bench) -> Outcome {
    b.map(0, pages(0, 1024), huge(PageSize::Size2M))?;
    b.fill(0, 0..2, 10)?;
    b.fill(0, 511..514, 10)
}

pub(crate) const UNMAP: Scenario = Scenario {
    name: "__unmap_hugepage_range: a hugetlb page is unmapped, and mapped again",
    plan: LARGE,
    prepare: two_pages,
    act: |b| {
        b.does(0, "munmap", |space| space.munmap(page(0), bytes(512)))?;
        b.same("a guest's load", Verdict::Unmapped, b.guest_load(0, 1))?;
        b.both_read(0, 512, 522)?;
        b.map(0, pages(0, 512), huge(PageSize::Size2M))?;
        b.guest_reads(0, 1, 0)?;
        b.herald_reads(0, 511, 0)
    },
};

pub(crate) const DISCARD: Scenario = Scenario {
    name: "__unmap_hugepage_range: a hugetlb page is discarded",
    plan: LARGE,
    prepare: two_pages,
    act: |b| {
        b.does(0, "discard", |space| space.discard(page(512), bytes(512)))?;
        b.guest_reads(0, 512, 0)?;
        b.herald_reads(0, 513, 0)?;
        b.both_read(0, 511, 521)
    },
};

/// v8 did not tell: the guest went on writing to what it shared with the child.
pub(crate) const FORK: Scenario = Scenario {
    name: "copy_page_range: fork of hugetlb pages",
    plan: LARGE,
    prepare: two_pages,
    act: |b| {
        let child = b.fork(0)?;
        b.guest_writes(0, 0, 20)?;
        b.both_read(child, 0, 10)?;
        b.both_read(child, 1, 11)?;
        b.herald_writes(child, 512, 30)?;
        b.both_read(0, 512, 522)?;
        b.both_read(0, 0, 20)
    },
};

/// v8 did not tell: the guest went on reading the old page.
pub(crate) const COPY: Scenario = Scenario {
    name: "do_wp_page: a hugetlb page that guests have cached is copied",
    plan: LARGE,
    prepare: |b| {
        two_pages(b)?;
        let child = b.fork(0)?;
        for space in [0, child] {
            b.both_read(space, 1, 11)?;
            b.both_read(space, 512, 522)?;
        }
        Ok(())
    },
    act: |b| {
        b.herald_writes(0, 1, 21)?;
        b.guest_reads(0, 1, 21)?;
        b.guest_reads(0, 511, 521)?;
        b.guest_writes(1, 512, 32)?;
        b.herald_reads(1, 512, 32)?;
        b.both_read(1, 1, 11)?;
        b.both_read(0, 512, 522)
    },
};

#[test]
fn an_unmapped_huge_page_is_gone_and_a_new_one_is_empty() -> Outcome {
    UNMAP.run()
}

#[test]
fn a_discarded_huge_page_reads_zero() -> Outcome {
    DISCARD.run()
}

#[test]
fn what_parent_and_child_write_to_huge_pages_is_their_own() -> Outcome {
    FORK.run()
}

#[test]
fn a_guest_reads_the_copy_of_a_huge_page_that_herald_wrote() -> Outcome {
    COPY.run()
}

#[test]
fn the_last_owner_of_a_huge_page_keeps_it() -> Outcome {
    let b = Bench::new(LARGE);
    two_pages(&b)?;
    let child = b.fork(0)?;
    b.end_space(child)?;
    let frame = b.frame(0, 0);
    b.guest_writes(0, 0, 20)?;
    assert_eq!(b.frame(0, 0), frame);
    b.both_read(0, 1, 11)?;
    b.finish()
}

#[test]
fn a_huge_page_that_finds_no_frame_for_its_copy_stays_shared() -> Outcome {
    // Frames for two of the three huge pages that are wanted.
    let b = Bench::new(Plan { frames: 1536, ..LARGE });
    b.map(0, pages(0, 512), huge(PageSize::Size2M))?;
    b.fill(0, 0..1, 10)?;
    let child = b.fork(0)?;
    b.guest_writes(0, 0, 20)?;
    let second = b.fork(0)?;
    b.same("a guest's store", Verdict::OutOfMemory, b.guest_store(0, 0, 30))?;
    for (space, value) in [(0, 20), (child, 10), (second, 20)] {
        b.both_read(space, 0, value)?;
    }
    assert_eq!(b.space(0).log.count(Notice::RangeBegin), b.space(0).log.count(Notice::RangeEnd));
    b.end_space(second)?;
    b.guest_writes(0, 0, 30)?;
    b.finish()
}

#[test]
fn huge_pages_are_neither_cut_nor_moved_nor_paged_out() -> Outcome {
    let b = Bench::new(LARGE);
    two_pages(&b)?;
    let half = bytes(256);
    b.answers(0, "munmap", Verdict::BadRange, |space| space.munmap(page(0), half))?;
    b.answers(0, "mprotect", Verdict::BadRange, |space| space.mprotect(page(0), half, Protection::Read))?;
    let there = Remap::Fixed(page(2048));
    b.answers(0, "mremap", Verdict::BadRange, |space| space.mremap(page(0), bytes(512), bytes(512), there))?;
    for advice in [Advice::NoHugePage, Advice::Mergeable, Advice::Cold, Advice::PageOut] {
        b.answers(0, "madvise", Verdict::BadRange, |space| space.madvise(page(0), half, advice))?;
    }
    for advice in [Advice::Cold, Advice::PageOut] {
        let advise = |space: &mm::AddressSpace<_>| space.madvise(page(0), bytes(512), advice);
        b.answers(0, "madvise", Verdict::NotAnonymous, advise)?;
    }
    b.both_read(0, 1, 11)?;
    b.answers(0, "mlock", Verdict::BadRange, |space| space.mlock(page(0), half))?;
    b.answers(0, "munlock", Verdict::BadRange, |space| space.munlock(page(0), half))?;
    b.finish()
}

/// Few looks of the oracle: each counts a million frames.
#[test]
fn a_gigabyte_page_is_unmapped_forked_and_copied_whole() -> Outcome {
    let gigabyte = PageSize::Size1G;
    let frames = 4 * gigabyte.base_pages();
    let b = Bench::new(Plan { frames, ram: gigabyte.base_pages(), ..LARGE });
    b.map(0, pages(0, gigabyte.base_pages()), huge(gigabyte))?;
    let (first, last) = (7, gigabyte.base_pages() - 1);
    assert_eq!(b.guest_store(0, first, 10), Verdict::Done);
    assert_eq!(b.store(0, last, 11), Verdict::Done);
    assert_eq!(b.guest_load(0, last), Verdict::Value(11));
    let child = b.adopt(b.space(0).space.fork().expect("memory for a child"));
    assert_eq!(b.load(child, first), Verdict::Value(10));
    assert_eq!(b.guest_store(0, first, 20), Verdict::Done);
    assert_eq!(b.guest_load(0, last), Verdict::Value(11));
    assert_eq!(b.guest_load(child, first), Verdict::Value(10));
    b.check()?;
    b.space(0).space.discard(page(0), gigabyte.bytes()).expect("a discard");
    assert_eq!(b.guest_load(0, first), Verdict::Value(0));
    assert_eq!(b.guest_load(child, last), Verdict::Value(11));
    b.check()
}
