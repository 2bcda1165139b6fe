//! Instructions of the host memory manager, a page, counted by callgrind on the host build of `tests/costs`: the same on
//! every run and every machine of one instruction set.

use super::{Row, Table};
use crate::progress::Step;
use crate::{setup, workspace};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

pub(super) const PACKAGES: [&str; 1] = ["valgrind"];
const OPERATIONS: [&str; 18] = [
    "write-fault",
    "read-fault",
    "fault-when-mapped",
    "page-walk",
    "zap",
    "mprotect",
    "fork",
    "cow-break",
    "aging-unused",
    "aging-used",
    "reclaim-clean",
    "swap-out",
    "swap-in",
    "swap-in-cached",
    "guest-first-touch",
    "guest-stream",
    "guest-refault",
    "guest-logged-write",
];
/// Pages over which the tables' share is measured: 128 MiB.
const OVERHEAD_PAGES: u64 = 32768;

/// With nobody listening, with an idle subscriber, and without the chain.
pub(super) fn measure(pages: u64) -> Result<Table> {
    setup::ensure_packages("counting instructions", &PACKAGES)?;
    let with = build(&[], "target")?;
    let without = build(&["--no-default-features"], "target/no-notifier")?;
    let mut step = Step::new("counting instructions");
    let mut rows = Vec::new();
    for name in OPERATIONS {
        step.tick(name);
        let values = vec![
            per_page(&with, name, pages, &[])?,
            per_page(&with, name, pages, &["subscriber"])?,
            per_page(&without, name, pages, &[])?,
        ];
        rows.push(Row { name: name.into(), values });
    }
    drop(step);
    let columns = vec!["no subscriber", "one subscriber", "feature off"];
    Ok(Table { title: "host memory manager, instructions a page", columns, rows })
}

/// Memory spent on metadata and tables.
pub(super) fn overhead() -> Result<Table> {
    let program = build(&[], "target")?;
    let output = Command::new(program).args(["overhead", &OVERHEAD_PAGES.to_string()]).output()?;
    ensure!(output.status.success(), "costs overhead: {}", String::from_utf8_lossy(&output.stderr).trim());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let row = |line: &str| -> Option<Row> {
        let (name, value) = line.split_once(' ')?;
        Some(Row { name: name.to_owned(), values: vec![value.parse().ok()?] })
    };
    Ok(Table { title: "overhead", columns: vec!["bytes"], rows: text.lines().filter_map(row).collect() })
}

pub(super) fn build(features: &[&str], target: &str) -> Result<PathBuf> {
    let target = workspace::root().join(target);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(workspace::root()).args(["build", "--quiet", "--release", "--package", "costs"]);
    command.args(features).arg("--target-dir").arg(&target);
    crate::progress::run("building the host memory manager", &mut command)?;
    Ok(target.join("release/costs"))
}

/// To the nearest instruction.
fn per_page(program: &Path, operation: &str, pages: u64, variant: &[&str]) -> Result<u64> {
    Ok((of_all(program, operation, pages, variant)? + pages / 2) / pages)
}

/// What the operation takes for all pages.
pub(super) fn of_all(program: &Path, operation: &str, pages: u64, variant: &[&str]) -> Result<u64> {
    let count = |part: &str| instructions(program, operation, pages, part, variant);
    Ok(count("whole")?.saturating_sub(count("prepare")?))
}

fn instructions(program: &Path, operation: &str, pages: u64, part: &str, variant: &[&str]) -> Result<u64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    command.args([operation, &pages.to_string(), part]).args(variant);
    let output = command.output().context("cannot start valgrind")?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("costs {operation} {part}: {}", text.trim());
    }
    let collected =
        text.lines().find_map(|line| line.split_once("Collected : ")).map(|(_, number)| number.trim());
    let number = collected.with_context(|| format!("valgrind counted nothing: {}", text.trim()))?;
    number.parse().with_context(|| format!("valgrind counted `{number}`"))
}
