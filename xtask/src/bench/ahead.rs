//! What a guest waits for where another processor, which has nothing to do, zeroes memory ahead; and how much that one does instead. It is the
//! same work, so no other table has it.

use super::machine::{Zeroing, rows_and_count_of};
use super::versus::title;
use super::{Row, Table};
use anyhow::{Context, Result};

const PAGES: u64 = 4096;
const MACHINE: [&str; 9] = [
    "--host-operations",
    "--host-cpus",
    "2",
    "--memory",
    "64M",
    "--host-memory",
    "512M",
    "--swap",
    "ram:64M",
];
/// The events that want zeros.
const EVENTS: [&str; 3] = ["first-touch", "first-touch-random", "write-after-read"];
const COLUMNS: [(&str, Zeroing); 2] =
    [("zeroed when touched", Zeroing::WhenTouched), ("zeroed ahead", Zeroing::Ahead)];

/// Measures both ways.
///
/// # Errors
/// Something cannot be built or run.
pub(super) fn measure() -> Result<Table> {
    let (append, pointer) = (format!("versus pages={PAGES}"), "/zeroed_ahead");
    let run = |(name, zeroing): (&str, Zeroing)| {
        rows_and_count_of(&format!("measuring {name}"), zeroing, &MACHINE, &append, pointer)
    };
    let runs = COLUMNS.into_iter().map(run).collect::<Result<Vec<_>>>()?;
    let row = |event: &str| {
        let of = |(rows, _): &(Vec<(String, u64)>, u64)| {
            let found = rows.iter().find(|(name, _)| name == event);
            found.map(|(_, ticks)| *ticks).with_context(|| format!("{event}: not measured"))
        };
        Ok(Row { name: title(event), values: runs.iter().map(of).collect::<Result<_>>()? })
    };
    let mut rows = EVENTS.into_iter().map(row).collect::<Result<Vec<_>>>()?;
    let zeroed = runs.iter().map(|(_, count)| *count).collect();
    rows.push(Row { name: "frames that the other processor has zeroed, in all".into(), values: zeroed });
    let columns = COLUMNS.map(|(name, _)| name).to_vec();
    Ok(Table { title: "a guest's page, ticks, beside an idle processor", columns, rows })
}
