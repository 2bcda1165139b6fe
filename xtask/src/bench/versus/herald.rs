//! Herald's side: `run` with the guest, once for each variant.

use super::super::IPS_WORD;
use super::rows::{Figures, Variant};
use crate::cli::Cpu;
use crate::progress;
use crate::stress::word;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;

/// The machine, up to the guest's file; a profile is of the same.
pub(in super::super) const MACHINE: [&str; 15] = [
    "run",
    "--ips",
    IPS_WORD,
    "--machine",
    "bochs",
    "--headless",
    "--no-zero-ahead",
    "--host-operations",
    "--memory",
    "64M",
    "--host-memory",
    "512M",
    "--swap",
    "ram:64M",
    "--kernel",
];
/// Wall seconds of a run.
const TIMEOUT: [&str; 2] = ["--timeout", "600"];

/// Runs all variants, with so many pages each.
///
/// # Errors
/// The machine cannot be started, or a guest fails.
pub(super) fn measure(guest: &Path, pages: u64, cpu: Cpu) -> Result<Figures> {
    let mut figures = Figures::default();
    for variant in Variant::ALL {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(MACHINE)
            .arg(guest)
            .args(TIMEOUT)
            .args(["--cpu", &word(cpu)])
            .arg("--append")
            .arg(variant.command_line(pages))
            .args(variant.herald());
        let label = format!("measuring Herald, {}", variant.name());
        let (status, output) = progress::follow(&label, &mut command)?;
        for line in &output {
            figures.take(variant, line);
        }
        ensure!(status.success(), "{label}: {status}\n{}", progress::tail(&output));
        figures.of(variant).first().with_context(|| format!("{label}: no figures"))?;
    }
    Ok(figures)
}
