//! Sites `write_protect_page` and `replace_page` of merging: equal pages of two spaces become one, and part again.

use crate::Outcome;
use crate::bench::{Bench, Plan, SMALL, bytes};
use crate::races::{finish, meanwhile};
use crate::scenario::Scenario;
use mm::{Advice, FrameMemory, Host, Protection, Spared, sampled_word};
use paging::FlushScope;
use std::sync::Arc;
use tests::lab::{Notice, page};
use tests::machine::Event;

/// Passes that find what is equal: one notes the checksums, one merges.
const PASSES: u64 = 2;

/// Equal pages in two spaces: page 0 equals page 0, the others differ; page 2 of the first has zeros.
fn two_spaces(b: &Bench) -> Outcome {
    b.add_space();
    for id in 0..2 {
        b.map_pages(id, 0, 4)?;
        b.does(id, "MADV_MERGEABLE", |space| space.madvise(page(0), bytes(4), Advice::Mergeable))?;
        b.fill(id, 0..2, 10)?;
    }
    b.guest_writes(1, 1, 99)?;
    b.guest_writes(0, 2, 0)
}

/// Both guests go on with what they have cached.
pub(crate) const MERGE: Scenario = Scenario {
    name: "merge: equal pages become one, a write parts them",
    plan: SMALL,
    prepare: two_spaces,
    act: |b| {
        b.merge_all()?;
        assert!(b.frame(0, 0).is_some() && b.frame(0, 0) == b.frame(1, 0), "equal pages are one");
        assert_eq!(b.frame(0, 2), Some(b.mm.zero_page()));
        b.guest_writes(0, 0, 20)?;
        b.both_read(1, 0, 10)?;
        b.guest_writes(1, 0, 30)?;
        b.both_read(0, 0, 20)?;
        b.both_read(1, 0, 30)?;
        b.guest_writes(0, 2, 22)?;
        b.both_read(0, 2, 22)?;
        b.both_read(0, 1, 11)?;
        b.both_read(1, 1, 99)
    },
};

/// Herald's own stores part them too.
pub(crate) const HERALD_WRITES: Scenario = Scenario {
    name: "merge: what Herald writes parts them",
    plan: SMALL,
    prepare: two_spaces,
    act: |b| {
        b.merge_all()?;
        b.herald_writes(1, 0, 30)?;
        b.both_read(0, 0, 10)?;
        b.herald_writes(0, 0, 20)?;
        b.both_read(1, 0, 30)?;
        b.herald_writes(0, 2, 22)?;
        b.guest_reads(0, 2, 22)
    },
};

impl Bench {
    /// Whole passes, each followed by the oracle.
    pub(crate) fn merge_all(&self) -> Outcome {
        let goal = self.mm.merge_counts().passes + PASSES;
        while self.mm.merge_counts().passes < goal {
            self.mm.merge(1);
            self.check()?;
        }
        Ok(())
    }

    /// Two spaces whose first pages are one frame.
    pub(crate) fn merged(plan: Plan) -> Result<Self, tests::Violation> {
        let b = Self::new(plan);
        two_spaces(&b)?;
        b.merge_all()?;
        assert!(b.frame(0, 0).is_some() && b.frame(0, 0) == b.frame(1, 0), "equal pages are one");
        Ok(b)
    }
}

#[test]
fn equal_pages_of_two_guests_become_one_and_part_when_either_writes() -> Outcome {
    MERGE.run()
}

#[test]
fn herald_writes_to_one_of_two_merged_pages_and_the_other_stays() -> Outcome {
    HERALD_WRITES.run()
}

#[test]
fn what_merging_has_come_to_is_counted() -> Outcome {
    let b = Bench::merged(SMALL)?;
    let counts = b.mm.merge_counts();
    assert_eq!((counts.merged, counts.zero, counts.shared, counts.sharing), (1, 1, 1, 2));
    b.guest_writes(0, 0, 20)?;
    let counts = b.mm.merge_counts();
    assert_eq!((counts.shared, counts.sharing), (1, 1));
    b.guest_writes(1, 0, 20)?;
    assert_eq!(b.mm.merge_counts().shared, 0);
    b.finish()
}

#[test]
fn a_page_that_changes_is_left_alone() -> Outcome {
    let b = Bench::new(SMALL);
    two_spaces(&b)?;
    for value in 40..44 {
        (0..2).try_for_each(|id| b.guest_writes(id, 0, value))?;
        b.mm.merge(u64::MAX);
        b.check()?;
        assert_ne!(b.frame(0, 0), b.frame(1, 0));
    }
    assert_eq!(b.mm.merge_counts().merged, 0);
    b.finish()
}

#[test]
fn who_has_not_asked_for_it_is_not_merged() -> Outcome {
    let b = Bench::new(SMALL);
    two_spaces(&b)?;
    b.does(1, "MADV_UNMERGEABLE", |space| space.madvise(page(0), bytes(4), Advice::Unmergeable))?;
    b.merge_all()?;
    assert_ne!(b.frame(0, 0), b.frame(1, 0));
    b.finish()
}

#[test]
fn who_does_not_ask_for_it_any_more_has_his_own_pages_again() -> Outcome {
    let b = Bench::merged(SMALL)?;
    let frame = b.frame(0, 0);
    b.does(1, "MADV_UNMERGEABLE", |space| space.madvise(page(0), bytes(4), Advice::Unmergeable))?;
    assert_eq!(b.frame(0, 0), frame);
    assert!(b.frame(1, 0).is_some() && b.frame(1, 0) != frame, "parted");
    b.merge_all()?;
    assert_ne!(b.frame(0, 0), b.frame(1, 0));
    b.guest_writes(1, 0, 30)?;
    b.both_read(0, 0, 10)?;
    b.both_read(1, 0, 30)?;
    b.finish()
}

/// What a write fault would be refused for stays as it is.
#[test]
fn pages_that_cannot_part_stay_merged_and_whole() -> Outcome {
    let b = Bench::merged(SMALL)?;
    b.does(1, "mprotect", |space| space.mprotect(page(0), bytes(4), Protection::Read))?;
    b.does(1, "MADV_UNMERGEABLE", |space| space.madvise(page(0), bytes(4), Advice::Unmergeable))?;
    assert_eq!(b.frame(0, 0), b.frame(1, 0));
    b.guest_writes(0, 0, 20)?;
    b.both_read(1, 0, 10)?;
    b.finish()
}

/// A transfer that is under way goes into the page that its owner sees (CVE-2020-29374 from the other side).
#[test]
fn a_page_that_somebody_holds_is_not_merged() -> Outcome {
    for id in 0..2 {
        let b = Bench::new(SMALL);
        two_spaces(&b)?;
        let frame = b.frame(id, 0).expect("a frame");
        let meta = b.machine.frames().meta(frame);
        meta.get();
        (0..3).for_each(|_| _ = b.mm.merge(u64::MAX));
        assert_ne!(b.frame(0, 0), b.frame(1, 0), "merged under a transfer");
        assert!(!meta.put());
        b.check()?;
        b.finish()?;
    }
    Ok(())
}

/// At an event of merging the writer's guest stores by what it has cached; the other one keeps what it had.
fn written_meanwhile(
    b: Arc<Bench>,
    event: impl Fn(Event) -> bool + Send + 'static,
    (writer, reader): (usize, usize),
) -> Outcome {
    meanwhile(&b, event, move |b| {
        let space = b.space(writer);
        b.machine.guest_store(space.guest_cpu, tests::lab::gpage(0), 77).expect("a cached translation");
    });
    (0..2).for_each(|_| _ = b.mm.merge(u64::MAX));
    b.machine.clear_hook();
    b.check()?;
    b.both_read(writer, 0, 77)?;
    b.both_read(reader, 0, 10)?;
    finish(b)
}

/// A guest that has the page cached writes when merging has looked, and not yet taken the page away.
#[test]
fn what_is_written_when_a_page_is_about_to_merge_is_kept() -> Outcome {
    for (writer, reader) in [(0, 1), (1, 0)] {
        let b = Arc::new(Bench::new(SMALL));
        two_spaces(&b)?;
        b.mm.merge(u64::MAX);
        let root = b.space(writer).space.root();
        let of_writer =
            move |event| matches!(event, Event::Request(FlushScope::Primary { root: of, .. }) if of == root);
        written_meanwhile(b, of_writer, (writer, reader))?;
    }
    Ok(())
}

/// The same when the guest's entry has gone, and its CPU still has what it has cached: nothing else may be there yet (I8).
#[test]
fn what_is_written_when_a_guest_is_about_to_lose_a_page_is_kept() -> Outcome {
    for (writer, reader) in [(0, 1), (1, 0)] {
        let b = Arc::new(Bench::new(SMALL));
        two_spaces(&b)?;
        // Else its zeros would be the first page that a guest loses.
        b.guest_writes(0, 2, 55)?;
        b.guest_writes(writer, 0, 10)?;
        b.mm.merge(u64::MAX);
        let root = b.space(writer).mmu.root().expect("a root");
        let of_writer = move |event| event == Event::Request(FlushScope::Secondary { root });
        written_meanwhile(b, of_writer, (writer, reader))?;
    }
    Ok(())
}

#[test]
fn a_merged_page_goes_to_swap_out_of_both_and_comes_back_for_each() -> Outcome {
    let b = Bench::merged(SMALL)?;
    b.page_out(1, 0)?;
    assert_eq!((b.frame(0, 0), b.frame(1, 0)), (None, None));
    b.guest_reads(1, 0, 10)?;
    b.check()?;
    b.both_read(0, 0, 10)?;
    b.guest_writes(0, 0, 20)?;
    b.both_read(1, 0, 10)?;
    b.guest_writes(1, 0, 30)?;
    b.both_read(0, 0, 20)?;
    b.finish()
}

#[test]
fn a_merged_page_that_went_to_swap_can_go_again_from_each() -> Outcome {
    let b = Bench::merged(SMALL)?;
    b.page_out(0, 0)?;
    b.both_read(0, 0, 10)?;
    b.page_out(0, 0)?;
    b.both_read(1, 0, 10)?;
    b.page_out(1, 0)?;
    b.merge_all()?;
    b.both_read(0, 0, 10)?;
    b.both_read(1, 0, 10)?;
    b.merge_all()?;
    assert_eq!(b.frame(0, 0), b.frame(1, 0));
    b.finish()
}

/// The frame that came back for it is in the swap cache, for the sake of the other's entry, and nobody is its owner.
#[test]
fn what_came_back_for_a_guest_that_has_ended_goes_again() -> Outcome {
    let b = Bench::merged(SMALL)?;
    b.page_out(0, 0)?;
    b.both_read(0, 0, 10)?;
    b.end_space(0)?;
    b.merge_all()?;
    assert_eq!(b.mm.swap_cached_frames().len(), 1);
    b.mm.shrink(1);
    assert_eq!(b.mm.swap_cached_frames().len(), 0);
    b.both_read(1, 0, 10)?;
    b.finish()
}

#[test]
fn a_merged_page_that_one_guest_uses_stays() -> Outcome {
    let b = Bench::merged(SMALL)?;
    // What was used before the merge counts once.
    let _ = b.reclaim(1, 0)?;
    b.guest_reads(0, 0, 10)?;
    b.guest_reads(1, 0, 10)?;
    b.is_spared(1, 0, Spared::Young)?;
    b.guest_reads(1, 0, 10)?;
    b.is_spared(1, 0, Spared::Young)?;
    b.is_reclaimed(1, 0)?;
    b.both_read(0, 0, 10)?;
    b.both_read(1, 0, 10)?;
    b.finish()
}

#[test]
fn a_child_has_its_parents_merged_pages_and_all_are_found() -> Outcome {
    let b = Bench::merged(SMALL)?;
    let child = b.fork(0)?;
    b.both_read(child, 0, 10)?;
    b.guest_writes(0, 0, 20)?;
    b.both_read(child, 0, 10)?;
    b.page_out(child, 0)?;
    assert_eq!((b.frame(child, 0), b.frame(1, 0)), (None, None));
    b.both_read(1, 0, 10)?;
    b.guest_writes(child, 0, 40)?;
    b.both_read(1, 0, 10)?;
    b.both_read(0, 0, 20)?;
    b.finish()
}

#[test]
fn write_permission_that_comes_back_does_not_make_a_merged_page_writable() -> Outcome {
    let b = Bench::merged(SMALL)?;
    for protection in [Protection::None, Protection::ReadWrite] {
        b.does(0, "mprotect", |space| space.mprotect(page(0), bytes(4), protection))?;
    }
    b.guest_writes(0, 0, 20)?;
    b.both_read(1, 0, 10)?;
    b.does(1, "discard", |space| space.discard(page(0), bytes(1)))?;
    b.both_read(1, 0, 0)?;
    b.finish()
}

#[test]
fn a_page_has_no_more_sharers_than_it_may() -> Outcome {
    let count = mm::MOST_SHARERS as u64 + 8;
    let b = Bench::new(Plan { ram: count, ..SMALL });
    b.map_pages(0, 0, count)?;
    b.does(0, "MADV_MERGEABLE", |space| space.madvise(page(0), bytes(count), Advice::Mergeable))?;
    for index in 0..count {
        b.same("Herald's store", tests::lab::Verdict::Done, b.store(0, index, 7))?;
    }
    let goal = b.mm.merge_counts().passes + PASSES;
    while b.mm.merge_counts().passes < goal {
        b.mm.merge(u64::MAX);
    }
    b.check()?;
    let counts = b.mm.merge_counts();
    assert_eq!((counts.shared, counts.sharing), (2, count));
    b.guest_reads(0, count - 1, 7)?;
    b.page_out(0, 0)?;
    b.finish()
}

/// Pages of one checksum that are not equal are compared, and left alone: nobody loses an entry for them, or the right to write.
#[test]
fn pages_that_only_look_equal_are_left_alone() -> Outcome {
    const PAGES: u64 = 64;
    // As `mm/src/merge/contents.rs` adds up words: after the second one of the sample the sum is the same.
    const FACTOR: u64 = 0x517c_c1b7_2722_0a95;
    let second = |first: u64| first.wrapping_mul(FACTOR).rotate_left(5) ^ 1;
    let b = Bench::new(Plan { ram: PAGES, ..SMALL });
    b.map_pages(0, 0, PAGES)?;
    b.does(0, "MADV_MERGEABLE", |space| space.madvise(page(0), bytes(PAGES), Advice::Mergeable))?;
    let space = b.space(0);
    let store = |index: u64, word: u16, value: u64| {
        let stored = b.machine.store_linear(space.herald_cpu, page(index).add(u64::from(word) * 8), value);
        stored.expect("it is mapped, writable");
    };
    for index in 0..PAGES / 2 {
        b.herald_writes(0, index, 1 + index)?;
        store(index, sampled_word(1), second(1 + index));
    }
    // The others differ in a word only that is not in the sample.
    for index in PAGES / 2..PAGES {
        b.herald_writes(0, index, 1)?;
        store(index, sampled_word(1) + 1, 1 + index);
    }
    let before = space.log.count(Notice::InvalidatePage);
    b.merge_all()?;
    let counts = b.mm.merge_counts();
    assert_eq!((counts.merged, counts.shared, counts.changed), (0, 0, PAGES), "they look equal, and are not");
    assert_eq!(space.log.count(Notice::InvalidatePage), before, "entries were cleared, to compare");
    drop(space);
    b.finish()
}

/// Two pages that differ only where no sample looks, twice: each merges with its like.
#[test]
fn pages_that_look_alike_merge_with_their_likes() -> Outcome {
    let b = Bench::new(SMALL);
    b.add_space();
    for id in 0..2 {
        b.map_pages(id, 0, 2)?;
        b.does(id, "MADV_MERGEABLE", |space| space.madvise(page(0), bytes(2), Advice::Mergeable))?;
        for index in 0..2 {
            b.herald_writes(id, index, 7)?;
            let word = page(index).add(u64::from(sampled_word(1) + 1) * 8);
            let stored = b.machine.store_linear(b.space(id).herald_cpu, word, 1 + index);
            stored.expect("it is mapped, writable");
        }
    }
    b.merge_all()?;
    for index in 0..2 {
        assert!(b.frame(0, index).is_some() && b.frame(0, index) == b.frame(1, index), "page {index}");
    }
    assert_ne!(b.frame(0, 0), b.frame(0, 1), "they differ");
    b.finish()
}

/// A page of zeros but for a word that no sample has is no page of zeros, and merges with its like.
#[test]
fn a_word_anywhere_is_seen_where_all_else_is_zero() -> Outcome {
    let b = Bench::new(SMALL);
    two_spaces(&b)?;
    for id in 0..2 {
        b.herald_writes(id, 3, 0)?;
        let stored = b.machine.store_linear(b.space(id).herald_cpu, page(3).add(8), 5);
        stored.expect("it is mapped, writable");
    }
    b.merge_all()?;
    assert!(b.frame(0, 3).is_some() && b.frame(0, 3) == b.frame(1, 3), "equal pages are one");
    assert_ne!(b.frame(0, 3), Some(b.mm.zero_page()));
    b.guest_writes(0, 3, 20)?;
    b.both_read(1, 3, 0)?;
    b.finish()
}

/// Checksums and comparisons against those of a second look at all words: equal pages have one sum, a word of the sample gives
/// another, and so does any word where the sample is zeros.
#[test]
fn checksums_are_of_a_sample_and_comparisons_of_all() -> Outcome {
    let b = Bench::new(SMALL);
    two_spaces(&b)?;
    let frames = [0, 1].map(|id| {
        let space = b.space(id);
        space.space.fault_in(page(3), mm::Access::Write).expect("memory");
        b.frame(id, 3).expect("is mapped")
    });
    let store = |id: usize, word: u16, value: u64| {
        let at = page(3).add(u64::from(word) * 8);
        b.machine.store_linear(b.space(id).herald_cpu, at, value).expect("it is mapped, writable");
    };
    let is_sampled = |word: u16| sampled_word(word / 8) == word;
    let mut random = tests::random::Random(7);
    for first in [0, 11] {
        // The word that the sample begins with.
        [0, 1].into_iter().for_each(|id| store(id, sampled_word(0), first));
        for word in (1..512).filter(|_| random.below(8) == 0) {
            store(0, word, 5);
            let [sums, equal] = [
                b.machine.checksum(frames[0]) == b.machine.checksum(frames[1]),
                b.machine.equal(frames[0], frames[1]),
            ];
            let is_seen = is_sampled(word) || first == 0;
            assert_eq!((sums, equal), (!is_seen, false), "word {word}, behind {first}");
            store(1, word, 5);
            assert_eq!(b.machine.checksum(frames[0]), b.machine.checksum(frames[1]), "word {word}");
            assert!(b.machine.equal(frames[0], frames[1]), "word {word}");
            [0, 1].into_iter().for_each(|id| store(id, word, 0));
        }
    }
    b.finish()
}

/// Guests with more pages than there are candidates, one for eight frames, most without an equal: each class of them has its turn.
#[test]
fn guests_larger_than_what_is_remembered_merge_all_the_same() -> Outcome {
    const PAGES: u64 = 300;
    const EQUAL: u64 = 100;
    let b = Bench::new(Plan { frames: 1024, ram: PAGES, ..SMALL });
    b.add_space();
    for id in 0..2 {
        b.map_pages(id, 0, PAGES)?;
        b.does(id, "MADV_MERGEABLE", |space| space.madvise(page(0), bytes(PAGES), Advice::Mergeable))?;
        for index in 0..PAGES {
            let own = if index < PAGES - EQUAL { id as u64 * PAGES } else { 0 };
            b.same("Herald's store", tests::lab::Verdict::Done, b.store(id, index, 1 + index + own))?;
        }
    }
    // The first notes checksums, the second learns how many there are; then each of eight classes has its turn, twice.
    let goal = b.mm.merge_counts().passes + PASSES + 16;
    while b.mm.merge_counts().passes < goal {
        b.mm.merge(u64::MAX);
    }
    let counts = b.mm.merge_counts();
    assert_eq!((counts.merged, counts.sharing), (EQUAL, 2 * EQUAL), "{counts:?}");
    b.finish()
}
