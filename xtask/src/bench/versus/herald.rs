//! Herald's side: `run` with the guest, once for each variant.

use super::rows::{Figures, Variant};
use crate::progress;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;

/// The machine and the guest: as much RAM as under KVM, as much to swap to as is needed.
const RUN: [&str; 14] = [
    "run",
    "--machine",
    "bochs",
    "--headless",
    "--timeout",
    "600",
    "--host-operations",
    "--memory",
    "64M",
    "--host-memory",
    "512M",
    "--swap",
    "ram:64M",
    "--kernel",
];

/// Runs all variants, with so many pages each.
///
/// # Errors
/// The machine cannot be started, or a guest fails.
pub(super) fn measure(guest: &Path, pages: u64) -> Result<Figures> {
    let mut figures = Figures::default();
    for variant in Variant::ALL {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(RUN).arg(guest).arg("--append").arg(variant.command_line(pages)).args(variant.herald());
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
