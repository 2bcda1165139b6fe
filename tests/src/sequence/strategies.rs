//! Which sequences are drawn, shrunk on failure.
//!
//! Pages are few and near each other, so that what one operation leaves behind is what the next one meets: the
//! starts of three regions of 2 MiB, where table boundaries and huge pages are, and the annex where mremap moves things.
//! Huge pages are in every other case, so that small pages meet each other often enough in the rest.

use super::Case;
use super::step::{CALLBACKS, Range, Step, What};
use crate::machine::{Options, Paging, Speculation};
use crate::worlds::{
    ALIAS, ALIASED, ANNEX, Backing, IN_PLACE, Lost, Move, Reclaim, Rewrite, SHARED, SPACES, STORED, TABLES,
};
use addr::PageSize;
use mm::{Advice, Protection};
use mmu::AccessedDirty;
use proptest::bool::weighted;
use proptest::prelude::{BoxedStrategy, Just, Strategy, any, prop_oneof};
use proptest::sample::select;

const CPUS: usize = 4;
/// Regions of 512 pages that are used.
const REGIONS: u64 = 3;
/// Slots of the swap device: few enough to be full at times, or always enough.
const SLOTS: [u64; 2] = [3, 40];
/// Most steps of a case.
const STEPS: usize = 160;

/// Whether there are huge pages in a case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Huge {
    Never,
    Often,
}

fn page() -> impl Strategy<Value = u64> {
    let near = prop_oneof![6 => 0..10u64, 2 => 508..512u64, 1 => 10..508u64];
    prop_oneof![
        8 => 0..3u64,
        8 => (0..REGIONS, near).prop_map(|(region, near)| region * 512 + near),
        1 => (0..12u64).prop_map(|page| ANNEX + page),
    ]
}

/// A small range.
fn small() -> impl Strategy<Value = Range> {
    (page(), 1..7u64)
}

/// A range of several pages of a region.
fn many() -> impl Strategy<Value = Range> {
    ((0..REGIONS, 0..10u64).prop_map(|(region, near)| region * 512 + near), 2..10u64)
}

/// A range with pages worth looking at in it.
fn range(huge: Huge) -> BoxedStrategy<Range> {
    match huge {
        Huge::Never => {
            prop_oneof![8 => small(), 1 => (0..REGIONS).prop_map(|region| (region * 512, 512))].boxed()
        }
        Huge::Often => prop_oneof![
            3 => small(),
            2 => (0..REGIONS, 1..3u64).prop_map(|(region, count)| (region * 512, count * 512)),
            1 => (0..REGIONS, 1..4u64).prop_map(|(region, near)| (region * 512 + near, 512)),
        ]
        .boxed(),
    }
}

fn protection() -> impl Strategy<Value = Protection> {
    prop_oneof![
        4 => Just(Protection::ReadWrite),
        1 => Just(Protection::Read),
        1 => Just(Protection::None),
    ]
}

fn backing() -> impl Strategy<Value = Backing> {
    let file = || (prop_oneof![2 => Just(SHARED), 3 => Just(STORED), 2 => Just(IN_PLACE)], 0..10u64);
    prop_oneof![
        4 => Just(Backing::Anonymous(PageSize::Size4K)),
        3 => file().prop_map(|(file, index)| Backing::Private { file, index }),
        3 => file().prop_map(|(file, index)| Backing::Shared { file, index }),
    ]
}

fn mapping(huge: Huge) -> BoxedStrategy<What> {
    let small = (small(), protection(), backing()).prop_map(|(range, protection, backing)| What::Mmap {
        range,
        protection,
        backing,
    });
    let whole = (0..REGIONS, protection(), select(vec![PageSize::Size4K, PageSize::Size2M])).prop_map(
        |(region, protection, size)| What::Mmap {
            range: (region * 512, 512),
            protection,
            backing: Backing::Anonymous(size),
        },
    );
    // A page table of one area alone, which fork shares.
    let table = (0..REGIONS, protection()).prop_map(|(region, protection)| What::Mmap {
        range: (region * 512, 512),
        protection,
        backing: Backing::Anonymous(PageSize::Size4K),
    });
    match huge {
        Huge::Never => prop_oneof![3 => small, 1 => table].boxed(),
        Huge::Often => prop_oneof![2 => small, 2 => whole].boxed(),
    }
}

fn changes(huge: Huge) -> BoxedStrategy<What> {
    let to = prop_oneof![
        1 => Just(Move::InPlace),
        2 => Just(Move::MayMove),
        3 => page().prop_map(Move::Fixed),
    ];
    prop_oneof![
        6 => mapping(huge),
        2 => range(huge).prop_map(What::Munmap),
        3 => (range(huge), protection()).prop_map(|(range, protection)| What::Mprotect(range, protection)),
        2 => range(huge).prop_map(What::Discard),
        4 => (range(huge), to, prop_oneof![3 => 1..8u64, 1 => Just(512u64)])
            .prop_map(|(range, to, new)| What::Mremap { range, new, to }),
        2 => (small(), 0..12u64).prop_map(|(range, index)| What::RemapFilePages(range, index)),
        2 => (range(huge), select(&CALLBACKS)).prop_map(|(range, callback)| What::Apply(range, callback)),
        2 => small().prop_map(What::Mlock),
        2 => range(huge).prop_map(What::Munlock),
        1 => range(huge).prop_map(What::Msync),
        1 => Just(What::ToggleAlias),
    ]
    .boxed()
}

fn advice(huge: Huge) -> BoxedStrategy<What> {
    let mut advices = vec![
        Advice::Free,
        Advice::Free,
        Advice::Cold,
        Advice::PageOut,
        Advice::PageOut,
        Advice::NoHugePage,
        Advice::Mergeable,
        Advice::Mergeable,
        Advice::Mergeable,
        Advice::Unmergeable,
    ];
    if huge == Huge::Often {
        advices.extend([Advice::HugePage; 3]);
    }
    (range(huge), select(advices)).prop_map(|(range, advice)| What::Madvise(range, advice)).boxed()
}

fn frames(huge: Huge) -> BoxedStrategy<What> {
    let how = prop_oneof![1 => Just(Reclaim::Old), 3 => Just(Reclaim::Any)];
    // Of the guest's tables, too.
    let page = || prop_oneof![12 => page(), 1 => (0..TABLES.1).prop_map(|index| TABLES.0 + index)];
    let small = prop_oneof![
        5 => (page(), how).prop_map(|(page, how)| What::Reclaim(page, how)),
        2 => page().prop_map(What::Migrate),
        1 => page().prop_map(What::Referenced),
        1 => page().prop_map(What::Age),
        1 => (0..CPUS, page()).prop_map(|(cpu, page)| What::UseAndAge(cpu, page)),
        1 => (many(), value()).prop_map(|(range, value)| What::MergeAlike(range, value)),
    ];
    let large = prop_oneof![
        3 => (0..REGIONS).prop_map(|region| What::Collapse(region * 512)),
        1 => (0..REGIONS).prop_map(|region| What::Populate(region * 512)),
    ];
    match huge {
        Huge::Never => small.boxed(),
        Huge::Often => prop_oneof![5 => small, 1 => large].boxed(),
    }
}

/// Where a guest looks: through the slots in step, through the one out of step, or beside all.
fn guest_page() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => page(),
        2 => prop_oneof![0..12u64, 510..ALIASED.1].prop_map(|offset| ALIAS + offset),
        1 => Just(4000u64),
    ]
}

fn lost() -> impl Strategy<Value = Lost> {
    prop_oneof![
        2 => Just(Lost::GuestPhysical),
        1 => Just(Lost::GuestsAll),
        1 => guest_page().prop_map(Lost::GuestsPage),
    ]
}

/// Often the same, so that pages are equal.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![3 => 0..3u64, 2 => any::<u64>()]
}

fn accesses() -> BoxedStrategy<What> {
    // The same few often enough to be read again, and then any.
    let word = prop_oneof![4 => 0..2u16, 1 => Just(511u16), 1 => 0..512u16];
    let cpu = 0..CPUS;
    prop_oneof![
        4 => (cpu.clone(), guest_page(), word.clone()).prop_map(|(cpu, page, word)| What::GuestLoad { cpu, page, word }),
        6 => (cpu.clone(), guest_page(), word.clone(), value())
            .prop_map(|(cpu, page, word, value)| What::GuestStore { cpu, page, word, value }),
        5 => (cpu.clone(), page(), word.clone()).prop_map(|(cpu, page, word)| What::Load { cpu, page, word }),
        6 => (cpu.clone(), page(), word.clone(), value())
            .prop_map(|(cpu, page, word, value)| What::Store { cpu, page, word, value }),
        3 => (cpu.clone(), guest_page(), word.clone())
            .prop_map(|(cpu, page, word)| What::GuestLoadLinear { cpu, page, word }),
        4 => (cpu.clone(), guest_page(), word, value())
            .prop_map(|(cpu, page, word, value)| What::GuestStoreLinear { cpu, page, word, value }),
        1 => (cpu.clone(), page(), any::<bool>())
            .prop_map(|(cpu, page, guest)| What::Speculate { cpu, page, guest }),
        1 => (cpu.clone(), guest_page()).prop_map(|(cpu, page)| What::SpeculateLinear { cpu, page }),
        1 => (cpu.clone(), lost()).prop_map(|(cpu, what)| What::Lose { cpu, what }),
        1 => protection().prop_map(What::ProtectTables),
        3 => (cpu, rewrite()).prop_map(|(cpu, what)| What::Rewrite { cpu, what }),
    ]
    .boxed()
}

fn rewrite() -> impl Strategy<Value = Rewrite> {
    let index = prop_oneof![6 => 0..10u16, 2 => 508..512u16];
    let to = proptest::option::weighted(0.8, guest_page());
    prop_oneof![
        5 => (index, to, any::<bool>()).prop_map(|(index, to, alone)| Rewrite::Page { index, to, alone }),
        1 => any::<bool>().prop_map(|large| Rewrite::Size { large }),
    ]
}

fn step(huge: Huge) -> BoxedStrategy<Step> {
    let what = prop_oneof![
        5 => changes(huge),
        2 => advice(huge),
        4 => frames(huge),
        12 => accesses(),
        1 => prop_oneof![
            1 => any::<bool>().prop_map(|by_processor| What::ToggleLog { by_processor }),
            5 => Just(What::Harvest),
        ],
    ];
    prop_oneof![
        40 => (0..SPACES, what).prop_map(|(space, what)| Step::In { space, what }),
        1 => weighted(0.8).prop_map(|guest| Step::Spawn { guest }),
        2 => (0..SPACES, weighted(0.8)).prop_map(|(space, guest)| Step::Fork { space, guest }),
        1 => (0..SPACES).prop_map(|space| Step::Exit { space }),
        1 => (0..3usize, 0..26u64).prop_map(|(file, len)| Step::Truncate { file, len }),
        1 => (0..3usize).prop_map(|file| Step::WriteBack { file }),
        1 => (weighted(0.2), weighted(0.2), weighted(0.2))
            .prop_map(|(swap, disk, in_place)| Step::Failing { swap, disk, in_place }),
        1 => (0..8u64).prop_map(|after| Step::FailNext { after }),
        1 => Just(Step::AgeAll),
        2 => prop_oneof![1..8_u64, Just(u64::MAX)].prop_map(|pages| Step::Merge { pages }),
        1 => (1..40u64).prop_map(|goal| Step::Shrink { goal }),
        1 => (1..40u64).prop_map(|frames| Step::ZeroAhead { frames }),
    ]
    .boxed()
}

/// A machine and what is done on it.
pub(super) fn case() -> impl Strategy<Value = Case> {
    // What a shadow stands on has no A bits of a processor's.
    let guests = prop_oneof![
        3 => Just((AccessedDirty::Hardware, Paging::Ept)),
        1 => Just((AccessedDirty::Absent, Paging::Ept)),
        2 => Just((AccessedDirty::Absent, Paging::Shadow)),
    ];
    let speculation = prop_oneof![Just(Speculation::Off), Just(Speculation::AfterFlush)];
    let huge = prop_oneof![Just(Huge::Never), Just(Huge::Often)];
    let options = (guests, speculation, prop_oneof![Just(0u64), Just(600)], huge);
    options.prop_flat_map(|((accessed_dirty, paging), speculation, quarantine, huge)| {
        let frames = if huge == Huge::Often { 10 * 1024 } else { 4 * 1024 };
        let options = Options { frames, cpus: CPUS, quarantine, accessed_dirty, speculation, paging }
            .with_chosen_paging();
        let late = prop_oneof![Just(None), (1..u64::MAX).prop_map(Some)];
        (select(&SLOTS), late, proptest::collection::vec(step(huge), 1..STEPS))
            .prop_map(move |(slots, late, steps)| Case { options, slots, late, steps })
    })
}
