//! Random sequences of operations and accesses, the oracle and the model after each step; shrunk on failure.
//!
//! The arena has four 2 MiB regions. Operations prefer pages near their bounds, where small and huge mappings,
//! slots in step and out of step, and table boundaries meet. `PROPTEST_CASES` asks for more.

use addr::{PAGE_SIZE, PageSize};
use mm::{CpuIndex, Protection};
use mmu::{AccessedDirty, GuestPaging};
use proptest::prelude::{BoxedStrategy, Just, ProptestConfig, Strategy, any, prop_oneof};
use proptest::test_runner::{RngAlgorithm, TestCaseError, TestCaseResult, TestRng, TestRunner};
use tests::Violation;
use tests::lab::{GuestId, Lab, Verdict, gpage, page, pages};
use tests::machine::{Options, Paging, Speculation};

/// Regions of 512 base pages.
const REGIONS: u64 = 4;
const CPUS: usize = 3;
/// First guest page of a slot whose frames are out of step with the host's.
const ALIAS: u64 = 5001;
/// The first of the host's pages that it shows, and how many: enough to hold a whole huge page of the guest's.
const ALIASED: (u64, u64) = (100, 1500);
/// First guest page of a slot that is in step and ends inside a huge page: the first pages of region 1.
const SHORT: (u64, u64) = (8192, 64);
/// Cases where the environment does not say.
const CASES: u32 = 1000;

/// A page of the arena that is worth looking at.
fn index() -> impl Strategy<Value = u64> {
    let near = prop_oneof![4 => 0..4u64, 1 => 508..512u64, 1 => 4..508u64];
    (0..REGIONS, near).prop_map(|(region, near)| region * 512 + near)
}

/// A range of pages: small ones, and whole regions, and anything between bounds.
fn range() -> impl Strategy<Value = (u64, u64)> {
    let near = prop_oneof![Just(0), 1..4u64, 509..512u64];
    let bound = (0..REGIONS, near).prop_map(|(region, near)| region * 512 + near);
    prop_oneof![
        4 => (index(), 1..6u64).prop_map(|(first, count)| (first, count.min(REGIONS * 512 - first))),
        2 => (0..REGIONS).prop_map(|region| (region * 512, 512)),
        1 => (bound.clone(), bound).prop_map(|(a, b)| (a.min(b), a.abs_diff(b).max(1))),
    ]
}

fn protection() -> impl Strategy<Value = Protection> {
    prop_oneof![
        3 => Just(Protection::ReadWrite),
        1 => Just(Protection::Read),
        1 => Just(Protection::None),
    ]
}

/// Where a guest looks: through the whole slot, the one out of step, the short one, or beside all.
fn guest_page() -> impl Strategy<Value = u64> {
    let (first, count) = ALIASED;
    prop_oneof![
        6 => index(),
        3 => index().prop_map(move |page| ALIAS + page.clamp(first, first + count) - first),
        1 => (0..4u64).prop_map(|offset| SHORT.0 + offset),
        1 => Just(4000u64),
    ]
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Mmap {
        first: u64,
        count: u64,
        protection: Protection,
    },
    MmapHuge {
        first: u64,
        count: u64,
        protection: Protection,
    },
    Munmap {
        first: u64,
        count: u64,
    },
    Mprotect {
        first: u64,
        count: u64,
        protection: Protection,
    },
    Discard {
        first: u64,
        count: u64,
    },
    Migrate {
        page: u64,
    },
    Age {
        page: u64,
    },
    GuestLoad {
        guest: usize,
        cpu: usize,
        page: u64,
        word: u64,
    },
    GuestStore {
        guest: usize,
        cpu: usize,
        page: u64,
        word: u64,
        value: u64,
    },
    /// Stores to so many pages in order: a stream, which brings pages ahead.
    GuestStream {
        guest: usize,
        cpu: usize,
        page: u64,
        count: u64,
        value: u64,
    },
    Load {
        cpu: usize,
        page: u64,
        word: u64,
    },
    Store {
        cpu: usize,
        page: u64,
        word: u64,
        value: u64,
    },
    Speculate {
        guest: Option<usize>,
        cpu: usize,
        page: u64,
    },
    Leave {
        cpu: usize,
    },
    ToggleAlias,
    FailNext {
        after: u64,
    },
}

fn changes() -> BoxedStrategy<Step> {
    prop_oneof![
        3 => (range(), protection()).prop_map(|((first, count), protection)| Step::Mmap { first, count, protection }),
        2 => (0..REGIONS, 1..3u64, protection()).prop_map(|(region, regions, protection)| Step::MmapHuge {
            first: region * 512,
            count: regions.min(REGIONS - region) * 512,
            protection,
        }),
        2 => range().prop_map(|(first, count)| Step::Munmap { first, count }),
        3 => (range(), protection())
            .prop_map(|((first, count), protection)| Step::Mprotect { first, count, protection }),
        3 => range().prop_map(|(first, count)| Step::Discard { first, count }),
        4 => index().prop_map(|page| Step::Migrate { page }),
        4 => index().prop_map(|page| Step::Age { page }),
        1 => Just(Step::ToggleAlias),
        1 => (0..8u64).prop_map(|after| Step::FailNext { after }),
    ]
    .boxed()
}

fn accesses() -> BoxedStrategy<Step> {
    let cpu = 0..CPUS;
    let word = 0..3u64;
    prop_oneof![
        4 => (0..2usize, cpu.clone(), guest_page(), word.clone())
            .prop_map(|(guest, cpu, page, word)| Step::GuestLoad { guest, cpu, page, word }),
        5 => (0..2usize, cpu.clone(), guest_page(), word.clone(), any::<u64>())
            .prop_map(|(guest, cpu, page, word, value)| Step::GuestStore { guest, cpu, page, word, value }),
        2 => (0..2usize, cpu.clone(), guest_page(), 4..12u64, any::<u64>())
            .prop_map(|(guest, cpu, page, count, value)| Step::GuestStream { guest, cpu, page, count, value }),
        2 => (cpu.clone(), index(), word.clone()).prop_map(|(cpu, page, word)| Step::Load { cpu, page, word }),
        3 => (cpu.clone(), index(), word, any::<u64>())
            .prop_map(|(cpu, page, word, value)| Step::Store { cpu, page, word, value }),
        2 => (proptest::option::of(0..2usize), cpu.clone(), index())
            .prop_map(|(guest, cpu, page)| Step::Speculate { guest, cpu, page }),
        1 => cpu.prop_map(|cpu| Step::Leave { cpu }),
    ]
    .boxed()
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(prop_oneof![2 => changes(), 3 => accesses()], 1..160)
}

fn options() -> impl Strategy<Value = Options> {
    // What a shadow stands on has no A bits of a processor's.
    let guests = prop_oneof![
        3 => Just((AccessedDirty::Hardware, Paging::Ept)),
        1 => Just((AccessedDirty::Absent, Paging::Ept)),
        2 => Just((AccessedDirty::Absent, Paging::Shadow)),
    ];
    let speculation = prop_oneof![Just(Speculation::Off), Just(Speculation::AfterFlush)];
    (guests, speculation, prop_oneof![Just(0u64), Just(1500)]).prop_map(
        |((accessed_dirty, paging), speculation, quarantine)| {
            Options { frames: 8192, cpus: CPUS, quarantine, accessed_dirty, speculation, paging }
                .with_chosen_paging()
        },
    )
}

/// The second guest's own paging, where it is under a shadow: four levels, whose tables lie behind the arena.
const PAGING: GuestPaging = GuestPaging {
    cr0: 1 << 31 | 1 << 16 | 1,
    cr3: REGIONS * 512 * PAGE_SIZE,
    cr4: 1 << 5,
    efer: 1 << 8 | 1 << 10 | 1 << 11,
    pdptes: [0; 4],
    physical_bits: 40,
    gigantic_pages: true,
};
/// What lies in a table, at a place: addresses lead to themselves, region 0 in pages of 4 KiB, all else of the first GiB in large ones.
/// P, W, U, A, D; and PS.
fn entries() -> impl Iterator<Item = (u64, u64, u64)> {
    const ENTRY: u64 = 0b110_0111;
    const LARGE: u64 = 1 << 7;
    let table = |number: u64| gpage(REGIONS * 512 + number).as_u64() | ENTRY;
    let large = (1..512).map(|index| (2, index, gpage(index * 512).as_u64() | ENTRY | LARGE));
    let small = (0..512).map(|index| (3, index, gpage(index).as_u64() | ENTRY));
    [(0, 0, table(1)), (1, 0, table(2)), (2, 0, table(3))].into_iter().chain(large).chain(small)
}

/// Pages of tables.
const TABLES: u64 = 4;

fn give_paging(lab: &mut Lab, guest: GuestId) -> Result<(), Violation> {
    let tables = pages(REGIONS * 512, TABLES);
    lab.mmap(tables, Protection::ReadWrite, PageSize::Size4K)?;
    lab.add_slot(guest, gpage(REGIONS * 512), tables);
    for (table, place, entry) in entries() {
        let at = page(REGIONS * 512 + table).add(place * 8);
        // The first store of each page faults; the others are made by the same translation.
        if lab.machine.store_linear(CpuIndex(0), at, entry).is_err() {
            lab.store(CpuIndex(0), at, entry)?;
        }
    }
    lab.set_paging(guest, PAGING);
    Ok(())
}

/// A bench with two guests: the first sees the arena in step, and a part of it out of step; the second in step only.
fn bench(options: Options) -> Result<Lab, Violation> {
    let mut lab = Lab::with_ram(options, REGIONS * 512);
    let second = lab.add_guest();
    lab.add_slot(second, gpage(0), pages(0, REGIONS * 512));
    lab.add_slot(GuestId(0), gpage(ALIAS), pages(ALIASED.0, ALIASED.1));
    lab.add_slot(GuestId(0), gpage(SHORT.0), pages(512, SHORT.1));
    lab.mmap(pages(0, 512), Protection::ReadWrite, PageSize::Size4K)?;
    lab.mmap(pages(512, 512), Protection::ReadWrite, PageSize::Size2M)?;
    if options.paging == Paging::Shadow {
        give_paging(&mut lab, second)?;
    }
    Ok(lab)
}

struct Run {
    lab: Lab,
    aliased: bool,
}

impl Run {
    fn step(&mut self, step: Step) -> Result<Verdict, Violation> {
        let lab = &self.lab;
        match step {
            Step::Mmap { .. }
            | Step::MmapHuge { .. }
            | Step::Munmap { .. }
            | Step::Mprotect { .. }
            | Step::Discard { .. } => self.change(step),
            Step::Migrate { page: index } => lab.migrate(page(index)),
            Step::Age { page: index } => lab.age(page(index)),
            Step::GuestLoad { guest, cpu, page, word } => {
                lab.guest_load(GuestId(guest), CpuIndex(cpu), gpage(page).add(word * 8))
            }
            Step::GuestStore { guest, cpu, page, word, value } => {
                lab.guest_store(GuestId(guest), CpuIndex(cpu), gpage(page).add(word * 8), value)
            }
            Step::GuestStream { guest, cpu, page, count, value } => {
                // Behind the last region are the second guest's tables.
                for page in page..(page + count).min(REGIONS * 512) {
                    lab.guest_store(GuestId(guest), CpuIndex(cpu), gpage(page), value)?;
                }
                Ok(Verdict::Done)
            }
            Step::Load { cpu, page: index, word } => lab.load(CpuIndex(cpu), page(index).add(word * 8)),
            Step::Store { cpu, page: index, word, value } => {
                lab.store(CpuIndex(cpu), page(index).add(word * 8), value)
            }
            Step::Speculate { guest, cpu, page: index } => {
                let address = guest.map_or(page(index).as_u64(), |_| gpage(index).as_u64());
                lab.speculate(guest.map(GuestId), CpuIndex(cpu), address)
            }
            Step::Leave { cpu } => {
                lab.machine.exit(CpuIndex(cpu));
                Ok(Verdict::Done)
            }
            Step::ToggleAlias => self.toggle_alias(),
            Step::FailNext { after } => {
                lab.machine.fail_allocation_after(after);
                Ok(Verdict::Done)
            }
        }
    }

    fn change(&self, step: Step) -> Result<Verdict, Violation> {
        let lab = &self.lab;
        match step {
            Step::Mmap { first, count, protection } => {
                lab.mmap(pages(first, count), protection, PageSize::Size4K)
            }
            Step::MmapHuge { first, count, protection } => {
                lab.mmap(pages(first, count), protection, PageSize::Size2M)
            }
            Step::Munmap { first, count } => lab.munmap(pages(first, count)),
            Step::Mprotect { first, count, protection } => lab.mprotect(pages(first, count), protection),
            Step::Discard { first, count } => lab.discard(pages(first, count)),
            _ => unreachable!("{step:?} changes no mapping"),
        }
    }

    fn toggle_alias(&mut self) -> Result<Verdict, Violation> {
        self.aliased = !self.aliased;
        if self.aliased {
            self.lab.add_slot(GuestId(0), gpage(ALIAS), pages(ALIASED.0, ALIASED.1));
            return Ok(Verdict::Done);
        }
        self.lab.remove_slot(GuestId(0), gpage(ALIAS))
    }
}

fn run(options: Options, steps: &[Step]) -> Result<(), Violation> {
    let mut run = Run { lab: bench(options)?, aliased: true };
    for &step in steps {
        run.step(step)?;
    }
    run.lab.machine.cancel_failure();
    run.lab.compare_all(CpuIndex(0))?;
    run.lab.finish()
}

#[test]
fn any_sequence_leaves_everything_in_order() -> Result<(), Box<dyn std::error::Error>> {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    let config = ProptestConfig {
        cases: asked.unwrap_or(CASES),
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    };
    let check = |(options, steps): (Options, Vec<Step>)| -> TestCaseResult {
        run(options, &steps).map_err(|violation| TestCaseError::fail(format!("{violation:?}")))
    };
    let random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    TestRunner::new_with_rng(config, random).run(&(options(), steps()), check)?;
    Ok(())
}
