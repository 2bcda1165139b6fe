//! Patch site `move_ptes`: mremap.

use crate::Outcome;
use crate::bench::{Bench, SMALL, bytes};
use crate::devices::DISK;
use crate::scenario::Scenario;
use mm::{Remap, Spared, VmaKind};
use tests::lab::{Notice, Verdict, page, pages};

impl Bench {
    /// mremap to a page of the arena.
    fn moves(&self, id: usize, from: u64, count: u64, to: u64) -> Outcome {
        let there = Remap::Fixed(page(to));
        self.does(id, "mremap", |space| space.mremap(page(from), bytes(count), bytes(count), there))
    }
}

pub(crate) const MOVE: Scenario = Scenario {
    name: "move_ptes: memory that a guest uses moves away and back",
    plan: SMALL,
    prepare: |b| {
        b.map_pages(0, 0, 4)?;
        b.fill(0, 0..4, 10)
    },
    act: |b| {
        b.moves(0, 0, 4, 8)?;
        b.same("a guest's load", Verdict::Unmapped, b.guest_load(0, 0))?;
        b.same("Herald's load", Verdict::Unmapped, b.load(0, 1))?;
        b.both_read(0, 8, 10)?;
        b.guest_writes(0, 9, 21)?;
        b.herald_writes(0, 10, 22)?;
        b.moves(0, 8, 4, 0)?;
        b.both_read(0, 0, 10)?;
        b.guest_reads(0, 1, 21)?;
        b.guest_reads(0, 2, 22)?;
        b.guest_writes(0, 3, 23)?;
        b.both_read(0, 3, 23)?;
        b.map_pages(0, 8, 4)?;
        b.both_read(0, 8, 0)
    },
};

/// What is mapped where the memory goes, and shared pages, swapped pages and pages of a file on the way.
pub(crate) const MOVE_ONTO: Scenario = Scenario {
    name: "move_ptes: shared and swapped pages move onto memory that a guest uses",
    plan: SMALL,
    prepare: |b| {
        b.map_pages(0, 0, 4)?;
        b.fill(0, 0..3, 10)?;
        let child = b.fork(0)?;
        b.page_out(0, 1)?;
        b.herald_writes(0, 2, 22)?;
        for space in [0, child] {
            b.both_read(space, 0, 10)?;
        }
        b.map_pages(0, 8, 4)?;
        b.fill(0, 8..12, 80)
    },
    act: |b| {
        b.moves(0, 0, 4, 8)?;
        b.guest_reads(0, 8, 10)?;
        b.guest_reads(0, 9, 11)?;
        b.guest_reads(0, 10, 22)?;
        b.guest_reads(0, 11, 0)?;
        b.guest_writes(0, 8, 30)?;
        b.herald_writes(0, 9, 31)?;
        b.both_read(1, 0, 10)?;
        b.both_read(1, 1, 11)?;
        b.both_read(1, 2, 12)?;
        b.page_out(0, 10)?;
        b.both_read(0, 10, 22)?;
        b.both_read(0, 8, 30)?;
        b.map_pages(0, 0, 4)?;
        b.both_read(0, 0, 0)
    },
};

pub(crate) const SHRINK_AND_GROW: Scenario = Scenario {
    name: "mremap: memory that a guest uses shrinks and grows where it is",
    plan: SMALL,
    prepare: |b| {
        b.map_pages(0, 0, 4)?;
        b.fill(0, 0..4, 10)
    },
    act: |b| {
        b.does(0, "mremap", |space| space.mremap(page(0), bytes(4), bytes(2), Remap::InPlace))?;
        b.same("a guest's load", Verdict::Unmapped, b.guest_load(0, 2))?;
        b.both_read(0, 1, 11)?;
        b.does(0, "mremap", |space| space.mremap(page(0), bytes(2), bytes(4), Remap::InPlace))?;
        b.both_read(0, 1, 11)?;
        b.both_read(0, 2, 0)?;
        b.guest_writes(0, 3, 23)?;
        b.herald_reads(0, 3, 23)
    },
};

/// The area of a file: reverse maps find its pages at the new place.
pub(crate) const MOVE_FILE: Scenario = Scenario {
    name: "move_ptes: a mapping of a file moves, and its pages are written back and reclaimed",
    plan: SMALL,
    prepare: |b| {
        let (file, _) = b.disk_file(4);
        b.map(0, pages(0, 4), VmaKind::Shared(file, 0))?;
        b.guest_writes(0, 0, 10)?;
        b.both_read(0, 1, DISK + 1)
    },
    act: |b| {
        b.moves(0, 0, 4, 6)?;
        b.both_read(0, 6, 10)?;
        b.guest_writes(0, 6, 20)?;
        b.does(0, "msync", |space| space.msync(page(6), bytes(4)))?;
        b.same("the disk", Verdict::Value(20), Verdict::Value(b.platter(1).word(0)))?;
        b.guest_writes(0, 6, 30)?;
        b.page_out(0, 6)?;
        b.same("the disk", Verdict::Value(30), Verdict::Value(b.platter(1).word(0)))?;
        b.both_read(0, 6, 30)?;
        b.map_pages(0, 0, 4)?;
        b.both_read(0, 0, 0)
    },
};

#[test]
fn moved_memory_is_at_its_new_place_only() -> Outcome {
    MOVE.run()
}

#[test]
fn moved_memory_replaces_what_was_there() -> Outcome {
    MOVE_ONTO.run()
}

#[test]
fn memory_that_shrank_and_grew_again_is_empty_at_its_end() -> Outcome {
    SHRINK_AND_GROW.run()
}

#[test]
fn a_moved_mapping_of_a_file_is_still_the_file() -> Outcome {
    MOVE_FILE.run()
}

#[test]
fn reclaim_finds_a_moved_page_and_asks_its_guest() -> Outcome {
    let b = Bench::new(SMALL);
    b.map_pages(0, 0, 4)?;
    b.fill(0, 0..2, 10)?;
    b.moves(0, 0, 2, 8)?;
    b.is_spared(0, 8, Spared::Young)?;
    b.guest_reads(0, 8, 10)?;
    b.is_spared(0, 8, Spared::Young)?;
    b.is_reclaimed(0, 8)?;
    b.both_read(0, 8, 10)?;
    // A second page with the same index grows where the first one came from.
    b.map_pages(0, 0, 2)?;
    b.fill(0, 0..2, 20)?;
    b.page_out(0, 8)?;
    b.page_out(0, 0)?;
    b.both_read(0, 0, 20)?;
    b.both_read(0, 8, 10)?;
    b.finish()
}

#[test]
fn memory_that_cannot_grow_in_place_moves_with_its_contents() -> Outcome {
    let b = Bench::new(SMALL);
    b.map_pages(0, 0, 6)?;
    b.fill(0, 0..3, 10)?;
    b.page_out(0, 1)?;
    b.answers(0, "mremap", Verdict::NoRoom, |space| {
        space.mremap(page(0), bytes(3), bytes(8), Remap::InPlace)
    })?;
    b.both_read(0, 0, 10)?;
    let moved = b.space(0).space.mremap(page(0), bytes(3), bytes(8), Remap::MayMove).expect("room elsewhere");
    b.check()?;
    b.same("a guest's load", Verdict::Unmapped, b.guest_load(0, 0))?;
    b.does(0, "mremap", |space| space.mremap(moved, bytes(8), bytes(8), Remap::Fixed(page(8))))?;
    for (index, value) in [(8, 10), (9, 11), (10, 12), (15, 0)] {
        b.both_read(0, index, value)?;
    }
    b.finish()
}

#[test]
fn a_part_of_an_area_moves_and_the_rest_stays() -> Outcome {
    let b = Bench::new(SMALL);
    b.map_pages(0, 0, 6)?;
    b.fill(0, 0..6, 10)?;
    b.moves(0, 2, 2, 8)?;
    for (index, value) in [(0, 10), (1, 11), (8, 12), (9, 13), (4, 14), (5, 15)] {
        b.both_read(0, index, value)?;
    }
    b.same("a guest's load", Verdict::Unmapped, b.guest_load(0, 2))?;
    b.answers(0, "mremap", Verdict::Hole, |space| space.mremap(page(1), bytes(4), bytes(5), Remap::MayMove))?;
    b.moves(0, 8, 2, 2)?;
    b.both_read(0, 2, 12)?;
    assert_eq!(b.space(0).space.vmas().len(), 1, "whole again");
    b.finish()
}

#[test]
fn a_move_that_finds_no_memory_leaves_all_where_it_was() -> Outcome {
    for failing in 0.. {
        let b = Bench::new(SMALL);
        b.map_pages(0, 0, 4)?;
        b.fill(0, 0..4, 10)?;
        b.page_out(0, 3)?;
        b.machine.fail_allocation_after(failing);
        let far = Remap::Fixed(page(5 << 27));
        let moved = b.space(0).space.mremap(page(0), bytes(4), bytes(4), far);
        let done = b.machine.cancel_failure();
        assert_eq!(moved.is_ok(), done, "allocation {failing}");
        b.check()?;
        let log = std::sync::Arc::clone(&b.space(0).log);
        assert_eq!(log.count(Notice::RangeBegin), log.count(Notice::RangeEnd));
        let at = if done { 5 << 27 } else { 0 };
        (0..4).try_for_each(|index| b.herald_reads(0, at + index, 10 + index))?;
        b.moves(0, at, 4, 8)?;
        (0..4).try_for_each(|index| b.both_read(0, 8 + index, 10 + index))?;
        b.finish()?;
        if done {
            assert!(failing > 2, "three tables: {failing}");
            return Ok(());
        }
    }
    Ok(())
}
