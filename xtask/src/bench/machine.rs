//! Ticks of a guest page's life on the emulated machine, where one instruction is one tick: the test guests `costs` and,
//! for several CPUs, `crowd`. And how often an idle Linux exits.

use super::versus::ticks_a_page;
use super::{Row, Table, guest_file};
use crate::progress;
use crate::run::RunDir;
use anyhow::{Context, Result, ensure};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// CPUs of the machine, and as many of the guest.
const CROWDS: [(&str, &str); 3] = [("1", "1 CPU"), ("2", "2 CPUs"), ("4", "4 CPUs")];
/// Seconds for which a guest sleeps.
const IDLE: u64 = 10;

/// Measures a page of a guest that is alone.
///
/// # Errors
/// Something cannot be built or run.
pub(super) fn measure(pages: u64) -> Result<Table> {
    let swap = (pages * 2).to_string();
    let costs = costs(&["--host-operations", "--swap-slots", &swap], &format!("costs pages={pages}"))?;
    let rows = costs.ticks.into_iter().map(|(name, ticks)| Row { name, values: vec![ticks] }).collect();
    Ok(Table { title: "a guest's page on the machine, ticks", columns: vec!["Herald"], rows })
}

/// Measures a page of each CPU, while all are busy: EPT violations, and an mprotect whose flush all have to hear of. And
/// what the whole run had of violations and of waits for locks.
///
/// # Errors
/// Something cannot be built or run.
pub(super) fn crowds(pages: u64) -> Result<Table> {
    let mut rows: Vec<Row> = Vec::new();
    for (cpus, _) in CROWDS {
        let costs = costs(&["--vcpus", cpus, "--host-cpus", cpus], &format!("crowd pages={}", pages / 8))?;
        for (name, value) in costs.ticks.into_iter().chain(costs.events) {
            match rows.iter_mut().find(|row| row.name == name) {
                Some(row) => row.values.push(value),
                None => rows.push(Row { name, values: vec![value] }),
            }
        }
    }
    let columns = CROWDS.iter().map(|(_, column)| *column).collect();
    Ok(Table { title: "a page, all CPUs of a guest at a time, ticks; events of the run", columns, rows })
}

/// Measures the exits of a Linux guest that sleeps.
///
/// # Errors
/// Something cannot be built or run.
pub(super) fn idle() -> Result<Table> {
    let dir = RunDir::create()?;
    let telemetry = dir.path().join("telemetry");
    let busy = exits_of("poweroff -f\n", &telemetry)?;
    let idle = exits_of(&format!("sleep {IDLE}; poweroff -f\n"), &telemetry)?;
    let row = Row { name: "exits".to_owned(), values: vec![idle.saturating_sub(busy) / IDLE] };
    Ok(Table { title: "an idle Linux, in a second", columns: vec!["Herald"], rows: vec![row] })
}

/// Exits of a tiny Linux, to the end of a shell with this input.
fn exits_of(input: &str, telemetry: &Path) -> Result<u64> {
    let mut child =
        run(telemetry, Zeroing::WhenTouched)?.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    child.stdin.take().context("no standard input")?.write_all(input.as_bytes())?;
    ensure!(child.wait()?.success(), "the tiny Linux failed");
    last_count(telemetry, "/exits/total")
}

/// A number of the last record.
fn last_count(telemetry: &Path, pointer: &str) -> Result<u64> {
    let text = std::fs::read_to_string(telemetry).context("telemetry")?;
    let record: serde_json::Value = serde_json::from_str(text.lines().last().context("no record")?)?;
    record.pointer(pointer).and_then(serde_json::Value::as_u64).with_context(|| format!("no {pointer}"))
}

fn run(telemetry: &Path, zeroing: Zeroing) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["run", "--machine", "bochs", "--headless", "--timeout", "600", "--telemetry"])
        .arg(telemetry)
        .args((zeroing == Zeroing::WhenTouched).then_some("--no-zero-ahead"));
    Ok(command)
}

/// What a run of the test guest has cost.
pub(super) struct Costs {
    /// What it says, in ticks.
    pub(super) ticks: Vec<(String, u64)>,
    /// What Herald has counted.
    pub(super) events: Vec<(String, u64)>,
}

/// Runs the test guest.
///
/// # Errors
/// Something cannot be built or run.
pub(super) fn costs(args: &[&str], append: &str) -> Result<Costs> {
    let costs =
        run_guest(args, append, &[("violations", "/ept_violations"), ("waits for locks", "/lock_waits")])?;
    ensure!(!costs.ticks.is_empty(), "the guest measured nothing");
    Ok(costs)
}

/// Runs the test guest, and looks at these counters of its last record: their names, and where they are.
///
/// # Errors
/// Something cannot be built or run.
pub(super) fn run_guest(args: &[&str], append: &str, counters: &[(&str, &str)]) -> Result<Costs> {
    let dir = RunDir::create()?;
    let telemetry = dir.path().join("telemetry");
    costs_of(guest_of(run(&telemetry, Zeroing::WhenTouched)?, &dir, args, append)?, &telemetry, counters)
}

/// When memory is zeroed that a guest has not touched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Zeroing {
    /// Then: each page's cost is its own.
    WhenTouched,
    /// Before, by processors that have nothing to do.
    Ahead,
}

/// Runs the test guest `versus`; its events with a page's ticks.
///
/// # Errors
/// Something cannot be built or run.
pub(super) fn rows_of(label: &str, args: &[&str], append: &str) -> Result<Vec<(String, u64)>> {
    Ok(rows_and_count_of(label, Zeroing::WhenTouched, args, append, "/exits/total")?.0)
}

/// The same, and a counter of its last record.
///
/// # Errors
/// Something cannot be built or run.
pub(super) fn rows_and_count_of(
    label: &str,
    zeroing: Zeroing,
    args: &[&str],
    append: &str,
    pointer: &str,
) -> Result<(Vec<(String, u64)>, u64)> {
    let dir = RunDir::create()?;
    let telemetry = dir.path().join("telemetry");
    let mut command = guest_of(run(&telemetry, zeroing)?, &dir, args, append)?;
    let (status, output) = progress::follow(label, &mut command)?;
    ensure!(status.success(), "{label}: {status}\n{}", progress::tail(&output));
    let rows = output.iter().filter_map(|line| ticks_a_page(line)).collect();
    Ok((rows, last_count(&telemetry, pointer)?))
}

fn guest_of(mut command: Command, dir: &RunDir, args: &[&str], append: &str) -> Result<Command> {
    let kernel = guest_file(dir.path())?;
    command.args(args).args(["--append", append, "--kernel"]).arg(&kernel);
    Ok(command)
}

/// Runs the tiny Linux, and looks at these counters.
///
/// # Errors
/// Something cannot be built or run.
pub(super) fn run_linux(args: &[&str], counters: &[(&str, &str)]) -> Result<Costs> {
    let dir = RunDir::create()?;
    let telemetry = dir.path().join("telemetry");
    let mut command = run(&telemetry, Zeroing::WhenTouched)?;
    command.args(args);
    costs_of(command, &telemetry, counters)
}

fn costs_of(mut command: Command, telemetry: &Path, counters: &[(&str, &str)]) -> Result<Costs> {
    command.stdin(Stdio::null());
    let output = command.output().context("cannot start the machine")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "the guest failed: {text}{}", String::from_utf8_lossy(&output.stderr));
    let cost = |line: &str| -> Option<(String, u64)> {
        let (name, ticks) = line.trim().strip_prefix("cost: ")?.split_once(' ')?;
        Some((name.to_owned(), ticks.parse().ok()?))
    };
    let ticks: Vec<_> = text.lines().filter_map(cost).collect();
    let count = |&(name, pointer): &(&str, &str)| Ok((name.to_owned(), last_count(telemetry, pointer)?));
    let events = counters.iter().map(count);
    Ok(Costs { ticks, events: events.collect::<Result<_>>()? })
}
