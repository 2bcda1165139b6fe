//! Out of memory at each allocation of each operation: an error and no more, and the next try succeeds (I16). A begin
//! that was sent has its end on every path.

use crate::Outcome;
use crate::bench::{Bench, LARGE, Plan, SMALL, bytes};
use crate::devices::DISK;
use addr::PageSize;
use mm::{Advice, MapError, Protection, Remap, VmaKind};
use tests::lab::{Notice, Verdict, page, pages};
use tests::machine::Failing;

/// An operation that allocates.
struct Case {
    name: &'static str,
    plan: Plan,
    prepare: fn(&Bench) -> Outcome,
    operation: fn(&Bench) -> Verdict,
    /// What is true before and after it, done or failed.
    lasts: fn(&Bench) -> Outcome,
    /// Whether it may do its work in a lesser way instead of failing.
    has_a_fallback: bool,
}

const CASE: Case = Case {
    name: "",
    plan: SMALL,
    prepare: shared_by_fork,
    operation: |_| Verdict::Done,
    lasts: |b| b.both_read(1, 0, 10),
    has_a_fallback: false,
};

fn shared_by_fork(b: &Bench) -> Outcome {
    b.map_pages(0, 0, 4)?;
    b.fill(0, 0..4, 10)?;
    b.fork(0).map(|_| ())
}

fn huge_page(b: &Bench) -> Outcome {
    b.map_pages(0, 0, 512)?;
    b.does(0, "MADV_HUGEPAGE", |space| space.madvise(page(0), bytes(512), Advice::HugePage))?;
    b.fill(0, 0..4, 10)
}

fn base_pages(b: &Bench) -> Outcome {
    b.map_pages(0, 0, 512)?;
    (0..512).for_each(|index| assert_eq!(b.store(0, index, 10 + index), Verdict::Done));
    b.check()
}

fn file(
    b: &Bench,
    kind: fn(std::sync::Arc<mm::File<tests::machine::Machine>>) -> VmaKind<tests::machine::Machine>,
) -> Outcome {
    let (file, _) = b.disk_file(4);
    b.add_space();
    b.map(0, pages(0, 4), kind(file))?;
    b.map(1, pages(0, 4), VmaKind::Shared(b.file(0), 0))
}

fn done(result: Result<(), MapError>) -> Verdict {
    result.map_or_else(Verdict::from, |()| Verdict::Done)
}

const CASES: &[Case] = &[
    Case { name: "a copy", operation: |b| b.guest_store(0, 0, 20), ..CASE },
    Case {
        name: "a page from swap",
        prepare: |b| {
            shared_by_fork(b)?;
            b.page_out(0, 0)
        },
        operation: |b| match b.guest_load(0, 0) {
            Verdict::Value(10) => Verdict::Done,
            other => other,
        },
        ..CASE
    },
    Case {
        name: "a write to a page in swap",
        prepare: |b| {
            shared_by_fork(b)?;
            b.page_out(0, 0)
        },
        operation: |b| b.guest_store(0, 0, 20),
        ..CASE
    },
    Case {
        name: "a page of a file",
        prepare: |b| file(b, |file| VmaKind::Shared(file, 0)),
        operation: |b| b.guest_store(0, 1, 20),
        lasts: |b| b.both_read(1, 0, DISK),
        ..CASE
    },
    Case {
        name: "a private copy of a page of a file",
        prepare: |b| file(b, |file| VmaKind::Private(file, 0)),
        operation: |b| b.guest_store(0, 0, 20),
        lasts: |b| b.both_read(1, 0, DISK),
        ..CASE
    },
    Case {
        name: "remap_file_pages",
        prepare: |b| file(b, |file| VmaKind::Shared(file, 0)),
        operation: |b| done(b.space(0).space.remap_file_pages(page(0), bytes(2), 1)),
        lasts: |b| b.both_read(0, 3, DISK + 3),
        ..CASE
    },
    Case {
        name: "a hole that is filled",
        prepare: |b| {
            let file = b.xip_file(4);
            b.add_space();
            b.map(0, pages(0, 4), VmaKind::Shared(std::sync::Arc::clone(&file), 0))?;
            b.map(1, pages(0, 4), VmaKind::Shared(file, 0))
        },
        operation: |b| b.guest_store(0, 1, 20),
        lasts: |b| b.both_read(1, 0, DISK),
        ..CASE
    },
    Case {
        name: "a copy of a hugetlb page",
        plan: LARGE,
        prepare: |b| {
            b.map(0, pages(0, 512), VmaKind::Anonymous(PageSize::Size2M))?;
            b.fill(0, 0..1, 10)?;
            b.fork(0).map(|_| ())
        },
        operation: |b| b.guest_store(0, 0, 20),
        ..CASE
    },
    Case {
        name: "fork of a huge page",
        plan: LARGE,
        prepare: huge_page,
        operation: |b| b.space(0).space.fork().map_or(Verdict::OutOfMemory, |_| Verdict::Done),
        lasts: |b| b.both_read(0, 0, 10),
        ..CASE
    },
    Case {
        name: "a copy of a part of a huge page",
        plan: LARGE,
        prepare: |b| {
            huge_page(b)?;
            b.fork(0).map(|_| ())
        },
        operation: |b| b.guest_store(0, 0, 20),
        ..CASE
    },
    Case {
        name: "first touch of a huge page",
        plan: LARGE,
        prepare: |b| {
            b.map_pages(0, 0, 512)?;
            b.does(0, "MADV_HUGEPAGE", |space| space.madvise(page(0), bytes(512), Advice::HugePage))
        },
        operation: |b| b.guest_store(0, 0, 20),
        lasts: |b| b.both_read(0, 1, 0),
        has_a_fallback: true,
    },
    Case {
        name: "munmap of a part of a huge page",
        plan: LARGE,
        prepare: huge_page,
        operation: |b| done(b.space(0).space.munmap(page(1), bytes(1))),
        lasts: |b| b.both_read(0, 0, 10),
        ..CASE
    },
    Case {
        name: "MADV_FREE of a part of a huge page",
        plan: LARGE,
        prepare: huge_page,
        operation: |b| done(b.space(0).space.madvise(page(1), bytes(1), Advice::Free)),
        lasts: |b| b.both_read(0, 0, 10),
        ..CASE
    },
    Case {
        name: "mprotect of a part of a huge page",
        plan: LARGE,
        prepare: huge_page,
        operation: |b| done(b.space(0).space.mprotect(page(1), bytes(1), Protection::Read)),
        lasts: |b| b.both_read(0, 1, 11),
        ..CASE
    },
    Case {
        name: "mremap of a part of a huge page",
        plan: LARGE,
        prepare: huge_page,
        operation: |b| {
            let there = Remap::Fixed(page(3 << 27));
            b.space(0)
                .space
                .mremap(page(1), bytes(1), bytes(1), there)
                .map_or_else(Verdict::from, |_| Verdict::Done)
        },
        lasts: |b| b.both_read(0, 0, 10),
        ..CASE
    },
    Case {
        name: "collapse",
        plan: LARGE,
        prepare: base_pages,
        operation: |b| match b.space(0).space.collapse(page(0)) {
            Ok(collapsed) => {
                assert!(collapsed);
                Verdict::Done
            }
            Err(_) => Verdict::OutOfMemory,
        },
        lasts: |b| b.both_read(0, 5, 15),
        ..CASE
    },
];

/// Fails the first allocation of an operation, then the second, until it needs no more; returns how many it needs. A fault
/// tries again, where memory can be made free.
fn fail_each(case: &Case, how: Failing) -> Result<u64, tests::Violation> {
    for failing in 0.. {
        let b = Bench::new(case.plan);
        (case.prepare)(&b)?;
        b.machine.fail_allocations_after(failing, how);
        let verdict = (case.operation)(&b);
        let enough = b.machine.cancel_failure();
        let expected = if enough { Verdict::Done } else { Verdict::OutOfMemory };
        if !((case.has_a_fallback || how == Failing::Once) && verdict == Verdict::Done) {
            b.same(&format!("{}, allocation {failing}", case.name), expected, verdict)?;
        }
        b.check()?;
        for id in b.live() {
            let log = std::sync::Arc::clone(&b.space(id).log);
            assert_eq!(log.count(Notice::RangeBegin), log.count(Notice::RangeEnd), "{}", case.name);
        }
        (case.lasts)(&b)?;
        if verdict == Verdict::OutOfMemory {
            b.same(&format!("{} again", case.name), Verdict::Done, (case.operation)(&b))?;
            (case.lasts)(&b)?;
        }
        b.touch_all();
        b.finish()?;
        if enough {
            return Ok(failing);
        }
    }
    unreachable!("some number of allocations is enough")
}

#[test]
fn an_operation_that_finds_no_memory_has_done_nothing_and_can_be_tried_again() -> Outcome {
    for case in CASES {
        for failing in [Failing::Once, Failing::FromThenOn] {
            assert!(fail_each(case, failing)? > 0, "{} allocates nothing", case.name);
        }
    }
    Ok(())
}
