//! Patch site `page_referenced_one`, and the later `test_young` and `clear_young`.

use crate::Outcome;
use crate::bench::{Bench, SMALL, answer, bytes};
use crate::scenario::Scenario;
use addr::HvaRange;
use mm::notifier::MmuNotifier;
use mm::{Access, Advice};
use mmu::AccessedDirty;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tests::lab::{gpage, page};

impl Bench {
    /// Whether anybody has used a page, by the way of reclaim.
    fn referenced(&self, id: usize, index: u64, young: bool) -> Outcome {
        let found = self.holding(id, index, |frame| self.mm.page_referenced(frame))?;
        same(young, found)
    }

    /// Whether anybody has used a page; nothing changes.
    fn tests_young(&self, id: usize, index: u64, young: bool) -> Outcome {
        same(young, self.space(id).space.test_young(page(index)).unwrap_or(false))?;
        self.check()
    }
}

fn same(expected: bool, found: bool) -> Outcome {
    let differs = || answer("whether a page is young", expected.to_string(), found.to_string());
    if found == expected { Ok(()) } else { Err(differs()) }
}

/// A page that is the guest's only is used again and again.
pub(crate) const REFERENCED: Scenario = Scenario {
    name: "page_referenced_one: a page that the guest uses again is young again",
    plan: SMALL,
    prepare: |b| {
        b.map_pages(0, 0, 4)?;
        b.fill(0, 0..2, 10)?;
        b.referenced(0, 0, true)
    },
    act: |b| {
        b.referenced(0, 0, false)?;
        b.guest_reads(0, 0, 10)?;
        b.referenced(0, 0, true)?;
        b.guest_reads(0, 0, 10)?;
        b.referenced(0, 0, true)?;
        b.referenced(0, 0, false)
    },
};

/// A page of two spaces, used by the child's guest only.
pub(crate) const REFERENCED_BY_CHILD: Scenario = Scenario {
    name: "page_referenced_one: the guests of all spaces are asked",
    plan: SMALL,
    prepare: |b| {
        b.map_pages(0, 0, 4)?;
        b.fill(0, 0..2, 10)?;
        let child = b.fork(0)?;
        b.both_read(0, 0, 10)?;
        b.both_read(child, 0, 10)?;
        b.referenced(0, 0, true)
    },
    act: |b| {
        b.referenced(0, 0, false)?;
        b.guest_reads(1, 0, 10)?;
        b.referenced(0, 0, true)?;
        b.referenced(1, 0, false)?;
        b.guest_reads(0, 0, 10)?;
        b.guest_reads(1, 0, 10)?;
        b.referenced(1, 0, true)?;
        b.referenced(1, 0, false)?;
        b.guest_reads(0, 0, 10)?;
        b.referenced(1, 0, true)
    },
};

pub(crate) const TEST_YOUNG: Scenario = Scenario {
    name: "test_young: asking changes nothing",
    plan: SMALL,
    prepare: |b| {
        b.map_pages(0, 0, 4)?;
        b.fill(0, 0..2, 10)?;
        b.referenced(0, 0, true)
    },
    act: |b| {
        b.tests_young(0, 0, false)?;
        b.guest_reads(0, 0, 10)?;
        b.tests_young(0, 0, true)?;
        b.tests_young(0, 0, true)?;
        b.referenced(0, 0, true)?;
        b.tests_young(0, 0, false)
    },
};

/// The guest's MMU has the page, young, and no CPU has cached it: `clear_young` does not flush.
pub(crate) const COLD: Scenario = Scenario {
    name: "clear_young: advice makes pages old",
    plan: SMALL,
    prepare: |b| {
        b.map_pages(0, 0, 4)?;
        b.herald_writes(0, 0, 10)?;
        b.referenced(0, 0, true)?;
        b.space(0).mmu.fault(gpage(0), Access::Read).expect("a page");
        b.check()
    },
    act: |b| {
        b.tests_young(0, 0, true)?;
        b.does(0, "MADV_COLD", |space| space.madvise(page(0), bytes(1), Advice::Cold))?;
        b.tests_young(0, 0, false)?;
        b.guest_reads(0, 0, 10)?;
        b.tests_young(0, 0, true)
    },
};

#[test]
fn a_page_is_young_each_time_the_guest_has_used_it_again() -> Outcome {
    REFERENCED.run()
}

#[test]
fn a_page_that_only_the_childs_guest_uses_is_young() -> Outcome {
    REFERENCED_BY_CHILD.run()
}

#[test]
fn asking_for_youth_takes_none() -> Outcome {
    TEST_YOUNG.run()
}

#[test]
fn cold_pages_are_old_until_they_are_used() -> Outcome {
    COLD.run()
}

#[test]
fn a_cold_page_that_herald_uses_is_young() -> Outcome {
    let b = Bench::new(SMALL);
    b.map_pages(0, 0, 2)?;
    b.herald_writes(0, 0, 10)?;
    b.does(0, "MADV_COLD", |space| space.madvise(page(0), bytes(1), Advice::Cold))?;
    b.tests_young(0, 0, false)?;
    b.herald_reads(0, 0, 10)?;
    b.tests_young(0, 0, true)?;
    b.finish()
}

#[test]
fn without_accessed_bits_reclaim_learns_of_use_by_unmapping() -> Outcome {
    let b = Bench::new(crate::bench::Plan { accessed_dirty: AccessedDirty::Absent, ..SMALL });
    (REFERENCED.prepare)(&b)?;
    (REFERENCED.act)(&b)?;
    b.is_reclaimed(0, 0)?;
    b.both_read(0, 0, 10)?;
    b.finish()
}

/// Counts how often it is asked, and always answers the same.
struct Witness {
    says: bool,
    asked: AtomicU32,
}

impl Witness {
    fn add(b: &Bench, says: bool) -> Arc<Self> {
        let witness = Arc::new(Self { says, asked: AtomicU32::new(0) });
        b.space(0).space.register(Arc::clone(&witness) as Arc<dyn MmuNotifier>);
        witness
    }

    fn answer(&self) -> bool {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.says
    }
}

impl MmuNotifier for Witness {
    fn clear_flush_young(&self, _: HvaRange) -> bool {
        self.answer()
    }

    fn test_young(&self, _: HvaRange) -> bool {
        self.answer()
    }
}

#[test]
fn all_are_asked_whatever_the_first_has_said_and_one_yes_is_enough() -> Outcome {
    let b = Bench::new(SMALL);
    b.map_pages(0, 0, 2)?;
    let (no, yes, last) = (Witness::add(&b, false), Witness::add(&b, true), Witness::add(&b, false));
    b.fill(0, 0..1, 10)?;
    b.referenced(0, 0, true)?;
    b.referenced(0, 0, true)?;
    b.tests_young(0, 0, true)?;
    for witness in [no, yes, last] {
        assert_eq!(witness.asked.load(Ordering::Relaxed), 3);
    }
    b.finish()
}
