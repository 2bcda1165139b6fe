//! Tests of the pure crates and the tools, and models of concurrency: `cargo test` with the stable toolchain.

use super::Tally;
use crate::workspace;
use anyhow::{Context, Result};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// What is run, one after the other. Models stand apart: their features change what other crates are made of.
const RUNS: [&[&str]; 3] = [
    &["test", "--quiet", "--no-fail-fast"],
    &["test", "--quiet", "--no-fail-fast", "--package", "models"],
    &["test", "--quiet", "--no-fail-fast", "--package", "sync", "--features", "loom", "--lib"],
];

/// What is run once more with all guests under shadows (`tests/src/paging.rs`).
const UNDER_SHADOWS: [&str; 6] = ["test", "--quiet", "--package", "tests", "--test", "sites"];

/// Runs them, passing their output on.
///
/// # Errors
/// Cargo cannot be started.
pub(super) fn run() -> Result<Tally> {
    let mut tally = Tally::default();
    for arguments in RUNS {
        tally.add(run_one(command(arguments))?);
    }
    let mut shadows = command(&UNDER_SHADOWS);
    shadows.env("HERALD_PAGING", "shadow");
    tally.add(run_one(shadows)?);
    Ok(tally)
}

fn run_one(mut command: Command) -> Result<Tally> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let stdout = child.stdout.take().context("cargo has no standard output")?;
    let mut tally = Tally::default();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        tally.add(result_line(&line).unwrap_or_default());
        println!("{line}");
    }
    let status = child.wait()?;
    // A crate that does not compile has no result line.
    if !status.success() && tally.failed == 0 {
        tally.failed = 1;
    }
    Ok(tally)
}

/// Runs cargo in the tree; whether it succeeded.
///
/// # Errors
/// Cargo cannot be started.
pub(super) fn cargo(arguments: &[&str]) -> Result<bool> {
    Ok(command(arguments).status().context("cannot start cargo")?.success())
}

/// Cargo in the tree.
pub(super) fn command(arguments: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(workspace::root()).args(arguments).stdin(Stdio::null());
    command
}

/// `test result: ok. 31 passed; 0 failed; ...`
fn result_line(line: &str) -> Option<Tally> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let mut counts = counts.split("; ").map(|count| count.split(' ').next().unwrap_or_default().parse());
    Some(Tally { passed: counts.next()?.ok()?, failed: counts.next()?.ok()? })
}

#[cfg(test)]
mod tests {
    use super::super::Tally;
    use super::result_line;

    #[test]
    fn result_lines_are_read() {
        let line = "test result: FAILED. 31 passed; 2 failed; 0 ignored; 0 measured; finished in 0.02s";
        assert_eq!(result_line(line), Some(Tally { passed: 31, failed: 2 }));
        assert_eq!(result_line("test result of mine"), None);
    }
}
