//! Tests of the pure crates and the tools, and models of concurrency: `cargo test` with the stable toolchain.

use super::Tally;
use super::pool::{self, Job};
use crate::{progress, workspace};
use anyhow::{Context, Result};
use std::process::{Command, Stdio};
use std::time::Instant;

/// What cargo is told for each; that of all members has the rest of the line to itself.
const TEST: [&str; 2] = ["test", "--no-fail-fast"];
/// Which is understood by each test program.
const THREADS: &str = "RUST_TEST_THREADS";

/// Tests of one invocation of cargo.
#[derive(Clone, Copy, Debug)]
struct Suite {
    name: &'static str,
    arguments: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
}

/// All of them, the longest first. Models stand apart: their features change what other crates are made of. Those under shadows
/// are scenarios once more, with all guests so (`tests/src/paging.rs`).
const SUITES: [Suite; 4] = [
    Suite { name: "models", arguments: &["--package", "models"], environment: &[] },
    Suite { name: "host", arguments: &[], environment: &[] },
    Suite {
        name: "sites under shadows",
        arguments: &["--package", "tests", "--test", "sites"],
        environment: &[("HERALD_PAGING", "shadow")],
    },
    Suite {
        name: "sync",
        arguments: &["--package", "sync", "--features", "loom", "--lib"],
        environment: &[],
    },
];

/// Compiles all of them; what is to be run then. A suite that does not compile has its messages told, and fails when it is run.
///
/// # Errors
/// Cargo cannot be started.
pub(super) fn build() -> Result<Vec<Job<'static>>> {
    for suite in SUITES {
        let label = format!("building the tests: {}", suite.name);
        let (status, output) = progress::follow(&label, suite.cargo().arg("--no-run"))?;
        if !status.success() {
            progress::say(&output.join("\n"));
        }
    }
    Ok(SUITES.iter().map(|suite| Job::sum(suite.name, || suite.run())).collect())
}

impl Suite {
    fn cargo(&self) -> Command {
        let mut command = command(&[&TEST[..], self.arguments].concat());
        command.envs(self.environment.iter().copied());
        command
    }

    /// Runs it, telling how each of its programs has ended when that does, and in the end what those say that have failed.
    ///
    /// # Errors
    /// Cargo cannot be started.
    fn run(&self) -> Result<Tally> {
        let started = Instant::now();
        let mut command = self.cargo();
        command.env(THREADS, pool::threads().to_string());
        let mut program = String::new();
        let (status, output) =
            progress::follow_each(&format!("testing: {}", self.name), &mut command, |line| {
                if let Some(name) = program_line(line) {
                    name.clone_into(&mut program);
                } else if let Some(Tally { passed, failed }) = result_line(line)
                    && passed + failed > 0
                {
                    progress::say(&format!("{}: {program}: {passed} passed, {failed} failed", self.name));
                }
            })?;
        let mut tally = Tally::default();
        output.iter().filter_map(|line| result_line(line)).for_each(|result| tally.add(result));
        // A crate that does not compile has no result line.
        if !status.success() && tally.failed == 0 {
            tally.failed = 1;
        }
        let seconds = started.elapsed().as_secs_f64();
        let wanted = |line: &&str| tally.failed > 0 && !line.trim().is_empty() && !line.ends_with(" ... ok");
        let told = output.iter().map(String::as_str).filter(wanted);
        let told = told.chain([""]).collect::<Vec<_>>().join("\n");
        let Tally { passed, failed } = tally;
        progress::say(&format!("{told}{}: {passed} passed, {failed} failed ({seconds:.1} s)", self.name));
        Ok(tally)
    }
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

/// `     Running tests/sites/main.rs (target/debug/deps/sites-...)`
fn program_line(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let rest = line.strip_prefix("Running ").or_else(|| line.strip_prefix("Doc-tests "))?;
    rest.split(" (").next()
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
    use super::{program_line, result_line};

    #[test]
    fn result_lines_are_read() {
        let line = "test result: FAILED. 31 passed; 2 failed; 0 ignored; 0 measured; finished in 0.02s";
        assert_eq!(result_line(line), Some(Tally { passed: 31, failed: 2 }));
        assert_eq!(result_line("test result of mine"), None);
    }

    #[test]
    fn names_of_programs_are_read() {
        let line = "     Running tests/sites/main.rs (target/debug/deps/sites-0123456789abcdef)";
        assert_eq!(program_line(line), Some("tests/sites/main.rs"));
        assert_eq!(program_line("test sites::running ... ok"), None);
    }
}
