//! Patch sites `mm_init` and `copy_page_range`: fork.

use crate::Outcome;
use crate::bench::{Bench, SMALL};
use crate::scenario::Scenario;
use tests::lab::{Notice, Verdict};

/// The guest had its pages cached, writable.
pub(crate) const FORK: Scenario = Scenario {
    name: "copy_page_range: fork under a guest that writes",
    plan: SMALL,
    prepare: |b| {
        b.map_pages(0, 0, 8)?;
        b.fill(0, 0..6, 100)
    },
    act: |b| {
        let child = b.fork(0)?;
        b.guest_writes(0, 0, 900)?;
        b.both_read(child, 0, 100)?;
        b.both_read(0, 0, 900)?;
        b.herald_writes(0, 1, 901)?;
        b.both_read(child, 1, 101)?;
        b.guest_writes(child, 2, 902)?;
        b.both_read(0, 2, 102)?;
        b.herald_writes(child, 3, 903)?;
        b.both_read(0, 3, 103)?;
        b.both_read(child, 3, 903)?;
        b.both_read(child, 4, 104)
    },
};

#[test]
fn what_parent_and_child_write_after_a_fork_is_their_own() -> Outcome {
    FORK.run()
}

#[test]
fn a_child_has_no_subscriber_and_its_work_does_not_disturb_the_parents_guest() -> Outcome {
    let b = Bench::new(SMALL);
    b.map_pages(0, 0, 8)?;
    b.fill(0, 0..4, 10)?;
    let parent = b.space(0);
    let child = parent.space.fork().expect("memory for a child");
    let before = parent.log.calls().len();
    child.fault_in(tests::lab::page(1), mm::Access::Write).expect("a copy");
    child.discard(tests::lab::page(0), 0x1000).expect("a page to discard");
    child.exit();
    drop(child);
    assert_eq!(parent.log.calls().len(), before, "the parent's subscribers heard of the child");
    b.check()?;
    b.both_read(0, 1, 11)?;
    drop(parent);
    b.finish()
}

/// v8 forgot the end where a table was missing: the guest's next fault would wait for ever.
#[test]
fn a_fork_that_finds_no_memory_leaves_parent_and_guest_as_they_were() -> Outcome {
    for failing in 0.. {
        let b = Bench::new(SMALL);
        for first in [0, 1 << 18, 5 << 27] {
            b.map_pages(0, first, 4)?;
        }
        b.fill(0, 0..4, 10)?;
        b.herald_writes(0, 1 << 18, 70)?;
        b.herald_writes(0, 5 << 27, 71)?;
        let parent = b.space(0);
        b.machine.fail_allocation_after(failing);
        let child = parent.space.fork();
        let done = b.machine.cancel_failure();
        assert_eq!(child.is_ok(), done, "allocation {failing}");
        assert_eq!(parent.log.count(Notice::RangeBegin), parent.log.count(Notice::RangeEnd));
        drop(child);
        b.guest_writes(0, 1, 20)?;
        b.both_read(0, 0, 10)?;
        b.herald_reads(0, 5 << 27, 71)?;
        let child = b.fork(0)?;
        b.both_read(child, 1, 20)?;
        b.herald_reads(child, 1 << 18, 70)?;
        drop(parent);
        b.finish()?;
        if done {
            assert_eq!(failing, 6, "root, tables and directories, allocated one by one");
            return Ok(());
        }
    }
    Ok(())
}

#[test]
fn a_grandchild_reads_what_its_ancestors_had_when_they_forked() -> Outcome {
    let b = Bench::new(SMALL);
    b.map_pages(0, 0, 4)?;
    b.fill(0, 0..3, 10)?;
    let child = b.fork(0)?;
    b.guest_writes(child, 0, 20)?;
    let grandchild = b.fork(child)?;
    b.herald_writes(child, 1, 21)?;
    b.guest_writes(0, 2, 30)?;
    for (space, values) in [(0, [10, 11, 30]), (child, [20, 21, 12]), (grandchild, [20, 11, 12])] {
        for (index, value) in (0..).zip(values) {
            b.both_read(space, index, value)?;
        }
    }
    b.end_space(child)?;
    b.guest_writes(grandchild, 1, 40)?;
    b.both_read(0, 1, 11)?;
    b.finish()
}

#[test]
fn a_fork_keeps_what_nobody_may_touch() -> Outcome {
    let b = Bench::new(SMALL);
    b.map_pages(0, 0, 4)?;
    b.fill(0, 0..2, 10)?;
    let none = mm::Protection::None;
    b.does(0, "mprotect", |space| space.mprotect(tests::lab::page(0), 0x1000, none))?;
    let child = b.fork(0)?;
    b.same("a page without rights", Verdict::Denied, b.guest_load(child, 0))?;
    for space in [0, child] {
        let all = mm::Protection::ReadWrite;
        b.does(space, "mprotect", |space| space.mprotect(tests::lab::page(0), 0x1000, all))?;
    }
    b.guest_writes(0, 0, 20)?;
    b.both_read(child, 0, 10)?;
    b.finish()
}
