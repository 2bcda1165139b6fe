//! Patch sites `sys_remap_file_pages` and `try_to_unmap_cluster`: non-linear mappings of files.

use crate::Outcome;
use crate::bench::{Bench, SMALL, bytes};
use crate::devices::DISK;
use crate::scenario::Scenario;
use mm::{Change, MapError, Remap, Spared, VmaKind};
use std::sync::Arc;
use tests::lab::{Verdict, page, pages};

/// A file of six pages in two spaces, its first four rearranged in space 0 if `rearranged`.
fn file_in_two_spaces(b: &Bench) -> Outcome {
    let (file, _) = b.disk_file(6);
    b.add_space();
    for space in [0, 1] {
        b.map(space, pages(0, 6), VmaKind::Shared(Arc::clone(&file), 0))?;
        (0..6).try_for_each(|index| b.both_read(space, index, DISK + index))?;
    }
    b.guest_writes(0, 3, 33)?;
    b.guest_writes(0, 0, 30)
}

/// Page 0 of the area shows page 3 of the file, page 1 page 4.
fn rearrange(b: &Bench) -> Outcome {
    b.does(0, "remap_file_pages", |space| space.remap_file_pages(page(0), bytes(2), 3))
}

fn rearranged(b: &Bench) -> Outcome {
    file_in_two_spaces(b)?;
    rearrange(b)?;
    is_rearranged(b, 0, 33)
}

/// The arrangement of [`rearrange`]; page 3 of the file starts with `third`.
fn is_rearranged(b: &Bench, space: usize, third: u64) -> Outcome {
    for (index, value) in [(0, third), (1, DISK + 4), (2, DISK + 2), (3, third), (5, DISK + 5)] {
        b.both_read(space, index, value)?;
    }
    Ok(())
}

pub(crate) const REMAP_FILE_PAGES: Scenario = Scenario {
    name: "sys_remap_file_pages: pages of a file change places under a guest",
    plan: SMALL,
    prepare: file_in_two_spaces,
    act: |b| {
        rearrange(b)?;
        is_rearranged(b, 0, 33)?;
        b.guest_writes(0, 0, 43)?;
        is_rearranged(b, 0, 43)?;
        b.both_read(1, 3, 43)?;
        b.both_read(1, 0, 30)
    },
};

/// A page that is mapped at two places of the area goes from both.
pub(crate) const RECLAIM: Scenario = Scenario {
    name: "try_to_unmap_cluster: a page of a non-linear area is reclaimed",
    plan: SMALL,
    prepare: rearranged,
    act: |b| {
        b.page_out(0, 0)?;
        for (space, index) in [(0, 0), (0, 3), (1, 3)] {
            assert_eq!(b.frame(space, index), None);
        }
        is_rearranged(b, 0, 33)?;
        b.guest_writes(0, 0, 44)?;
        is_rearranged(b, 0, 44)?;
        b.both_read(1, 3, 44)
    },
};

pub(crate) const YOUNG: Scenario = Scenario {
    name: "try_to_unmap_cluster: a page that a guest uses in a non-linear area is young",
    plan: SMALL,
    prepare: |b| {
        rearranged(b)?;
        // Out of all places; from now on it is mapped in one.
        b.page_out(0, 1)?;
        b.both_read(0, 1, DISK + 4)?;
        b.is_spared(0, 1, Spared::Young)
    },
    act: |b| {
        b.guest_reads(0, 1, DISK + 4)?;
        b.is_spared(0, 1, Spared::Young)?;
        b.is_reclaimed(0, 1)?;
        is_rearranged(b, 0, 33)
    },
};

/// Write-back finds a page where no index tells.
pub(crate) const WRITE_BACK: Scenario = Scenario {
    name: "page_mkclean_one: a page of a non-linear area is written back",
    plan: SMALL,
    prepare: |b| {
        rearranged(b)?;
        b.guest_writes(0, 1, 50)
    },
    act: |b| {
        for value in [50, 51, 52] {
            b.guest_writes(0, 1, value)?;
            b.does(0, "msync", |space| space.msync(page(0), bytes(6)))?;
            b.same("the disk", Verdict::Value(value), Verdict::Value(b.platter(1).word(4)))?;
        }
        Ok(())
    },
};

#[test]
fn rearranged_pages_show_through_every_path() -> Outcome {
    REMAP_FILE_PAGES.run()
}

#[test]
fn a_reclaimed_page_comes_back_to_its_places_in_a_non_linear_area() -> Outcome {
    RECLAIM.run()
}

#[test]
fn a_page_of_a_non_linear_area_that_the_guest_uses_is_spared_once() -> Outcome {
    YOUNG.run()
}

#[test]
fn what_a_guest_writes_to_a_non_linear_area_reaches_the_disk() -> Outcome {
    WRITE_BACK.run()
}

#[test]
fn discarding_keeps_the_arrangement() -> Outcome {
    let b = Bench::new(SMALL);
    rearranged(&b)?;
    b.does(0, "discard", |space| space.discard(page(0), bytes(6)))?;
    is_rearranged(&b, 0, 33)?;
    b.does(0, "apply_to_page_range", |space| {
        space.apply_to_page_range(page(0), bytes(6), |_, _| Ok::<_, MapError>(Change::Unmap))
    })?;
    is_rearranged(&b, 0, 33)?;
    b.finish()
}

#[test]
fn a_child_has_the_same_arrangement() -> Outcome {
    let b = Bench::new(SMALL);
    rearranged(&b)?;
    b.page_out(0, 1)?;
    let child = b.fork(0)?;
    is_rearranged(&b, child, 33)?;
    b.guest_writes(child, 0, 44)?;
    is_rearranged(&b, 0, 44)?;
    b.finish()
}

#[test]
fn a_moved_area_keeps_its_arrangement() -> Outcome {
    let b = Bench::new(SMALL);
    rearranged(&b)?;
    b.page_out(0, 1)?;
    let there = Remap::Fixed(page(8));
    b.does(0, "mremap", |space| space.mremap(page(0), bytes(6), bytes(6), there))?;
    b.both_read(0, 8, 33)?;
    b.both_read(0, 9, DISK + 4)?;
    b.page_out(0, 8)?;
    b.both_read(0, 8, 33)?;
    b.finish()
}

#[test]
fn what_lies_behind_a_new_end_is_refused_where_it_was_put() -> Outcome {
    let b = Bench::new(SMALL);
    rearranged(&b)?;
    b.page_out(0, 1)?;
    b.mm.truncate(&b.file(0), 3);
    b.check()?;
    for index in [0, 1, 3, 5] {
        b.same("a guest's load", Verdict::BeyondEnd, b.guest_load(0, index))?;
    }
    b.both_read(0, 2, DISK + 2)?;
    b.mm.truncate(&b.file(0), 6);
    // Page 4 of the file: it is there again, and what the store had is not.
    b.both_read(0, 1, 0)?;
    b.finish()
}

#[test]
fn only_shared_mappings_of_cached_files_are_rearranged() -> Outcome {
    let b = Bench::new(SMALL);
    let (file, _) = b.disk_file(4);
    b.map(0, pages(0, 4), VmaKind::Private(file, 0))?;
    b.map_pages(0, 4, 2)?;
    b.map(0, pages(8, 4), VmaKind::Shared(b.xip_file(4), 0))?;
    for first in [0, 4, 8] {
        let rearrange = |space: &mm::AddressSpace<_>| space.remap_file_pages(page(first), bytes(1), 2);
        b.answers(0, "remap_file_pages", Verdict::NotShared, rearrange)?;
    }
    b.finish()
}
