//! `overcommit`: four Linux guests of 256 MiB on a machine of 384 MiB. In each stress-ng fills and verifies memory by all its
//! methods, beside a mix like a build's.

use super::linux;
use super::plan::{Finished, Judgement, Plan, Step};
use super::{Bench, Part};
use anyhow::Result;

/// How much there is, and how much is done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    /// In MiB.
    pub(super) host: u64,
    pub(super) guests: u64,
    /// RAM of each guest, in MiB.
    pub(super) memory: u64,
    /// What stress-ng works on in each, in MiB.
    pub(super) bytes: u64,
    /// Its operations in a round.
    pub(super) operations: u64,
    /// Files of the build.
    pub(super) files: u64,
    pub(super) rounds: u64,
    /// Tiers that have room for all that the machine has not: patterns without order do not compress.
    pub(super) swap: &'static str,
}

const FULL: Size = Size {
    host: 384,
    guests: 4,
    memory: 256,
    bytes: 112,
    operations: 100,
    files: 60,
    rounds: 1,
    swap: "ram:96M,disk:448M",
};
const QUICK: Size = Size {
    host: 192,
    guests: 2,
    memory: 160,
    bytes: 40,
    operations: 40,
    files: 10,
    rounds: 1,
    swap: "ram:32M,disk:256M",
};
/// Of the search for the ratio: the machine and the work stay as they are.
const RATIO: Size = Size {
    host: 320,
    guests: 2,
    memory: 0,
    bytes: 0,
    operations: 6,
    files: 10,
    rounds: 1,
    swap: "ram:32M,disk:256M",
};
/// RAM of a guest, in MiB. Half of it has to hold what Linux unpacks.
const GROWING: [u64; 6] = [160, 192, 224, 256, 288, 320];
/// Of this, what is not stress-ng's: Linux, the programs, the build.
const FIXED: u64 = 88;
const THROUGHPUT: &str = "throughput";
/// Wall seconds; several times what Bochs takes.
const TIMEOUT: u64 = 5400;

/// The guests.
///
/// # Errors
/// Their images cannot be made.
pub(super) fn plan(bench: &Bench<'_>) -> Result<Plan> {
    let size = if bench.args.quick { QUICK } else { FULL };
    let size = Size { rounds: bench.args.count.unwrap_or(size.rounds), ..size };
    of(bench, size)
}

/// The guests of some size.
///
/// # Errors
/// Their images cannot be made.
pub(super) fn of(bench: &Bench<'_>, size: Size) -> Result<Plan> {
    let linux = linux::make(bench.binaries, bench.dir.path())?;
    let mut arguments = bench.machine(&format!("{}M", size.host), 1, Some(size.swap));
    let append = format!(
        "{} VM_BYTES={}m VM_OPS={} FILES={} ROUNDS={}",
        linux.append, size.bytes, size.operations, size.files, size.rounds
    );
    let words = [
        "--kernel",
        &linux.kernel.display().to_string(),
        "--initrd",
        &linux.initrd.display().to_string(),
        "--vms",
        &size.guests.to_string(),
        "--memory",
        &format!("{}M", size.memory),
        "--vcpus",
        &bench.args.vcpus.unwrap_or(1).to_string(),
        "--append",
        &append,
    ];
    arguments.extend(words.map(str::to_owned));
    let judge = move |run: &Finished| judge(run, size);
    let steps = vec![Step::new("work: begins", "")];
    Ok(Plan {
        label: "overcommit".into(),
        arguments,
        clones: Vec::new(),
        steps,
        timeout: TIMEOUT * size.rounds,
        judge: Box::new(judge),
    })
}

fn judge(run: &Finished, size: Size) -> Judgement {
    let mut judgement = Judgement::expecting(0, run);
    let count = |text: &str| run.console.matches(text).count() as u64;
    judgement.at_least("guests whose work ends well", count("work: ok"), size.guests);
    judgement.at_least(
        "runs of stress-ng without an error",
        count("successful run completed"),
        size.guests * size.rounds,
    );
    judgement.at_most("verification errors", count("stress-ng: fail"), 0);
    if ratio(size) > 1.5 {
        judgement.at_least("pages swapped in", run.history.sum(|record| record.swap.back), 1);
    }
    judgement.figure("guests' memory, of the machine's", ratio(size), "");
    judgement.figure(THROUGHPUT, throughput(run, size), "MiB of stress-ng's operations a second");
    judgement.figure("pages swapped out", run.history.sum(|record| record.swap.out) as f64, "");
    judgement.figure("pages swapped in", run.history.sum(|record| record.swap.back) as f64, "");
    judgement
}

/// Growing memory of two guests on one machine, a run for each.
///
/// # Errors
/// Their images cannot be made.
pub(super) fn ratios(bench: &Bench<'_>) -> Result<Vec<Plan>> {
    let sizes = GROWING.map(|memory| Size { memory, bytes: memory - FIXED, ..RATIO });
    let plan = |size: Size| Ok(Plan { label: format!("ratio {:.2}", ratio(size)), ..of(bench, size)? });
    sizes.into_iter().map(plan).collect()
}

/// Whether the last run had less than half of the best one's throughput, or went wrong.
pub(super) fn has_halved(parts: &[Part]) -> bool {
    if parts.iter().any(|part| !part.judgement.passed()) {
        return true;
    }
    let figures = parts.iter().flat_map(|part| &part.judgement.figures);
    let values: Vec<f64> =
        figures.filter(|figure| figure.name == THROUGHPUT).map(|figure| figure.value).collect();
    let best = values.iter().copied().fold(0.0, f64::max);
    values.last().is_some_and(|last| *last < best / 2.0)
}

/// Guests' memory over the machine's.
fn ratio(size: Size) -> f64 {
    (size.guests * size.memory) as f64 / size.host as f64
}

/// Work done in a second of the machine's time, once the guests have started: operations, each on all that a guest's stress-ng
/// works on.
fn throughput(run: &Finished, size: Size) -> f64 {
    let work = size.guests * size.rounds * size.operations * size.bytes;
    let began = run.marks.first().copied().unwrap_or(0.0);
    work as f64 / (run.history.end() - began).max(1e-3)
}
