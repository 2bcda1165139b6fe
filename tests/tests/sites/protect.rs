//! Patch site `mprotect_fixup`, and migration, which the patch has no word for.

use crate::Outcome;
use crate::bench::{Bench, LARGE, SMALL, bytes};
use crate::devices::DISK;
use crate::scenario::Scenario;
use addr::PageSize;
use mm::{Protection, VmaKind};
use tests::lab::{Verdict, page, pages};

pub(crate) const PROTECT: Scenario = Scenario {
    name: "mprotect_fixup: memory that a guest writes becomes read-only, and nothing",
    plan: SMALL,
    prepare: |b| {
        b.map_pages(0, 0, 4)?;
        b.fill(0, 0..4, 10)
    },
    act: |b| {
        b.does(0, "mprotect", |space| space.mprotect(page(0), bytes(2), Protection::Read))?;
        b.same("a guest's store", Verdict::Denied, b.guest_store(0, 0, 1))?;
        b.same("Herald's store", Verdict::Denied, b.store(0, 1, 1))?;
        b.both_read(0, 0, 10)?;
        b.does(0, "mprotect", |space| space.mprotect(page(1), bytes(2), Protection::None))?;
        b.same("a guest's load", Verdict::Denied, b.guest_load(0, 1))?;
        b.same("Herald's load", Verdict::Denied, b.load(0, 2))?;
        b.does(0, "mprotect", |space| space.mprotect(page(0), bytes(4), Protection::ReadWrite))?;
        b.guest_writes(0, 0, 20)?;
        b.both_read(0, 1, 11)
    },
};

/// Two huge pages, one of which changes.
pub(crate) const PROTECT_HUGE: Scenario = Scenario {
    name: "mprotect_fixup: a hugetlb page becomes read-only",
    plan: LARGE,
    prepare: |b| {
        b.map(0, pages(0, 1024), VmaKind::Anonymous(PageSize::Size2M))?;
        b.fill(0, 3..5, 10)?;
        b.fill(0, 600..601, 10)
    },
    act: |b| {
        b.does(0, "mprotect", |space| space.mprotect(page(0), bytes(512), Protection::Read))?;
        b.same("a guest's store", Verdict::Denied, b.guest_store(0, 3, 1))?;
        b.both_read(0, 4, 14)?;
        b.guest_writes(0, 600, 20)?;
        b.does(0, "mprotect", |space| space.mprotect(page(0), bytes(512), Protection::ReadWrite))?;
        b.guest_writes(0, 3, 30)?;
        b.both_read(0, 3, 30)
    },
};

pub(crate) const MIGRATE: Scenario = Scenario {
    name: "migration: a page moves to another frame under its guest",
    plan: SMALL,
    prepare: |b| {
        b.map_pages(0, 0, 4)?;
        b.fill(0, 0..2, 10)
    },
    act: |b| {
        let before = b.frame(0, 0);
        b.does(0, "migrate", |space| space.migrate_page(page(0)))?;
        assert_ne!(b.frame(0, 0), before);
        b.both_read(0, 0, 10)?;
        b.guest_writes(0, 0, 20)?;
        b.herald_reads(0, 0, 20)
    },
};

#[test]
fn a_guest_may_only_what_the_area_allows() -> Outcome {
    PROTECT.run()
}

#[test]
fn a_huge_page_is_protected_whole_and_its_neighbour_is_not() -> Outcome {
    PROTECT_HUGE.run()
}

#[test]
fn a_migrated_page_has_its_contents_in_its_new_frame() -> Outcome {
    MIGRATE.run()
}

#[test]
fn pages_that_others_have_do_not_migrate() -> Outcome {
    let b = Bench::new(SMALL);
    let (file, _) = b.disk_file(2);
    b.map_pages(0, 0, 2)?;
    b.map(0, pages(4, 2), VmaKind::Shared(file, 0))?;
    b.fill(0, 0..1, 10)?;
    b.both_read(0, 4, DISK)?;
    b.both_read(0, 1, 0)?;
    let child = b.fork(0)?;
    for index in [0, 1, 4] {
        b.answers(0, "migrate", Verdict::Shared, |space| space.migrate_page(page(index)))?;
    }
    b.end_space(child)?;
    b.guest_writes(0, 0, 20)?;
    b.does(0, "migrate", |space| space.migrate_page(page(0)))?;
    b.both_read(0, 0, 20)?;
    b.finish()
}

#[test]
fn a_migrated_page_is_found_by_reclaim() -> Outcome {
    let b = Bench::new(SMALL);
    b.map_pages(0, 0, 2)?;
    b.fill(0, 0..1, 10)?;
    b.does(0, "migrate", |space| space.migrate_page(page(0)))?;
    b.page_out(0, 0)?;
    b.both_read(0, 0, 10)?;
    b.finish()
}
