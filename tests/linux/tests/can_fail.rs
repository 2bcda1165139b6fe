//! Tests of the tests: what happens on one side alone is found, in whichever way it shows.

use linux::{
    Advised, Backing, Bench, Difference, Herald, Kernel, Place, Range, Raw, STORED, Step, To, What, page,
};
use mm::{Advice, Protection};
use std::path::Path;

const PAGE: u64 = addr::PAGE_SIZE;
const FRAMES: u64 = 4096;
const RW: Protection = Protection::ReadWrite;

fn pages(first: u64, count: u64) -> Range {
    Range { start: Raw(page(first)), len: Raw(count * PAGE) }
}

fn map(first: u64, count: u64, backing: Backing) -> What {
    What::Mmap { place: Place::Fixed(Raw(page(first))), len: Raw(count * PAGE), protection: RW, backing }
}

/// A space with four pages of its own and four of a file, each written.
fn prepared(kernel: &mut Kernel) -> Result<Bench<'_>, Difference> {
    let mut bench = Bench::new(kernel, Herald::new(FRAMES));
    bench.take(Step::Spawn)?;
    let store = |index: u64| What::Store(Raw(page(index)), Raw(index + 1));
    let calls = [map(0, 4, Backing::Anonymous), map(4, 4, Backing::Private { file: STORED, index: 0 })];
    for what in calls.into_iter().chain((0..8).map(store)) {
        bench.take(Step::In { space: 0, what })?;
    }
    Ok(bench)
}

/// What is found when Herald alone does something, and then both load a word, and everything is compared.
fn found(kernel: &mut Kernel, alone: What) -> Option<Difference> {
    let mut bench = prepared(kernel).expect("no difference yet");
    assert!(bench.on_herald_alone(0, alone).is_ok(), "{alone:?}");
    let both = [What::Load(Raw(page(0))), What::Mprotect(pages(7, 1), RW)];
    let taken = both.into_iter().try_for_each(|what| bench.take(Step::In { space: 0, what }));
    taken.and_then(|()| bench.finish().map(drop)).err()
}

#[test]
fn what_one_side_does_alone_is_found() {
    let kernel = &mut Kernel::start(Path::new(env!("CARGO_BIN_EXE_puppet")));
    let free = What::Madvise(pages(0, 2), Advised::Other(Advice::Free));
    assert_eq!(found(kernel, free), None, "nobody can tell");

    let answers = [
        What::Munmap(pages(0, 1)),
        What::Mprotect(pages(0, 1), Protection::None),
        What::Store(Raw(page(0)), Raw(77)),
        What::Store(Raw(page(7)), Raw(77)),
        What::Madvise(pages(4, 1), Advised::Discard),
    ];
    for alone in answers {
        let found = found(kernel, alone);
        assert!(
            matches!(found, Some(Difference::Answer { .. } | Difference::Presence { .. })),
            "{alone:?}: {found:?}"
        );
    }
    let areas = [
        map(20, 1, Backing::Anonymous),
        map(4, 4, Backing::Private { file: STORED, index: 1 }),
        What::Munmap(pages(2, 1)),
        What::Mprotect(pages(2, 1), Protection::Read),
        What::Mlock(pages(2, 1)),
        What::Madvise(pages(2, 1), Advised::Other(Advice::NoHugePage)),
        What::Mremap { range: pages(2, 1), new_len: Raw(PAGE), to: To::Fixed(Raw(page(30))) },
    ];
    for alone in areas {
        let found = found(kernel, alone);
        assert!(matches!(found, Some(Difference::Areas { .. })), "{alone:?}: {found:?}");
    }
    let absent = [
        What::Madvise(pages(2, 1), Advised::Discard),
        What::Mmap {
            place: Place::Fixed(Raw(page(2))),
            len: Raw(PAGE),
            protection: RW,
            backing: Backing::Anonymous,
        },
    ];
    for alone in absent {
        let found = found(kernel, alone);
        assert!(matches!(found, Some(Difference::Presence { .. })), "{alone:?}: {found:?}");
    }
}
