//! Patch sites `zap_page_range` (discard, truncate), `unmap_region` (munmap, mmap over) and `exit_mmap`.

use crate::Outcome;
use crate::bench::{Bench, SMALL, bytes};
use crate::devices::DISK;
use crate::scenario::Scenario;
use mm::notifier::MmuNotifier;
use mm::{Host, VmaKind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use tests::lab::{Notice, Verdict, page, pages};

fn four_pages(b: &Bench) -> Outcome {
    b.map_pages(0, 0, 4)?;
    b.fill(0, 0..4, 10)
}

pub(crate) const DISCARD: Scenario = Scenario {
    name: "zap_page_range: pages that a guest uses are discarded",
    plan: SMALL,
    prepare: four_pages,
    act: |b| {
        b.does(0, "discard", |space| space.discard(page(1), bytes(2)))?;
        b.guest_reads(0, 1, 0)?;
        b.herald_reads(0, 2, 0)?;
        b.guest_writes(0, 2, 22)?;
        b.both_read(0, 2, 22)?;
        b.both_read(0, 3, 13)
    },
};

/// The file in space 0, a private mapping of it in space 1, with copies of its own of the last pages but one.
fn file_in_two_spaces(b: &Bench) -> Outcome {
    let (file, _) = b.disk_file(4);
    b.add_space();
    b.map(0, pages(0, 4), VmaKind::Shared(Arc::clone(&file), 0))?;
    b.map(1, pages(0, 4), VmaKind::Private(file, 0))?;
    for index in 0..4 {
        b.both_read(0, index, DISK + index)?;
        b.both_read(1, index, DISK + index)?;
    }
    b.guest_writes(0, 0, 5)?;
    b.guest_writes(1, 1, 6)?;
    b.guest_writes(1, 2, 7)
}

pub(crate) const TRUNCATE: Scenario = Scenario {
    name: "zap_page_range: a file that two guests map is truncated",
    plan: SMALL,
    prepare: file_in_two_spaces,
    act: |b| {
        b.mm.truncate(&b.file(0), 2);
        b.check()?;
        for space in [0, 1] {
            for index in [2, 3] {
                b.same("a load behind the end", Verdict::BeyondEnd, b.guest_load(space, index))?;
                b.same("a store behind the end", Verdict::BeyondEnd, b.store(space, index, 1))?;
            }
            b.both_read(space, 0, 5)?;
        }
        b.both_read(1, 1, 6)?;
        b.both_read(0, 1, DISK + 1)?;
        // Longer again: neither private copies nor what the store had come back.
        b.mm.truncate(&b.file(0), 4);
        b.both_read(1, 2, 0)?;
        b.both_read(0, 3, 0)
    },
};

pub(crate) const MUNMAP: Scenario = Scenario {
    name: "unmap_region: munmap under a guest, and new memory in its place",
    plan: SMALL,
    prepare: four_pages,
    act: |b| {
        b.does(0, "munmap", |space| space.munmap(page(1), bytes(2)))?;
        b.same("a guest's load", Verdict::Unmapped, b.guest_load(0, 1))?;
        b.same("Herald's load", Verdict::Unmapped, b.load(0, 2))?;
        b.map_pages(0, 1, 2)?;
        b.guest_reads(0, 1, 0)?;
        b.guest_writes(0, 2, 22)?;
        b.herald_reads(0, 2, 22)?;
        b.both_read(0, 3, 13)
    },
};

pub(crate) const MAP_OVER: Scenario = Scenario {
    name: "unmap_region: a file is mapped over memory that a guest uses",
    plan: SMALL,
    prepare: |b| {
        b.disk_file(4);
        four_pages(b)
    },
    act: |b| {
        b.map(0, pages(1, 2), VmaKind::Shared(b.file(0), 1))?;
        b.guest_reads(0, 1, DISK + 1)?;
        b.herald_reads(0, 2, DISK + 2)?;
        b.both_read(0, 0, 10)
    },
};

pub(crate) const EXIT: Scenario = Scenario {
    name: "exit_mmap: a parent exits while its guest runs",
    plan: SMALL,
    prepare: |b| {
        four_pages(b)?;
        let child = b.fork(0)?;
        b.both_read(child, 0, 10)?;
        b.both_read(0, 0, 10)
    },
    act: |b| {
        let parent = b.space(0);
        parent.space.exit();
        b.check()?;
        b.same("a guest's load", Verdict::Unmapped, b.guest_load(0, 0))?;
        b.both_read(1, 0, 10)
    },
};

#[test]
fn a_discarded_page_reads_zero_through_every_path() -> Outcome {
    DISCARD.run()
}

#[test]
fn what_lies_behind_the_new_end_of_a_file_is_gone_for_everybody() -> Outcome {
    TRUNCATE.run()
}

#[test]
fn unmapped_memory_is_gone_and_new_memory_is_empty() -> Outcome {
    MUNMAP.run()
}

#[test]
fn a_mapping_over_another_shows_the_new_one() -> Outcome {
    MAP_OVER.run()
}

#[test]
fn a_guest_loses_its_memory_when_its_host_exits_and_the_child_keeps_its_own() -> Outcome {
    EXIT.run()
}

#[test]
fn truncation_takes_private_copies_that_are_in_swap() -> Outcome {
    let b = Bench::new(SMALL);
    file_in_two_spaces(&b)?;
    b.page_out(1, 2)?;
    assert_eq!(b.mm.swap_used(), 1);
    b.mm.truncate(&b.file(0), 1);
    b.check()?;
    assert_eq!(b.mm.swap_used(), 0);
    b.same("a guest's load", Verdict::BeyondEnd, b.guest_load(1, 2))?;
    b.finish()
}

#[test]
fn memory_mapped_over_swapped_pages_frees_their_slots() -> Outcome {
    let b = Bench::new(SMALL);
    four_pages(&b)?;
    b.page_out(0, 1)?;
    let child = b.fork(0)?;
    b.both_read(0, 1, 11)?;
    b.map_pages(child, 0, 4)?;
    b.both_read(child, 1, 0)?;
    b.map_pages(0, 0, 4)?;
    assert_eq!(b.mm.swap_used(), 0);
    b.finish()
}

/// What a subscriber that comes last sees of an exit.
struct Watcher {
    frame: addr::Pfn,
    machine: Arc<tests::machine::Machine>,
    seen: Mutex<Vec<(Notice, u32)>>,
    releases: AtomicU32,
}

impl Watcher {
    fn see(&self, notice: Notice) {
        let count = self.machine.frames().meta(self.frame).count();
        self.seen.lock().expect("no panic").push((notice, count));
    }
}

impl MmuNotifier for Watcher {
    fn release(&self) {
        self.releases.fetch_add(1, Ordering::Relaxed);
        self.see(Notice::Release);
    }

    fn invalidate_range_begin(&self, _: addr::HvaRange) {
        self.see(Notice::RangeBegin);
    }
}

/// `exit_mmap`: the notice comes before anything is unmapped, once, and nothing follows.
#[test]
fn release_comes_first_and_alone() -> Outcome {
    let b = Bench::new(SMALL);
    four_pages(&b)?;
    let frame = b.frame(0, 0).expect("a frame");
    let (seen, releases) = (Mutex::default(), AtomicU32::new(0));
    let watcher = Arc::new(Watcher { frame, machine: Arc::clone(&b.machine), seen, releases });
    b.space(0).space.register(Arc::clone(&watcher) as Arc<dyn MmuNotifier>);
    b.space(0).space.exit();
    assert_eq!(*watcher.seen.lock().expect("no panic"), [(Notice::Release, 1)]);
    b.finish()
}
