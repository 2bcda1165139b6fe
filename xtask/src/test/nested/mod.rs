//! Herald under another hypervisor: scenarios on QEMU with KVM, which offers VMX to its guests.
//!
//! ```text
//!   KVM with nested VMX here?   the scenarios run here
//!   else                        Bochs ─► GRUB ─► Debian's Linux ─► this program ─► QEMU/KVM ─► Herald ─► a guest
//! ```
//!
//! The scenarios are those of the emulated machine, and `run` is the same command: only `auto` finds another machine.

mod lab;
mod rows;

use super::Tally;
use super::fixtures::Fixtures;
use super::medium::NESTED_MEDIA;
use super::pool::report;
use crate::cli::MachineKind;
use crate::machine::{self, Chosen};
use crate::{metal, qemu, setup, workspace};
use anyhow::{Result, bail, ensure};
use std::time::Instant;

/// Runs the scenarios whose name contains `only`.
///
/// # Errors
/// Nothing can be built or started.
pub(super) fn run(only: Option<&str>) -> Result<Tally> {
    let choice = machine::choose(MachineKind::Auto)?;
    if let Some(dir) = workspace::prebuilt() {
        if choice.kind != Chosen::Kvm {
            bail!("nothing to nest in: {}", choice.reason);
        }
        return run_here(&Fixtures::of(dir), only);
    }
    let fixtures = Fixtures::make(&metal::build()?)?;
    if choice.kind == Chosen::Kvm {
        setup::ensure_machine(Chosen::Kvm)?;
        setup::ensure_packages("UEFI", &qemu::OVMF_PACKAGES)?;
        return run_here(&fixtures, only);
    }
    run_in_lab(&fixtures, only)
}

/// Runs them in the lab.
///
/// # Errors
/// The lab cannot be made, or does not tell how many passed.
pub(super) fn run_in_lab(fixtures: &Fixtures, only: Option<&str>) -> Result<Tally> {
    lab::run(&metal::build()?, fixtures, only)
}

fn run_here(fixtures: &Fixtures, only: Option<&str>) -> Result<Tally> {
    let wanted = |name: &str| only.is_none_or(|text| name.contains(text));
    let mut names =
        rows::all().map(|scenario| scenario.name).chain(NESTED_MEDIA.iter().map(|medium| medium.name));
    ensure!(names.any(wanted), "no nested scenario's name contains `{}`", only.unwrap_or_default());
    let mut tally = Tally::default();
    let mut run = |name: &str, run: &dyn Fn() -> Result<()>| {
        let started = Instant::now();
        let result = run();
        tally.count(report(name, started.elapsed().as_secs_f64(), &result));
    };
    for scenario in rows::all().filter(|scenario| wanted(scenario.name)) {
        run(scenario.name, &|| scenario.run(fixtures));
    }
    for medium in NESTED_MEDIA.iter().filter(|medium| wanted(medium.name)) {
        run(medium.name, &|| medium.run());
    }
    Ok(tally)
}
