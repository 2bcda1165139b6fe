//! Runs the scenarios, two at a time at most: an emulated machine takes a whole host processor.

use super::fairness::{FAIRNESS, Fairness};
use super::fixtures::Fixtures;
use super::medium::{MEDIA, Medium};
use super::scenario::Scenario;
use super::snapshots::{SNAPSHOTS, Snapshots};
use super::stress::{STRESS, Stress};
use super::table::SCENARIOS;
use super::weights::{WEIGHTS, Weights};
use super::{Tally, nested};
use crate::machine::Chosen;
use crate::metal::{self, Binaries};
use crate::package::strip;
use crate::{grub, qemu, setup};
use anyhow::{Context, Result, ensure};
use std::sync::Mutex;
use std::time::Instant;

/// Most scenarios at a time.
const WORKERS: usize = 2;
/// Herald's image must stay below this many bytes.
const LARGEST_IMAGE: usize = 1280 << 10;

/// Whether the nested lab is wanted beside the scenarios.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lab {
    With,
    Without,
}

/// What takes a host processor for a while.
#[derive(Clone, Copy, Debug)]
enum Job {
    Scenario(&'static Scenario),
    Medium(&'static Medium),
    Fairness(&'static Fairness),
    Weights(&'static Weights),
    Snapshots(&'static Snapshots),
    Stress(&'static Stress),
    Nested,
}

impl Job {
    const fn name(self) -> &'static str {
        match self {
            Self::Scenario(scenario) => scenario.name,
            Self::Medium(medium) => medium.name,
            Self::Fairness(fairness) => fairness.name,
            Self::Weights(weights) => weights.name,
            Self::Snapshots(snapshots) => snapshots.name,
            Self::Stress(stress) => stress.name,
            Self::Nested => "nested",
        }
    }

    fn run(self, fixtures: &Fixtures) -> Tally {
        let started = Instant::now();
        let result = match self {
            Self::Scenario(scenario) => scenario.run(fixtures),
            Self::Medium(medium) => medium.run(),
            Self::Fairness(fairness) => fairness.run(fixtures),
            Self::Weights(weights) => weights.run(fixtures),
            Self::Snapshots(snapshots) => snapshots.run(fixtures),
            Self::Stress(stress) => stress.run(fixtures),
            Self::Nested => match nested::run_in_lab(fixtures, None) {
                Ok(tally) => return tally,
                Err(error) => Err(error),
            },
        };
        let mut tally = Tally::default();
        tally.count(report(self.name(), started.elapsed().as_secs_f64(), &result));
        tally
    }
}

/// Runs those whose name contains `only`; the lab without that restriction alone.
///
/// # Errors
/// Nothing can be built or started.
pub(super) fn run(only: Option<&str>, lab: Lab) -> Result<Tally> {
    for machine in [Chosen::Bochs, Chosen::Tcg] {
        setup::ensure_machine(machine)?;
    }
    setup::ensure_packages("images", &grub::PACKAGES)?;
    setup::ensure_packages("UEFI", &qemu::OVMF_PACKAGES)?;
    let binaries = metal::build()?;
    metal::build_uefi()?;
    let fixtures = Fixtures::make(&binaries)?;
    let mut tally = Tally::default();
    if only.is_none() {
        tally.count(report("image-size", 0.0, &image_size(&binaries)));
    }
    let mut queue = jobs(lab);
    queue.retain(|job| only.is_none_or(|text| job.name().contains(text)));
    queue.reverse();
    let (queue, tally) = (Mutex::new(queue), Mutex::new(tally));
    std::thread::scope(|scope| {
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS);
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(job) = { locked(&queue).pop() } {
                    let sum = job.run(&fixtures);
                    locked(&tally).add(sum);
                }
            });
        }
    });
    Ok(tally.into_inner().unwrap_or_default())
}

/// All of them, the longest first.
fn jobs(lab: Lab) -> Vec<Job> {
    let nested = (lab == Lab::With).then_some(Job::Nested);
    let media = MEDIA.iter().map(Job::Medium);
    let scenarios = SCENARIOS.iter().copied().flatten().map(Job::Scenario);
    let fairness = FAIRNESS.iter().map(Job::Fairness);
    let weights = WEIGHTS.iter().map(Job::Weights);
    let snapshots = SNAPSHOTS.iter().map(Job::Snapshots);
    let stress = STRESS.iter().map(Job::Stress);
    nested
        .into_iter()
        .chain(stress)
        .chain(media)
        .chain(fairness)
        .chain(weights)
        .chain(snapshots)
        .chain(scenarios)
        .collect()
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Prints how one went; whether it passed.
pub(super) fn report(name: &str, seconds: f64, result: &Result<()>) -> bool {
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
