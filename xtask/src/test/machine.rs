//! The scenarios on an emulated machine, and what they need.

use super::fairness::FAIRNESS;
use super::fixtures::Fixtures;
use super::medium::MEDIA;
use super::nested;
use super::pool::Job;
use super::snapshots::SNAPSHOTS;
use super::stress::STRESS;
use super::table::SCENARIOS;
use super::weights::WEIGHTS;
use crate::machine::Chosen;
use crate::metal;
use crate::package::strip;
use crate::{grub, qemu, setup};
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;

/// Herald's image must stay below this many bytes.
const LARGEST_IMAGE: usize = 1344 << 10;

/// The machines, the bare-metal programs, and what is made of them.
pub(super) struct Bench {
    fixtures: Fixtures,
    herald: PathBuf,
}

impl Bench {
    /// Installs and builds.
    ///
    /// # Errors
    /// Nothing can be built.
    pub(super) fn prepare() -> Result<Self> {
        for machine in [Chosen::Bochs, Chosen::Tcg] {
            setup::ensure_machine(machine)?;
        }
        setup::ensure_packages("images", &grub::PACKAGES)?;
        setup::ensure_packages("UEFI", &qemu::OVMF_PACKAGES)?;
        let binaries = metal::build()?;
        metal::build_uefi()?;
        Ok(Self { fixtures: Fixtures::make(&binaries)?, herald: binaries.herald })
    }

    /// All guests are under shadows, in scenarios that leave that open.
    pub(super) fn under_shadows(mut self) -> Self {
        self.fixtures.is_shadowed = true;
        self
    }

    /// These scenarios.
    pub(super) fn shadowed_jobs(&self) -> Vec<Job<'_>> {
        let fixtures = &self.fixtures;
        let rows = SCENARIOS.iter().copied().flatten().filter(|row| row.is_of_any_paging());
        let scenarios = rows.map(|row| Job::check(row.name, || row.run(fixtures)));
        let snapshots = SNAPSHOTS.iter().map(|row| Job::check(row.name, || row.run(fixtures)));
        scenarios.chain(snapshots).collect()
    }

    /// What [`Self::lab`] is called.
    pub(super) const LAB: &str = "nested";

    /// The lab in which Herald is nested: one job of many tests, the longest.
    pub(super) fn lab(&self) -> Job<'_> {
        Job::sum(Self::LAB, || nested::run_in_lab(&self.fixtures, None))
    }

    /// All others, the longest first.
    pub(super) fn jobs(&self) -> Vec<Job<'_>> {
        let fixtures = &self.fixtures;
        let stress = STRESS.iter().map(|row| Job::check(row.name, || row.run(fixtures)));
        let media = MEDIA.iter().map(|row| Job::check(row.name, || row.run()));
        let fairness = FAIRNESS.iter().map(|row| Job::check(row.name, || row.run(fixtures)));
        let weights = WEIGHTS.iter().map(|row| Job::check(row.name, || row.run(fixtures)));
        let snapshots = SNAPSHOTS.iter().map(|row| Job::check(row.name, || row.run(fixtures)));
        let rows = SCENARIOS.iter().copied().flatten();
        let scenarios = rows.map(|row| Job::check(row.name, || row.run(fixtures)));
        let size = std::iter::once(Job::check("image-size", || self.image_size()));
        size.chain(stress)
            .chain(media)
            .chain(fairness)
            .chain(weights)
            .chain(snapshots)
            .chain(scenarios)
            .collect()
    }

    fn image_size(&self) -> Result<()> {
        let elf = std::fs::read(&self.herald).context("Herald's image")?;
        let size = strip(&elf)?.len();
        ensure!(size < LARGEST_IMAGE, "Herald's image has {size} bytes, {LARGEST_IMAGE} are too many");
        Ok(())
    }
}
