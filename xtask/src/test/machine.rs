//! Runs the scenarios, two at a time at most: an emulated machine takes a whole host processor.

use super::Tally;
use super::fixtures::Fixtures;
use super::scenario::Scenario;
use super::table::SCENARIOS;
use crate::machine::Chosen;
use crate::metal::{self, Binaries};
use crate::package::strip;
use crate::setup;
use anyhow::{Context, Result, ensure};
use std::sync::Mutex;
use std::time::Instant;

/// Most scenarios at a time.
const WORKERS: usize = 2;
/// Herald's image must stay below this many bytes.
const LARGEST_IMAGE: usize = 1 << 20;

/// Runs those whose name contains `only`.
///
/// # Errors
/// Nothing can be built or started.
pub(super) fn run(only: Option<&str>) -> Result<Tally> {
    for machine in [Chosen::Bochs, Chosen::Tcg] {
        setup::ensure_machine(machine)?;
    }
    let binaries = metal::build()?;
    let fixtures = Fixtures::make(&binaries)?;
    let mut tally = Tally::default();
    if only.is_none() {
        tally.count(report("image-size", 0.0, &image_size(&binaries)));
    }
    let wanted = |scenario: &&Scenario| only.is_none_or(|text| scenario.name.contains(text));
    let mut queue: Vec<&Scenario> = SCENARIOS.iter().copied().flatten().filter(wanted).collect();
    queue.reverse();
    let (queue, tally) = (Mutex::new(queue), Mutex::new(tally));
    std::thread::scope(|scope| {
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS);
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(scenario) = locked(&queue).pop() {
                    let started = Instant::now();
                    let result = scenario.run(&fixtures);
                    let passed = report(scenario.name, started.elapsed().as_secs_f64(), &result);
                    locked(&tally).count(passed);
                }
            });
        }
    });
    Ok(tally.into_inner().unwrap_or_default())
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn report(name: &str, seconds: f64, result: &Result<()>) -> bool {
    match result {
        Ok(()) => println!("ok      {name} ({seconds:.1} s)"),
        Err(error) => println!("FAILED  {name} ({seconds:.1} s): {error:#}"),
    }
    result.is_ok()
}

fn image_size(binaries: &Binaries) -> Result<()> {
    let elf = std::fs::read(&binaries.herald).context("Herald's image")?;
    let size = strip(&elf)?.len();
    ensure!(size < LARGEST_IMAGE, "Herald's image has {size} bytes, {LARGEST_IMAGE} are too many");
    Ok(())
}
