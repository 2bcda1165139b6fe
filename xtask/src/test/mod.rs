//! `test` and `ci`: host tests, then scenarios on an emulated machine. The last line is the sum.

mod fixtures;
mod host;
mod machine;
mod scenario;
mod table;

use crate::cli::{Suite, TestArgs};
use crate::error::not_yet;
use crate::tidy;
use anyhow::Result;

/// Any warning is an error.
const DENY: [&str; 4] = ["--quiet", "--", "-D", "warnings"];
/// Checked as if for the host, whose toolchain has the lints: nothing is linked.
const METAL_CLIPPY: [&str; 8] =
    ["clippy", "--bins", "--package", "herald", "--package", "loader", "--package", "guest"];

/// The models of concurrency, and what they are made of: no default members.
const MODEL_CLIPPY: [&str; 4] = ["clippy", "--all-targets", "--package", "models"];
const LOOM_CLIPPY: [&str; 6] = ["clippy", "--all-targets", "--package", "sync", "--features", "loom"];

/// Herald without the notifier chain.
const UNNOTIFIED_CLIPPY: [&str; 5] = ["clippy", "--bins", "--package", "herald", "--no-default-features"];

/// How many tests ran.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Tally {
    passed: usize,
    failed: usize,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    fn count(&mut self, passed: bool) {
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
    match args.suite {
        Suite::Mutants => return Err(not_yet("test mutants")),
        Suite::Nested => return Err(not_yet("test nested")),
        Suite::Host => tally.add(host::run()?),
        Suite::Machine => tally.add(machine::run(args.only.as_deref())?),
        Suite::All => {
            tally.add(host::run()?);
            tally.add(machine::run(args.only.as_deref())?);
        }
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(u8::from(tally.failed != 0))
}

/// Everything that must hold before a change goes in: rules, format, lints, then all tests.
///
/// # Errors
/// As for the parts.
pub(crate) fn ci() -> Result<u8> {
    let checks = [
        ("tidy", tidy::run()? == 0),
        ("fmt", host::cargo(&["fmt", "--all", "--check"])?),
        ("clippy", host::cargo(&[&["clippy", "--all-targets"], &DENY[..]].concat())?),
        ("clippy, bare metal", host::cargo(&[&METAL_CLIPPY[..], &DENY].concat())?),
        ("clippy, models", host::cargo(&[&MODEL_CLIPPY[..], &DENY].concat())?),
        ("clippy, loom", host::cargo(&[&LOOM_CLIPPY[..], &DENY].concat())?),
        ("clippy, no notifiers", host::cargo(&[&UNNOTIFIED_CLIPPY[..], &DENY].concat())?),
    ];
    for (name, passed) in checks {
        println!("{name}: {}", if passed { "ok" } else { "FAILED" });
    }
    let tests = run(&TestArgs { suite: Suite::All, only: None })?;
    Ok(if checks.iter().all(|(_, passed)| *passed) { tests } else { 1 })
}
