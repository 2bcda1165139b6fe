//! `--matrix`: a program on each kind of machine that reclaim has to work on: one processor and two, EPT with accessed and dirty
//! bits and without, swap in memory, on a disk, and in both.

use super::plan::Plan;
use super::{Bench, plans_of};
use crate::cli::{Stress, StressArgs};
use crate::swap::Tiers;
use anyhow::{Result, bail};

/// Programs that swap.
const PROGRAMS: [Stress; 5] =
    [Stress::Swapstorm, Stress::Overcommit, Stress::Idle, Stress::Limits, Stress::FaultyDisk];

/// Where swap is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Where {
    Memory,
    Disk,
    Both,
}

impl Where {
    const ALL: [Self; 3] = [Self::Memory, Self::Disk, Self::Both];

    const fn name(self) -> &'static str {
        match self {
            Self::Memory => "swap in memory",
            Self::Disk => "swap on a disk",
            Self::Both => "swap in both",
        }
    }

    /// Tiers with room for what a program's own ones have room for. What was compressed there takes more on a disk alone; in both,
    /// memory is so small that pages move down.
    const fn tiers(self, own: Tiers) -> Tiers {
        let all = own.ram + own.disk;
        match self {
            Self::Memory => Tiers { ram: all, disk: 0 },
            Self::Disk => Tiers { ram: 0, disk: 2 * all },
            Self::Both => Tiers { ram: all / 8, disk: 2 * all },
        }
    }
}

/// A kind of machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    cpus: u32,
    accessed_dirty: bool,
    place: Where,
}

impl Cell {
    /// All of them.
    fn all() -> impl Iterator<Item = Self> {
        let kinds = [(1, true), (1, false), (2, true), (2, false)];
        kinds.into_iter().flat_map(|(cpus, accessed_dirty)| {
            Where::ALL.into_iter().map(move |place| Self { cpus, accessed_dirty, place })
        })
    }

    /// Tiers in place of a program's own.
    pub(super) const fn tiers(&self, own: Tiers) -> Tiers {
        self.place.tiers(own)
    }

    fn name(&self) -> String {
        let bits = if self.accessed_dirty { "A/D bits" } else { "no A/D bits" };
        format!("{} CPU, {bits}, {}", self.cpus, self.place.name())
    }

    fn arguments(&self, args: &StressArgs) -> StressArgs {
        let no_ept_ad = !self.accessed_dirty;
        StressArgs { host_cpus: Some(self.cpus), no_ept_ad, ..args.clone() }
    }
}

/// A program's runs, on every kind of machine.
///
/// # Errors
/// The program does not swap; a file cannot be written.
pub(super) fn plans(bench: &Bench<'_>) -> Result<Vec<Plan>> {
    let name = bench.args.name;
    if !PROGRAMS.contains(&name) {
        bail!(
            "--matrix: `{name}` does not swap; there are {}",
            PROGRAMS.map(|each| each.to_string()).join(", ")
        );
    }
    let mut plans = Vec::new();
    for cell in Cell::all() {
        let args = cell.arguments(bench.args);
        let runs = plans_of(&Bench { args: &args, cell: Some(cell), ..*bench })?;
        plans.extend(
            runs.into_iter().map(|run| Plan { label: format!("{}: {}", cell.name(), run.label), ..run }),
        );
    }
    Ok(plans)
}
