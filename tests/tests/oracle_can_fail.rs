//! Tests of the tests: a notifier call that is not heard, or a flush that does not happen, must be found.
//!
//! The mutants are chosen at run time: the subscriber is deaf to chosen calls, the machine skips chosen flushes.
//! First by kind, with the violation that each must cause; then every single call and every single flush of a
//! workload, one at a time: a survivor is a missing test.

use addr::{HvaRange, PageSize};
use mm::notifier::MmuNotifier;
use mm::{Access, CpuIndex, Protection};
use std::sync::Arc;
use tests::Violation;
use tests::lab::{GuestId, Lab, Miss, Notice, Verdict, gpage, page, pages};
use tests::machine::{Options, Skip, Speculation};

const GUEST: GuestId = GuestId(0);
const CPU0: CpuIndex = CpuIndex(0);
const CPU1: CpuIndex = CpuIndex(1);
/// Guest pages of the slot that shows pages 1 to 4 a second time.
const ALIAS: u64 = 100;
/// Retries after which a fault counts as stuck for ever.
const STUCK: u64 = 10_000;

#[derive(Clone, Copy, Debug)]
enum Mutant {
    None,
    Deaf(Miss),
    Unflushed(Skip),
}

type Outcome = Result<(), Violation>;
type Operation = fn(&Lab) -> Result<Verdict, Violation>;

/// 16 pages of guest memory, touched and cached by everybody: a guest on CPU 0, Herald on CPU 1.
fn bench(speculation: Speculation) -> Result<Lab, Violation> {
    let lab = Lab::with_ram(Options { speculation, ..Options::default() }, 16);
    lab.mmap(pages(0, 16), Protection::ReadWrite, PageSize::Size4K)?;
    for index in 0..16 {
        lab.guest_store(GUEST, CPU0, gpage(index), index)?;
        lab.store(CPU1, page(index), index + 100)?;
    }
    lab.add_slot(GUEST, gpage(ALIAS), pages(1, 4));
    lab.guest_load(GUEST, CPU0, gpage(ALIAS))?;
    Ok(lab)
}

fn apply(lab: &Lab, mutant: Mutant) {
    match mutant {
        Mutant::None => {}
        Mutant::Deaf(miss) => lab.guest(GUEST).ears.miss(miss),
        Mutant::Unflushed(skip) => lab.machine.skip_flushes(skip),
    }
}

/// Every operation that has a notifier site, with the calls that it makes.
const OPERATIONS: [(&str, Notice, Operation); 7] = [
    ("munmap", Notice::RangeBegin, |lab| lab.munmap(pages(2, 3))),
    ("mmap over", Notice::RangeBegin, |lab| lab.mmap(pages(2, 3), Protection::ReadWrite, PageSize::Size4K)),
    ("discard", Notice::RangeBegin, |lab| lab.discard(pages(2, 3))),
    ("mprotect none", Notice::RangeBegin, |lab| lab.mprotect(pages(2, 3), Protection::None)),
    ("mprotect read", Notice::RangeBegin, |lab| lab.mprotect(pages(2, 3), Protection::Read)),
    ("migrate", Notice::InvalidatePage, |lab| lab.migrate(page(2))),
    ("exit", Notice::Release, |lab| lab.exit_space()),
];

#[test]
fn without_a_mutant_all_is_well() -> Outcome {
    for (_, _, operation) in OPERATIONS {
        let lab = bench(Speculation::Off)?;
        operation(&lab)?;
        lab.finish()?;
    }
    STEPS.iter().try_for_each(|step| run(step, Mutant::None, Speculation::Off).map(|_| ()))
}

#[test]
fn a_call_that_is_not_heard_is_found_at_its_site() -> Outcome {
    for (name, notice, operation) in OPERATIONS {
        let lab = bench(Speculation::Off)?;
        apply(&lab, Mutant::Deaf(Miss::Every(notice)));
        let violation = operation(&lab).expect_err(name);
        let stale = matches!(
            violation,
            Violation::FreedWhileTranslated { .. }
                | Violation::SecondaryDiffers { .. }
                | Violation::SecondaryWritable { .. }
        );
        assert!(stale, "{name}: {violation:?}");
    }
    Ok(())
}

#[test]
fn aging_that_is_not_heard_is_found() -> Outcome {
    let lab = bench(Speculation::Off)?;
    lab.age(page(2))?;
    lab.guest_load(GUEST, CPU0, gpage(2))?;
    apply(&lab, Mutant::Deaf(Miss::Every(Notice::ClearFlushYoung)));
    let violation = lab.age(page(2)).expect_err("the guest's touch is not seen");
    assert!(matches!(violation, Violation::Answer { .. }), "{violation:?}");
    Ok(())
}

#[test]
fn a_flush_that_does_not_happen_is_found_at_its_site() -> Outcome {
    let aging: (_, _, Operation) = ("age", Notice::ClearFlushYoung, |lab| lab.age(page(2)));
    for (name, _, operation) in OPERATIONS.into_iter().chain([aging]) {
        for skip in [Skip::Primary, Skip::Secondary] {
            let lab = bench(Speculation::Off)?;
            // CPU 0 is in guest mode, CPU 1 in root mode: each could use what it has at once.
            lab.run_guest(GUEST, CPU0);
            apply(&lab, Mutant::Unflushed(skip));
            let violation = operation(&lab).expect_err(name);
            let found = matches!(
                violation,
                Violation::FreedWhileTranslated { .. }
                    | Violation::FreedWhileWalkable { .. }
                    | Violation::Stale { .. }
                    | Violation::Unaged { .. }
            );
            assert!(found, "{name}, {skip:?}: {violation:?}");
        }
    }
    Ok(())
}

#[test]
fn a_slot_removed_without_a_flush_is_found() -> Outcome {
    let lab = bench(Speculation::Off)?;
    apply(&lab, Mutant::Unflushed(Skip::Secondary));
    let violation = lab.remove_slot(GUEST, gpage(0)).expect_err("translations are left");
    assert!(matches!(violation, Violation::Stale { .. }), "{violation:?}");
    Ok(())
}

/// A subscriber that has the guest touch a page whenever a range begins, after the guest's MMU has heard of it.
struct Toucher<F>(F);

impl<F: Fn() + Send + Sync> MmuNotifier for Toucher<F> {
    fn invalidate_range_begin(&self, _: HvaRange) {
        (self.0)();
    }
}

/// An end before the primary entries have changed lets a fault install the old frame in between.
#[test]
fn an_end_that_comes_too_early_is_found() -> Outcome {
    for early in [false, true] {
        let lab = bench(Speculation::Off)?;
        let mmu = Arc::clone(&lab.guest(GUEST).mmu);
        let before = mmu.stats().snapshot().retries;
        lab.space.register(Arc::new(Toucher(move || {
            let guest = Arc::clone(&mmu);
            let fault = std::thread::spawn(move || guest.fault(gpage(3), Access::Read));
            while !fault.is_finished() && mmu.stats().snapshot().retries == before {
                std::thread::yield_now();
            }
        })));
        if early {
            apply(&lab, Mutant::Deaf(Miss::EndsEarly));
        }
        let found = lab.discard(pages(3, 1));
        assert_eq!(found.is_err(), early, "{found:?}");
    }
    Ok(())
}

/// Operations of the single-mutant tests, each with the calls and flushes that may be missed without harm, by
/// number: a mutant that survives must stand here, with the proof.
struct Step {
    name: &'static str,
    operation: Operation,
    needless_calls: &'static [u64],
    needless_flushes: &'static [u64],
}

impl Step {
    const fn new(name: &'static str, operation: Operation) -> Self {
        Self { name, operation, needless_calls: &[], needless_flushes: &[] }
    }
}

/// To more rights and back: what is cached allows less than the entries do, never more, and a cached refusal costs
/// one spurious fault. So the begin is needless, and so is the flush of the primary translations. (The begin's
/// own flush is not: it has zapped.)
const fn and_back(name: &'static str, operation: Operation, needless_flushes: &'static [u64]) -> Step {
    Step { name, operation, needless_calls: &[2], needless_flushes }
}

const STEPS: [Step; 8] = [
    // Mapped again: a range without its end would block the new pages.
    Step::new("munmap", |lab| {
        lab.munmap(pages(2, 3))?;
        lab.mmap(pages(2, 3), Protection::ReadWrite, PageSize::Size4K)
    }),
    Step::new("mmap over", |lab| lab.mmap(pages(2, 3), Protection::ReadWrite, PageSize::Size4K)),
    Step::new("discard", |lab| lab.discard(pages(2, 3))),
    and_back("mprotect none", |lab| protect_and_back(lab, Protection::None), &[2]),
    and_back("mprotect read", |lab| protect_and_back(lab, Protection::Read), &[3]),
    Step::new("migrate", |lab| lab.migrate(page(2))),
    // The second call finds a page that nobody has used since the first: there is no bit to clear.
    Step {
        name: "age",
        operation: |lab| {
            lab.age(page(2))?;
            lab.age(page(2))?;
            lab.guest_load(GUEST, CPU0, gpage(2))?;
            lab.age(page(2))
        },
        needless_calls: &[1],
        needless_flushes: &[],
    },
    Step::new("remove a slot", |lab| lab.remove_slot(GUEST, gpage(ALIAS))),
];

fn protect_and_back(lab: &Lab, protection: Protection) -> Result<Verdict, Violation> {
    lab.mprotect(pages(2, 3), protection)?;
    warm(lab)?;
    lab.mprotect(pages(2, 3), Protection::ReadWrite)
}

/// Everything is cached by everybody who may: the guest's pages on CPU 0, in guest mode, Herald's on CPU 1.
fn warm(lab: &Lab) -> Outcome {
    for index in 0..16 {
        lab.guest_load(GUEST, CPU0, gpage(index))?;
        lab.load(CPU1, page(index))?;
    }
    (0..4).try_for_each(|index| lab.guest_load(GUEST, CPU0, gpage(ALIAS + index)).map(|_| ()))
}

/// Runs one step with a mutant from the step on, and then everything to its end; returns the calls and flushes
/// that there were.
fn run(step: &Step, mutant: Mutant, speculation: Speculation) -> Result<(u64, u64), Violation> {
    let lab = Arc::new(bench(speculation)?);
    warm(&lab)?;
    let (calls, flushes) = (lab.guest(GUEST).ears.calls(), lab.machine.flushes());
    apply(&lab, shifted(mutant, calls, flushes));
    let worker = {
        let (lab, operation) = (Arc::clone(&lab), step.operation);
        std::thread::spawn(move || {
            operation(&lab)?;
            warm(&lab)
        })
    };
    let stuck = deliver_missing_end(&lab, || worker.is_finished());
    let result = worker.join().expect("the oracle finds a fault before the product panics");
    if stuck {
        let found = format!("{STUCK} retries");
        return Err(Violation::Answer { what: "a guest's fault".into(), expected: "an end".into(), found });
    }
    result?;
    lab.exit_space()?;
    // The guest walks what is left of its tables, so that freeing them needs a flush.
    lab.speculate(Some(GUEST), CPU0, gpage(1).as_u64())?;
    let calls = lab.guest(GUEST).ears.calls() - calls;
    let machine = Arc::clone(&lab.machine);
    Arc::into_inner(lab).expect("the worker has ended").finish()?;
    Ok((calls, machine.flushes() - flushes))
}

/// A fault under a range that has lost its end tries for ever: ends the range so that the thread can end, and
/// tells that it was needed.
fn deliver_missing_end(lab: &Lab, is_finished: impl Fn() -> bool) -> bool {
    let mmu = &lab.guest(GUEST).mmu;
    let mut stuck = false;
    while !is_finished() {
        std::thread::yield_now();
        if !stuck && mmu.stats().snapshot().retries > STUCK {
            stuck = true;
            mmu.invalidate_range_end(pages(0, 16));
        }
    }
    stuck
}

/// Numbers count from the step's first call or flush on.
fn shifted(mutant: Mutant, calls: u64, flushes: u64) -> Mutant {
    match mutant {
        Mutant::Deaf(Miss::Number(number)) => Mutant::Deaf(Miss::Number(calls + number)),
        Mutant::Unflushed(Skip::Number(number)) => Mutant::Unflushed(Skip::Number(flushes + number)),
        other => other,
    }
}

#[test]
fn every_single_call_is_missed_by_somebody() -> Outcome {
    for step in &STEPS {
        let (calls, _) = run(step, Mutant::None, Speculation::Off)?;
        let survivors: Vec<_> = (0..calls)
            .filter(|&number| run(step, Mutant::Deaf(Miss::Number(number)), Speculation::Off).is_ok())
            .collect();
        assert_eq!(survivors, step.needless_calls, "{}, of {calls} calls", step.name);
    }
    Ok(())
}

/// On CPUs that fetch again at once what they had to forget: between the flush of the entries and that of the tables a
/// CPU comes to the tables again.
#[test]
fn every_single_flush_is_missed_by_somebody() -> Outcome {
    let speculation = Speculation::AfterFlush;
    for step in &STEPS {
        let (_, flushes) = run(step, Mutant::None, speculation)?;
        let survivors: Vec<_> = (0..flushes)
            .filter(|&number| run(step, Mutant::Unflushed(Skip::Number(number)), speculation).is_ok())
            .collect();
        assert_eq!(survivors, step.needless_flushes, "{}, of {flushes} flushes", step.name);
    }
    Ok(())
}
