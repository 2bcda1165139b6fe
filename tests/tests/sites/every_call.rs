//! Tests of the tests: each scenario again, once for each call that a guest's MMU misses, and once for each operation
//! that it never hears. Somebody must notice: the oracle, a content check, or an assertion of the product. Only a
//! call that is provably without effect may be missed (`recorder::Call::is_needless`).

use crate::bench::{Bench, answer};
use crate::scenario::Scenario;
use crate::{
    Outcome, apply, batch, cow, fork, hugetlb, merge, mremap, nonlinear, protect, swap, thp, unmap,
    writeback, xip, young,
};
use addr::HvaRange;
use mm::notifier::MmuNotifier;
use std::sync::Arc;
use tests::Violation;
use tests::lab::{Miss, Notice, pages};

/// Retries after which a guest's fault counts as stuck for ever.
const STUCK: u64 = 2_000;

const SCENARIOS: &[&[Scenario]] = &[
    &[fork::FORK, cow::COPY, cow::ZERO_PAGE, cow::PRIVATE_FILE],
    &[batch::TOGETHER],
    &[swap::SWAP_OUT, swap::YOUNG, swap::SHARED, swap::LAZY_FREE],
    &[writeback::WRITE_BACK],
    &[unmap::DISCARD, unmap::TRUNCATE, unmap::MUNMAP, unmap::MAP_OVER, unmap::EXIT],
    &[protect::PROTECT, protect::PROTECT_HUGE, protect::MIGRATE],
    &[merge::MERGE, merge::HERALD_WRITES],
    &[young::REFERENCED, young::REFERENCED_BY_CHILD, young::TEST_YOUNG, young::COLD],
    &[xip::FILL_HOLE],
    &[hugetlb::UNMAP, hugetlb::DISCARD, hugetlb::FORK, hugetlb::COPY],
    &[mremap::MOVE, mremap::MOVE_ONTO, mremap::SHRINK_AND_GROW, mremap::MOVE_FILE],
    &[apply::APPLY, apply::FAIL],
    &[thp::SPLIT_BY_PROTECT, thp::SPLIT_BY_MUNMAP, thp::COLLAPSE, thp::FORK, thp::MOVE],
    &[nonlinear::REMAP_FILE_PAGES, nonlinear::RECLAIM, nonlinear::YOUNG, nonlinear::WRITE_BACK],
];

/// A call that a scenario makes to the guest of one space.
struct Made {
    space: usize,
    /// Counted from the space's subscription.
    number: u64,
    notice: Notice,
    needless: Option<&'static str>,
}

/// Runs a scenario with nothing missed, and lists the calls of its act.
fn calls_of(scenario: &Scenario) -> Result<Vec<Made>, Violation> {
    let bench = Bench::new(scenario.plan);
    (scenario.prepare)(&bench)?;
    let prepared: Vec<_> = bench.live().into_iter().map(|id| bench.space(id).log.calls().len()).collect();
    (scenario.act)(&bench)?;
    let mut made = Vec::new();
    for id in bench.live() {
        let first = prepared.get(id).copied().unwrap_or(0);
        let log = Arc::clone(&bench.space(id).log);
        let calls = log.calls();
        for number in first..calls.len() {
            let needless = calls[number].is_needless(calls.get(number + 1));
            made.push(Made { space: id, number: number as u64, notice: calls[number].notice, needless });
        }
    }
    bench.finish()?;
    Ok(made)
}

/// Runs a scenario whose guest in `space` misses calls from the act on. A space that the act makes does not exist
/// before: it misses none.
fn run_deaf(scenario: &Scenario, space: usize, miss: Miss) -> Outcome {
    let bench = Arc::new(Bench::new(scenario.plan));
    (scenario.prepare)(&bench)?;
    bench.space(space).ears.miss(miss);
    let worker = {
        let (bench, act) = (Arc::clone(&bench), scenario.act);
        std::thread::spawn(move || {
            act(&bench)?;
            bench.touch_all();
            bench.check()
        })
    };
    let stuck = deliver_missing_end(&bench, || worker.is_finished());
    let noticed = worker.join().map_err(|_| answer("the act", "an end", "a panic"))?;
    if stuck { Err(answer("a guest's fault", "an end", format!("{STUCK} retries"))) } else { noticed }
}

/// A fault under a range that has lost its end tries for ever: ends the range so that the thread can end, and tells
/// that it was needed.
fn deliver_missing_end(bench: &Bench, is_finished: impl Fn() -> bool) -> bool {
    let mmus: Vec<_> = bench.live().into_iter().map(|id| Arc::clone(&bench.space(id).mmu)).collect();
    let everything: HvaRange = pages(0, 1);
    let mut stuck = false;
    while !is_finished() {
        std::thread::yield_now();
        for mmu in &mmus {
            if mmu.stats().snapshot().retries > STUCK {
                stuck = true;
                mmu.invalidate_range_end(everything);
            }
        }
    }
    stuck
}

fn survivors(scenario: &Scenario) -> Result<Vec<String>, Violation> {
    let name = scenario.name;
    let made = calls_of(scenario)?;
    let prepared = {
        let bench = Bench::new(scenario.plan);
        (scenario.prepare)(&bench)?;
        bench.live().len()
    };
    let mut survivors = Vec::new();
    let mut missed = Vec::new();
    for Made { space, number, notice, .. } in
        made.iter().filter(|made| made.needless.is_none() && made.space < prepared)
    {
        if run_deaf(scenario, *space, Miss::Number(*number)).is_ok() {
            survivors.push(format!("{name}: call {number} in space {space}, {notice:?}"));
        }
        if !missed.contains(&(*space, *notice)) {
            missed.push((*space, *notice));
        }
    }
    for (space, notice) in &missed {
        if run_deaf(scenario, *space, Miss::Every(*notice)).is_ok() {
            survivors.push(format!("{name}: every {notice:?} in space {space}"));
        }
    }
    if missed.is_empty() {
        survivors.push(format!("{name}: no call in {} matters", made.len()));
    }
    Ok(survivors)
}

fn nobody_survives(scenarios: &[Scenario]) -> Outcome {
    let mut all = Vec::new();
    for scenario in scenarios {
        all.extend(survivors(scenario)?);
    }
    assert!(all.is_empty(), "{all:#?}");
    Ok(())
}

#[test]
fn a_missed_call_is_noticed_in_every_scenario() -> Outcome {
    SCENARIOS.iter().try_for_each(|scenarios| nobody_survives(scenarios))
}
