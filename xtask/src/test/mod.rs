//! `test` and `ci`: host tests, a bounded search by fuzzing, then scenarios on an emulated machine. The last line is the sum.

mod balloon;
mod clones;
mod dialogue;
mod fairness;
mod fixtures;
mod host;
mod machine;
mod medium;
mod merging;
mod mutants;
mod nested;
mod overcommit;
mod pool;
mod random;
mod scenario;
mod shadow;
mod smp;
mod snapshots;
mod stress;
mod table;
mod weights;

use crate::cli::{Suite, TestArgs, TidyArgs};
use crate::{fuzz, tidy};
use anyhow::{Result, ensure};
use machine::Bench;
pub(crate) use pool::Job;
use std::panic::resume_unwind;

/// Any warning is an error.
const DENY: [&str; 4] = ["--quiet", "--", "-D", "warnings"];
/// Checked as if for the host, whose toolchain has the lints: nothing is linked. Apart, as they are built, and by the profile
/// that they are built by: they do not unwind.
const HERALD_CLIPPY: [&str; 5] = ["clippy", "--release", "--bins", "--package", "herald"];
const HEAPLESS_CLIPPY: [&str; 9] = [
    "clippy",
    "--release",
    "--bins",
    "--package",
    "loader",
    "--package",
    "guest",
    "--features",
    "loader/metal",
];
const UEFI_CLIPPY: [&str; 8] =
    ["clippy", "--release", "--bin", "loader-uefi", "--package", "loader", "--features", "loader/uefi"];

/// The models of concurrency, and what they are made of: no default members.
const MODEL_CLIPPY: [&str; 4] = ["clippy", "--all-targets", "--package", "models"];
const LOOM_CLIPPY: [&str; 6] = ["clippy", "--all-targets", "--package", "sync", "--features", "loom"];

/// Herald without the notifier chain.
const UNNOTIFIED_CLIPPY: [&str; 6] =
    ["clippy", "--release", "--bins", "--package", "herald", "--no-default-features"];

/// Targets without their C++ runtime: nothing is linked.
const FUZZ_CLIPPY: [&str; 6] = [
    "clippy",
    "--manifest-path",
    fuzz::MANIFEST,
    "--no-default-features",
    "--target-dir",
    "target/fuzz/clippy",
];

/// How many tests ran.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tally {
    passed: usize,
    failed: usize,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// What [`Self::told`] printed.
    fn parse(line: &str) -> Option<Self> {
        let (passed, failed) = line.strip_suffix(" failed")?.split_once(" passed, ")?;
        Some(Self { passed: passed.parse().ok()?, failed: failed.parse().ok()? })
    }

    /// Prints the last line of a run; its exit status.
    pub(crate) fn told(self) -> u8 {
        println!("{} passed, {} failed", self.passed, self.failed);
        u8::from(self.failed != 0)
    }

    /// One test more.
    pub(crate) fn count(&mut self, passed: bool) {
        if passed {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
    }
}

/// Runs the tests that were asked for.
///
/// # Errors
/// A suite that is not there yet, or one that cannot even start.
pub(crate) fn run(args: &TestArgs) -> Result<u8> {
    let mut tally = Tally::default();
    ensure!(!args.shadow || args.suite == Suite::Machine, "--shadow is for the suite `machine`");
    match args.suite {
        Suite::Random => return random::run(args.steps, args.seed),
        Suite::Mutants => {
            let list = if args.list { mutants::List::Written } else { mutants::List::Kept };
            return mutants::run(args.only.as_deref(), list);
        }
        Suite::Nested => tally.add(nested::run(args.only.as_deref())?),
        Suite::Host => tally.add(pool::run(host::build()?)),
        Suite::Machine => {
            let bench = Bench::prepare()?;
            if args.shadow {
                let bench = bench.under_shadows();
                return Ok(pool::run(named(args.only.as_deref(), bench.shadowed_jobs())?).told());
            }
            tally.add(pool::run(named(args.only.as_deref(), bench.jobs())?));
        }
        Suite::All => return all(args.only.as_deref()),
    }
    Ok(tally.told())
}

/// What needs no asking: all is built, then all is run. `only` is for what runs on the machine. What cannot be built is one test that failed.
fn all(only: Option<&str>) -> Result<u8> {
    // What it installs is there before the others begin.
    let searches = fuzz::bounded().unwrap_or_else(|error| vec![Job::check("fuzzing", || Err(error))]);
    // To link Herald takes long, and one processor.
    let (tests, bench) = std::thread::scope(|scope| {
        let bench = scope.spawn(Bench::prepare);
        (host::build(), bench.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    let tests = tests?;
    let (bench, failed) = match bench {
        Ok(bench) => (Some(bench), None),
        Err(error) => (None, Some(Job::check("what scenarios need", || Err(error)))),
    };
    let scenarios = match &bench {
        Some(bench) => named(only, [bench.lab()].into_iter().chain(bench.jobs()).collect())?,
        None => Vec::new(),
    };
    // The lab comes first, if it is wanted.
    let (lab, scenarios): (Vec<_>, Vec<_>) = scenarios.into_iter().partition(|job| job.name == Bench::LAB);
    let jobs = lab.into_iter().chain(tests).chain(searches).chain(failed).chain(scenarios);
    Ok(pool::run(jobs.collect()).told())
}

/// Those whose name contains `only`.
///
/// # Errors
/// None does.
fn named<'a>(only: Option<&str>, mut jobs: Vec<Job<'a>>) -> Result<Vec<Job<'a>>> {
    jobs.retain(|job| only.is_none_or(|text| job.name.contains(text)));
    ensure!(!jobs.is_empty(), "no scenario's name contains `{}`", only.unwrap_or_default());
    Ok(jobs)
}

/// Everything that must hold before a change goes in: rules, format, lints, then all tests.
///
/// # Errors
/// As for the parts.
pub(crate) fn ci() -> Result<u8> {
    let checks = [
        ("tidy", tidy::run(&TidyArgs::default())? == 0),
        ("fmt", host::cargo(&["fmt", "--all", "--check"])?),
        ("fmt, fuzz targets", host::cargo(&["fmt", "--manifest-path", fuzz::MANIFEST, "--check"])?),
        ("clippy", host::cargo(&[&["clippy", "--all-targets"], &DENY[..]].concat())?),
        ("clippy, Herald", host::cargo(&[&HERALD_CLIPPY[..], &DENY].concat())?),
        ("clippy, loader and guests", host::cargo(&[&HEAPLESS_CLIPPY[..], &DENY].concat())?),
        ("clippy, UEFI loader", host::cargo(&[&UEFI_CLIPPY[..], &DENY].concat())?),
        ("clippy, models", host::cargo(&[&MODEL_CLIPPY[..], &DENY].concat())?),
        ("clippy, loom", host::cargo(&[&LOOM_CLIPPY[..], &DENY].concat())?),
        ("clippy, fuzz targets", host::cargo(&[&FUZZ_CLIPPY[..], &DENY].concat())?),
        ("clippy, no notifiers", host::cargo(&[&UNNOTIFIED_CLIPPY[..], &DENY].concat())?),
    ];
    for (name, passed) in checks {
        println!("{name}: {}", if passed { "ok" } else { "FAILED" });
    }
    let tests = all(None)?;
    Ok(if checks.iter().all(|(_, passed)| *passed) { tests } else { 1 })
}
