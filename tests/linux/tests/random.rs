//! Random sequences, the same on Linux and on `mm`, shrunk where they differ.
//!
//! `LINUX_STEPS` asks for more steps, `LINUX_SEED` for other ones: `LINUX_STEPS=1000000 LINUX_SEED=7 cargo test -p linux`.

use linux::{
    Advised, Aside, Backing, Bench, FILE_PAGES, Herald, Kernel, Place, Range, Raw, Report, SHARED, SPACES,
    STORED, Step, To, What, page,
};
use mm::{Advice, Protection};
use proptest::prelude::{BoxedStrategy, Just, ProptestConfig, Strategy, any, prop_oneof};
use proptest::sample::select;
use proptest::test_runner::{RngAlgorithm, TestCaseError, TestRng, TestRunner};
use std::cell::RefCell;
use std::io::Write;
use std::path::Path;

/// Steps where the environment does not say.
const STEPS: u64 = 100_000;
/// Most steps of a sequence.
const LONGEST: usize = 160;
/// Regions of 512 pages that are used.
const REGIONS: u64 = 4;
const PAGE: u64 = addr::PAGE_SIZE;

/// Whether there are huge pages in a sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Huge {
    Never,
    Often,
}

/// The number of a page: few, and near each other.
fn number() -> impl Strategy<Value = u64> {
    let near = prop_oneof![18 => 0..10u64, 4 => 508..512u64, 1 => 10..508u64];
    prop_oneof![
        8 => 0..3u64,
        8 => (0..REGIONS, near).prop_map(|(region, near)| region * 512 + near),
    ]
}

/// An address, rarely not that of a page, rarely where `mm` puts what named none, rarely out of reach.
fn address() -> impl Strategy<Value = Raw> {
    let aligned = prop_oneof![
        20 => number().prop_map(page),
        1 => (0..12u64).prop_map(|number| linux::ANNEX + number * PAGE),
    ];
    prop_oneof![
        40 => aligned,
        1 => (number(), select(vec![1, 8, 2048, 4095])).prop_map(|(number, off)| page(number) + off),
        1 => select(vec![linux::TASK_SIZE, 0xffff_8000_0000_0000]),
    ]
    .prop_map(Raw)
}

/// A length: some pages, rarely something else.
fn len(huge: Huge) -> BoxedStrategy<Raw> {
    let small = prop_oneof![3 => 1..7u64, 1 => 7..13u64].prop_map(|pages| pages * PAGE);
    let large = match huge {
        Huge::Never => (1..2u64).boxed(),
        Huge::Often => (1..3u64).boxed(),
    };
    let large = large.prop_map(|regions| regions * 512 * PAGE);
    let share = if huge == Huge::Often { 12 } else { 2 };
    prop_oneof![
        24 => small,
        share => large,
        1 => (1..7u64, select(vec![1, 8, 4095])).prop_map(|(pages, more)| (pages - 1) * PAGE + more),
        1 => select(vec![0, 1 << 47, linux::TASK_SIZE, u64::MAX - 2 * PAGE, u64::MAX - PAGE + 1, u64::MAX]),
    ]
    .prop_map(Raw)
    .boxed()
}

fn range(huge: Huge) -> BoxedStrategy<Range> {
    let any = (address(), len(huge)).prop_map(|(start, len)| Range { start, len });
    let regions = (0..REGIONS, 1..3u64)
        .prop_map(|(region, count)| Range { start: Raw(page(region * 512)), len: Raw(count * 512 * PAGE) });
    match huge {
        Huge::Never => any.boxed(),
        Huge::Often => prop_oneof![3 => any, 2 => regions].boxed(),
    }
}

fn protection() -> impl Strategy<Value = Protection> {
    prop_oneof![
        8 => Just(Protection::ReadWrite),
        2 => Just(Protection::Read),
        1 => Just(Protection::None),
    ]
}

fn backing() -> impl Strategy<Value = Backing> {
    let file = || (prop_oneof![2 => Just(SHARED), 3 => Just(STORED)], 0..10u64);
    prop_oneof![
        4 => Just(Backing::Anonymous),
        1 => Just(Backing::SharedAnonymous),
        3 => file().prop_map(|(file, index)| Backing::Private { file, index }),
        3 => file().prop_map(|(file, index)| Backing::Shared { file, index }),
    ]
}

fn mapping(huge: Huge) -> BoxedStrategy<What> {
    let place = prop_oneof![12 => address().prop_map(Place::Fixed), 1 => Just(Place::Anywhere)];
    let any = (place, len(huge), protection(), backing())
        .prop_map(|(place, len, protection, backing)| What::Mmap { place, len, protection, backing });
    let whole = (0..REGIONS, 1..3u64, protection()).prop_map(|(region, count, protection)| What::Mmap {
        place: Place::Fixed(Raw(page(region * 512))),
        len: Raw(count * 512 * PAGE),
        protection,
        backing: Backing::Anonymous,
    });
    match huge {
        Huge::Never => any.boxed(),
        Huge::Often => prop_oneof![2 => any, 2 => whole].boxed(),
    }
}

fn advised(huge: Huge) -> impl Strategy<Value = Advised> {
    let mut all = vec![
        Advised::Discard,
        Advised::Discard,
        Advised::Other(Advice::Free),
        Advised::Other(Advice::Free),
        Advised::Other(Advice::Cold),
        Advised::Other(Advice::PageOut),
        Advised::Other(Advice::NoHugePage),
        Advised::Other(Advice::Mergeable),
        Advised::Other(Advice::Unmergeable),
    ];
    if huge == Huge::Often {
        all.extend([Advised::Other(Advice::HugePage); 3]);
    }
    select(all)
}

fn calls(huge: Huge) -> BoxedStrategy<What> {
    let to = prop_oneof![
        1 => Just(To::InPlace),
        2 => Just(To::MayMove),
        3 => address().prop_map(To::Fixed),
    ];
    prop_oneof![
        12 => mapping(huge),
        1 => range(huge).prop_map(What::Munmap),
        3 => (range(huge), protection()).prop_map(|(range, protection)| What::Mprotect(range, protection)),
        5 => (range(huge), advised(huge)).prop_map(|(range, advised)| What::Madvise(range, advised)),
        5 => (range(huge), len(huge), to)
            .prop_map(|(range, new_len, to)| What::Mremap { range, new_len, to }),
        2 => range(huge).prop_map(What::Mlock),
        2 => range(huge).prop_map(What::Munlock),
        1 => range(huge).prop_map(What::Msync),
    ]
    // Advice for all that lies behind the arena would be taken by the puppet's own memory, too.
    .prop_filter("advice for the puppet itself", |what| match what {
        What::Madvise(range, _) => {
            let end = range.start.0.checked_add(range.len.0);
            range.len.0 >= u64::MAX - PAGE
                || end.is_none_or(|end| end < page(0) << 1)
                || range.start.0 >= linux::TASK_SIZE
        }
        _ => true,
    })
    .boxed()
}

fn touches() -> impl Strategy<Value = What> {
    let word = || {
        let page = prop_oneof![
            20 => number().prop_map(page),
            1 => (0..12u64).prop_map(|number| linux::ANNEX + number * PAGE),
        ];
        (page, select(vec![0, PAGE - 8])).prop_map(|(page, offset)| Raw(page + offset))
    };
    prop_oneof![
        2 => word().prop_map(What::Load),
        3 => (word(), any::<u64>()).prop_map(|(at, value)| What::Store(at, Raw(value))),
    ]
}

fn asides(huge: Huge) -> impl Strategy<Value = What> {
    let mut all = vec![Aside::PageOut, Aside::PageOut, Aside::Migrate, Aside::Age];
    if huge == Huge::Often {
        all.push(Aside::Collapse);
    }
    (number(), select(all)).prop_map(|(number, aside)| What::Aside(Raw(page(number)), aside))
}

fn step(huge: Huge) -> BoxedStrategy<Step> {
    let what = prop_oneof![
        8 => calls(huge),
        9 => touches(),
        1 => asides(huge),
    ];
    prop_oneof![
        80 => (0..SPACES, what).prop_map(|(space, what)| Step::In { space, what }),
        1 => Just(Step::Spawn),
        5 => (0..SPACES).prop_map(|space| Step::Fork { space }),
        2 => (0..SPACES).prop_map(|space| Step::Exit { space }),
        2 => (0..FILE_PAGES.len(), 0..26u64).prop_map(|(file, len)| Step::Truncate { file, len }),
        2 => Just(Step::WriteBack),
    ]
    .boxed()
}

fn sequence() -> impl Strategy<Value = (Huge, Vec<Step>)> {
    prop_oneof![Just(Huge::Never), Just(Huge::Often)]
        .prop_flat_map(|huge| (Just(huge), proptest::collection::vec(step(huge), 1..LONGEST)))
}

/// A space with some memory of each kind, and the steps.
fn run(kernel: &mut Kernel, huge: Huge, steps: &[Step]) -> Result<Report, linux::Difference> {
    let frames = if huge == Huge::Often { 16 * 1024 } else { 6 * 1024 };
    let mut bench = Bench::new(kernel, Herald::new(frames));
    let pages = |number: u64, pages: u64| Range { start: Raw(page(number)), len: Raw(pages * PAGE) };
    let map = |range: Range, backing: Backing| What::Mmap {
        place: Place::Fixed(range.start),
        len: range.len,
        protection: Protection::ReadWrite,
        backing,
    };
    let mut before = vec![
        map(pages(0, 12), Backing::Anonymous),
        map(pages(508, 4), Backing::Anonymous),
        map(pages(512, 6), Backing::Shared { file: STORED, index: 0 }),
        map(pages(518, 4), Backing::Private { file: STORED, index: 2 }),
        map(pages(1024, 6), Backing::Shared { file: SHARED, index: 0 }),
        map(pages(1030, 4), Backing::SharedAnonymous),
    ];
    if huge == Huge::Often {
        let whole = pages(1536, 512);
        before.push(map(whole, Backing::Anonymous));
        before.push(What::Madvise(whole, Advised::Other(Advice::HugePage)));
    }
    let before = before.into_iter().map(|what| Step::In { space: 0, what });
    for step in std::iter::once(Step::Spawn).chain(before).chain(steps.iter().copied()) {
        bench.take(step)?;
    }
    bench.finish()
}

fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn any_sequence_ends_as_it_does_on_linux() {
    let (wanted, seed) = (asked("LINUX_STEPS").unwrap_or(STEPS), asked("LINUX_SEED").unwrap_or(1));
    let kernel = RefCell::new(Kernel::start(Path::new(env!("CARGO_BIN_EXE_puppet"))));
    kernel.borrow().abilities().announce();
    let total = RefCell::new(Report::default());
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = ProptestConfig {
        // More than enough: what is left when the steps were taken does nothing.
        cases: u32::try_from(wanted * 4 / LONGEST as u64 + 1).expect("not so many steps"),
        failure_persistence: None,
        max_shrink_iters: 4_000,
        ..ProptestConfig::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let result = runner.run(&sequence(), |(huge, steps)| {
        if total.borrow().steps >= wanted {
            return Ok(());
        }
        let report = run(&mut kernel.borrow_mut(), huge, &steps)
            .map_err(|difference| TestCaseError::fail(format!("{difference:#?}")))?;
        *total.borrow_mut() += report;
        Ok(())
    });
    if let Err(error) = result {
        panic!("seed {seed}, after {} steps: {error}", total.borrow().steps);
    }
    assert!(total.borrow().steps >= wanted, "too few sequences: {:?}", total.borrow());
    let summary = format!("seed {seed}: {:?}\n", total.borrow());
    let _ = std::io::stderr().write_all(summary.as_bytes());
}
