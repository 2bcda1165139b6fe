//! Ticks of a guest page's life on the emulated machine, where one instruction is one tick: the test guest `costs`.

use super::{Row, Table};
use crate::metal;
use crate::{elf32, workspace};
use anyhow::{Context, Result, ensure};
use std::process::{Command, Stdio};

/// Runs the guest, and takes its lines.
pub(super) fn measure(pages: u64) -> Result<Table> {
    let binaries = metal::build()?;
    let elf = std::fs::read(&binaries.testguest).context("the test guest")?;
    let dir = workspace::target().join("bench");
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let kernel = dir.join("testguest");
    std::fs::write(&kernel, elf32::from_elf64(&elf, 0)?)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["run", "--machine", "bochs", "--headless", "--host-operations", "--timeout", "300"]);
    command.args(["--swap-slots", &(pages * 2).to_string(), "--append", &format!("costs pages={pages}")]);
    command.arg("--kernel").arg(&kernel).stdin(Stdio::null());
    let output = command.output().context("cannot start the machine")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "the guest failed: {text}{}", String::from_utf8_lossy(&output.stderr));
    let row = |line: &str| -> Option<Row> {
        let (name, ticks) = line.trim().strip_prefix("cost: ")?.split_once(' ')?;
        Some(Row { name: name.to_owned(), values: vec![ticks.parse().ok()?] })
    };
    let rows: Vec<_> = text.lines().filter_map(row).collect();
    ensure!(!rows.is_empty(), "the guest measured nothing: {text}");
    Ok(Table { title: "a guest's page on the machine, ticks", columns: vec!["Herald"], rows })
}
