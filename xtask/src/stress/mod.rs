//! `stress`: programs that take long. Each is one run, or some, of guests that work under hard conditions; at the end there are a
//! verdict, a JSON file, and a page with plots over time.
//!
//! ```text
//!  program ──plan──► drive ──► run's machinery ──console, log, telemetry──► history ──► judge ──► verdict
//!                      └─ types, shows progress                                └──► charts ──► JSON, HTML
//! ```

mod chart;
mod clone;
mod drive;
mod faulty_disk;
mod history;
mod idle;
mod limits;
mod linux;
mod live;
mod matrix;
mod merge;
mod overcommit;
pub(crate) mod page;
mod plan;
mod report;
mod storm;
pub(crate) mod svg;
mod swapstorm;

use crate::cli::{Stress, StressArgs};
use crate::elf32;
use crate::metal::{self, Binaries};
use crate::run::RunDir;
use crate::swap::{self, Tiers};
use anyhow::{Context, Result};
use clap::ValueEnum;
use matrix::Cell;
use plan::{Finished, Judgement, Plan};
use std::path::Path;

/// What programs are made of: the command line, and files of this build.
#[derive(Clone, Copy)]
struct Bench<'a> {
    args: &'a StressArgs,
    /// Of `--matrix`.
    cell: Option<Cell>,
    /// The test guest's kernel.
    testguest: &'a Path,
    dir: &'a RunDir,
    binaries: &'a Binaries,
}

impl Bench<'_> {
    /// The beginning of `run`'s arguments: the machine, with these defaults.
    fn machine(&self, host_memory: &str, host_cpus: u32, swap: Option<&str>) -> Vec<String> {
        let cpus = self.args.host_cpus.unwrap_or(host_cpus).to_string();
        let (cpu, paging) = (word(self.args.cpu), word(self.args.paging));
        let mut words = vec!["--host-memory", host_memory, "--host-cpus", &cpus];
        words.extend(["--cpu", &cpu, "--paging", &paging]);
        let tiers = self.tiers(swap).map(|tiers| tiers.to_string());
        if let Some(tiers) = &tiers {
            words.extend(["--swap", tiers]);
        }
        if self.args.no_ept_ad {
            words.push("--no-ept-ad");
        }
        words.into_iter().map(str::to_owned).collect()
    }

    /// The swap that was asked for; else the program's own, moved to where the cell wants it.
    fn tiers(&self, own: Option<&str>) -> Option<Tiers> {
        let own = own.map(|text| swap::parse(text).expect("written here"));
        self.args.swap.or_else(|| own.map(|own| self.cell.map_or(own, |cell| cell.tiers(own))))
    }

    /// Arguments for a single test guest.
    fn testguest(&self, memory: &str, append: &str) -> Vec<String> {
        let kernel = self.testguest.display().to_string();
        let vcpus = self.args.vcpus.unwrap_or(1).to_string();
        let words = ["--kernel", &kernel, "--memory", memory, "--vcpus", &vcpus, "--append", append];
        words.into_iter().map(str::to_owned).collect()
    }
}

/// How a value is written on the command line.
pub(crate) fn word(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// One of a program's runs, when it is over.
struct Part {
    plan: Plan,
    finished: Finished,
    judgement: Judgement,
}

/// Runs a program; 0 if all was well.
///
/// # Errors
/// Something cannot be built, started or written.
pub(crate) fn run(args: &StressArgs) -> Result<u8> {
    let binaries = metal::build()?;
    let dir = RunDir::create()?;
    let testguest = dir.path().join("testguest");
    let elf = std::fs::read(&binaries.testguest).context("the test guest")?;
    std::fs::write(&testguest, elf32::from_elf64(&elf, 0)?)?;
    let bench = Bench { args, cell: None, testguest: &testguest, dir: &dir, binaries: &binaries };
    let mut parts = Vec::new();
    let plans = if args.matrix { matrix::plans(&bench)? } else { plans_of(&bench)? };
    for plan in plans {
        let finished = drive::drive(&plan.label, &plan)?;
        let judgement = (plan.judge)(&finished);
        if args.ratio || args.matrix {
            // The next one may take long.
            report::print(&judgement);
        }
        parts.push(Part { plan, finished, judgement });
        if args.ratio && overcommit::has_halved(&parts) {
            break;
        }
    }
    report::report(args, &parts)
}

fn plans_of(bench: &Bench<'_>) -> Result<Vec<Plan>> {
    Ok(match bench.args.name {
        Stress::Storm => vec![storm::storm(bench)],
        Stress::Kills => vec![storm::kills(bench)],
        Stress::Swapstorm => vec![swapstorm::plan(bench)],
        Stress::Overcommit if bench.args.ratio => overcommit::ratios(bench)?,
        Stress::Overcommit => vec![overcommit::plan(bench)?],
        Stress::Idle => vec![idle::plan(bench)?],
        Stress::Limits => vec![limits::plan(bench)?],
        Stress::Merge => merge::plans(bench),
        Stress::Clone => vec![clone::plan(bench)],
        Stress::FaultyDisk => faulty_disk::plans(bench)?,
    })
}
