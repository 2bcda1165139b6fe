//! Page tables that fork shares (I18): who reads through one, who gets one of his own, and what becomes of it.

use crate::Outcome;
use crate::bench::{Bench, LARGE, SMALL, SpaceId, answer, bytes};
use addr::{HvaRange, PageSize};
use mm::{Access, Advice, Host, Protection, Remap, VmaKind};
use paging::{HostEntry, Level, TableEntry, walk_to};
use tests::lab::{Verdict, page, pages};

/// Pages of a page table.
const TABLE: u64 = 512;

impl Bench {
    /// How many entries name the table of a page; 0: it is the space's own.
    fn sharers(&self, id: SpaceId, index: u64) -> u32 {
        let root = self.space(id).space.root();
        let found = walk_to::<HostEntry, _>(&*self.machine, root, page(index).as_u64(), Level::Pd);
        let table = found.entry.next_table().filter(|_| found.entry.is_shared_table());
        table.map_or(0, |table| self.machine.frames().meta(table).shares())
    }

    fn shares_with(&self, id: SpaceId, index: u64, sharers: u32) -> Outcome {
        let found = self.sharers(id, index);
        let what = || {
            answer(&format!("sharers of space {id}, page {index}"), format!("{sharers}"), format!("{found}"))
        };
        if found == sharers { Ok(()) } else { Err(what()) }
    }

    fn counts(&self, id: SpaceId, frames: u64) -> Outcome {
        let found = self.space(id).space.resident_frames();
        let what = || answer(&format!("frames of space {id}"), format!("{frames}"), format!("{found}"));
        if found == frames { Ok(()) } else { Err(what()) }
    }
}

/// A parent with pages, and its child.
fn forked(b: &Bench) -> Result<SpaceId, tests::Violation> {
    b.map_pages(0, 0, 8)?;
    b.fill(0, 0..6, 10)?;
    b.fork(0)
}

/// What a child does to its page 0.
type Change = (&'static str, fn(&Bench, SpaceId) -> Outcome);

/// All that changes entries gets a table of its own first.
const CHANGES: [Change; 7] = [
    ("write", |b, id| b.herald_writes(id, 0, 99)),
    ("mprotect", |b, id| b.does(id, "mprotect", |space| space.mprotect(page(0), bytes(1), Protection::None))),
    ("munmap", |b, id| b.does(id, "munmap", |space| space.munmap(page(0), bytes(1)))),
    ("discard", |b, id| b.does(id, "discard", |space| space.discard(page(0), bytes(1)))),
    ("mremap", |b, id| {
        b.does(id, "mremap", |space| space.mremap(page(0), bytes(1), bytes(1), Remap::Fixed(page(64))))?;
        b.herald_reads(id, 64, 10)
    }),
    ("MADV_FREE", |b, id| b.does(id, "MADV_FREE", |space| space.madvise(page(0), bytes(8), Advice::Free))),
    ("apply", |b, id| {
        let unmap = |_, _: &paging::Leaf| Ok::<_, mm::MapError>(mm::Change::Unmap);
        b.does(id, "apply", |space| space.apply_to_page_range(page(0), bytes(1), unmap))
    }),
];

/// Nobody else sees anything of it, whoever of the two it is.
#[test]
fn what_is_done_to_a_shared_table_is_done_to_ones_own() -> Outcome {
    for (_, change) in CHANGES {
        for who in [0, 1] {
            let b = Bench::new(SMALL);
            let child = forked(&b)?;
            let other = child - who;
            b.guest_reads(other, 0, 10)?;
            change(&b, who)?;
            b.shares_with(other, 0, 1)?;
            b.both_read(other, 0, 10)?;
            b.both_read(other, 5, 15)?;
            b.guest_writes(other, 1, 21)?;
            b.herald_reads(who, 1, 11)?;
            b.finish()?;
        }
    }
    Ok(())
}

#[test]
fn readers_share_a_table_and_a_writer_gets_his_own() -> Outcome {
    let b = Bench::new(SMALL);
    let child = forked(&b)?;
    b.counts(0, 6)?;
    b.counts(child, 0)?;
    for space in [0, child] {
        b.both_read(space, 0, 10)?;
        b.shares_with(space, 0, 2)?;
    }
    let frame = b.frame(0, 1);
    b.guest_writes(child, 0, 20)?;
    b.shares_with(child, 0, 0)?;
    b.shares_with(0, 0, 1)?;
    b.counts(child, 6)?;
    b.both_read(0, 0, 10)?;
    b.herald_writes(0, 1, 21)?;
    b.shares_with(0, 0, 0)?;
    assert_ne!(b.frame(0, 1), frame, "the child has that page still");
    b.both_read(child, 1, 11)?;
    b.counts(0, 6)?;
    b.finish()
}

#[test]
fn three_share_a_table_and_the_last_has_it_back_with_its_pages() -> Outcome {
    let b = Bench::new(SMALL);
    let child = forked(&b)?;
    let grandchild = b.fork(child)?;
    let frame = b.frame(0, 0);
    for space in [0, child, grandchild] {
        b.shares_with(space, 0, 3)?;
        b.both_read(space, 0, 10)?;
    }
    b.end_space(0)?;
    b.shares_with(child, 0, 2)?;
    b.end_space(child)?;
    b.counts(grandchild, 0)?;
    b.guest_writes(grandchild, 0, 20)?;
    b.counts(grandchild, 6)?;
    assert_eq!(b.frame(grandchild, 0), frame, "copied for nobody");
    b.both_read(grandchild, 5, 15)?;
    b.finish()
}

/// What stands in a shared table allows less than it says: a fault maps no neighbours by it.
#[test]
fn what_lies_beside_a_page_in_a_shared_table_is_not_mapped() -> Outcome {
    let b = Bench::new(SMALL);
    b.map_pages(0, 0, 4)?;
    b.fill(0, 0..4, 10)?;
    let child = b.fork(0)?;
    b.guest_reads(0, 0, 10)?;
    assert_eq!(b.space(0).mmu.stats().snapshot().mapped_around, 0);
    b.check()?;
    b.guest_writes(0, 1, 21)?;
    b.both_read(child, 1, 11)?;
    b.finish()
}

#[test]
fn a_space_that_has_shared_shares_again() -> Outcome {
    let b = Bench::new(SMALL);
    let child = forked(&b)?;
    b.herald_writes(0, 0, 20)?;
    b.shares_with(0, 0, 0)?;
    let second = b.fork(0)?;
    b.shares_with(0, 0, 2)?;
    b.shares_with(child, 0, 1)?;
    for (space, value) in [(0, 20), (child, 10), (second, 20)] {
        b.both_read(space, 0, value)?;
        b.herald_writes(space, 1, 30 + value)?;
    }
    for (space, value) in [(0, 50), (child, 40), (second, 50)] {
        b.both_read(space, 1, value)?;
    }
    b.finish()
}

/// The way to a table is cached by itself: it may lead nowhere but to the copy.
#[test]
fn a_cpu_forgets_the_way_to_a_table_that_is_its_own_no_more() -> Outcome {
    let b = Bench::new(SMALL);
    let child = forked(&b)?;
    b.herald_reads(child, 0, 10)?;
    b.herald_reads(0, 0, 10)?;
    b.space(child).space.fault_in(page(2), Access::Write).expect("a copy");
    b.check()?;
    b.space(0).space.fault_in(page(3), Access::Write).expect("a copy");
    b.check()?;
    b.herald_reads(child, 3, 13)?;
    b.herald_writes(0, 4, 24)?;
    b.herald_reads(child, 4, 14)?;
    b.finish()
}

#[test]
fn pages_of_a_shared_table_go_to_swap_and_come_back_to_each_who_had_them() -> Outcome {
    let b = Bench::new(SMALL);
    let child = forked(&b)?;
    let grandchild = b.fork(child)?;
    b.page_out(0, 0)?;
    for space in [0, child, grandchild] {
        b.shares_with(space, 0, 0)?;
        assert_eq!(b.space(space).space.swapped_pages().now, 1);
    }
    b.guest_writes(child, 0, 20)?;
    b.both_read(0, 0, 10)?;
    b.both_read(grandchild, 0, 10)?;
    b.finish()
}

#[test]
fn notes_in_a_shared_table_are_everybodys() -> Outcome {
    let b = Bench::new(SMALL);
    b.map_pages(0, 0, 8)?;
    b.fill(0, 0..6, 10)?;
    b.page_out(0, 0)?;
    b.page_out(0, 1)?;
    let child = b.fork(0)?;
    let grandchild = b.fork(0)?;
    b.both_read(child, 0, 10)?;
    b.end_space(0)?;
    b.both_read(grandchild, 0, 10)?;
    b.both_read(grandchild, 1, 11)?;
    b.end_space(grandchild)?;
    b.both_read(child, 1, 11)?;
    b.finish()
}

#[test]
fn a_page_whose_table_cannot_be_copied_stays() -> Outcome {
    let b = Bench::new(SMALL);
    let child = forked(&b)?;
    b.machine.fail_allocation_after(0);
    let spared = b.reclaim(0, 0)?;
    assert!(spared.is_err() && !b.machine.cancel_failure(), "{spared:?}");
    b.both_read(0, 0, 10)?;
    b.page_out(0, 0)?;
    b.both_read(child, 0, 10)?;
    b.finish()
}

/// D of a shared entry is all that tells of a write since `MADV_FREE`.
#[test]
fn what_was_written_since_it_was_freed_lazily_is_kept_where_a_table_is_copied() -> Outcome {
    let b = Bench::new(SMALL);
    b.map_pages(0, 0, 8)?;
    b.fill(0, 0..6, 10)?;
    b.does(0, "MADV_FREE", |space| space.madvise(page(0), bytes(2), Advice::Free))?;
    b.herald_writes(0, 0, 20)?;
    let child = b.fork(0)?;
    b.herald_writes(child, 5, 25)?;
    b.end_space(0)?;
    b.page_out(child, 0)?;
    b.both_read(child, 0, 20)?;
    b.finish()
}

#[test]
fn each_of_those_who_share_a_page_can_keep_it_young() -> Outcome {
    let b = Bench::new(SMALL);
    let child = forked(&b)?;
    b.mm.age_all();
    b.mm.age_all();
    b.both_read(child, 0, 10)?;
    let frame = b.frame(0, 0).expect("a page");
    assert!(b.mm.page_referenced(frame), "the child has read it");
    assert!(!b.mm.page_referenced(frame), "nobody since");
    b.shares_with(0, 0, 2)?;
    b.both_read(0, 0, 10)?;
    assert!(b.mm.page_referenced(frame), "the parent has read it");
    b.finish()
}

#[test]
fn a_table_of_two_areas_is_copied_and_one_of_an_area_in_pieces_goes_in_pieces() -> Outcome {
    let b = Bench::new(SMALL);
    b.map_pages(0, 0, 4)?;
    b.map(0, pages(8, 4), VmaKind::Anonymous(PageSize::Size4K))?;
    b.fill(0, 0..4, 10)?;
    b.fill(0, 8..12, 20)?;
    let child = b.fork(0)?;
    b.shares_with(child, 0, 0)?;
    b.does(0, "munmap", |space| space.munmap(page(8), bytes(4)))?;
    let second = b.fork(0)?;
    b.shares_with(second, 0, 2)?;
    b.does(second, "mlock", |space| space.munlock(page(1), bytes(1)))?;
    b.does(second, "discard", |space| space.discard(page(0), bytes(4)))?;
    b.both_read(second, 0, 0)?;
    b.both_read(0, 0, 10)?;
    b.finish()
}

#[test]
fn whoever_lets_go_of_a_whole_table_does_not_look_into_it() -> Outcome {
    let b = Bench::new(LARGE);
    b.map_pages(0, 0, 2 * TABLE)?;
    b.fill(0, 0..4, 10)?;
    b.fill(0, TABLE..TABLE + 4, 20)?;
    let child = b.fork(0)?;
    let whole = HvaRange::new(page(0), page(TABLE));
    b.does(child, "discard", |space| space.discard(whole.start(), whole.len()))?;
    b.shares_with(0, 0, 1)?;
    b.both_read(child, 0, 0)?;
    b.both_read(0, 0, 10)?;
    b.does(child, "munmap", |space| space.munmap(page(TABLE), bytes(TABLE)))?;
    b.shares_with(0, TABLE, 1)?;
    b.same("an area that is gone", Verdict::Unmapped, b.load(child, TABLE))?;
    b.both_read(0, TABLE, 20 + TABLE)?;
    b.counts(0, 8)?;
    b.finish()
}
