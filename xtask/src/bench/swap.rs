//! What swap costs: ticks of a page that goes and comes back, and how a disk is used.

use super::machine::{costs, run_guest};
use super::{Row, Table};
use anyhow::Result;

/// Counters of a sweep over more memory than there is, with a disk alone.
const COUNTERS: [(&str, &str); 6] = [
    ("pages out", "/swap/out"),
    ("pages written to disk", "/host_swap/writes"),
    ("pages back", "/swap/back"),
    ("pages read from disk", "/host_swap/reads"),
    ("requests", "/host_swap/requests"),
    ("of these, in sequence", "/host_swap/sequential"),
];

/// Measures pages that hold one word and zeros, to frames, which is swap without compression, and to compressed memory.
///
/// # Errors
/// Something cannot be built or run.
pub(super) fn pages(pages: u64) -> Result<Table> {
    let slots = (pages * 2).to_string();
    let append = format!("costs pages={pages}");
    let mut rows: Vec<Row> = Vec::new();
    for swap in [["--swap-slots", slots.as_str()], ["--swap", "ram:32M"]] {
        let costs = costs(&[&["--host-operations"], &swap[..]].concat(), &append)?;
        for (name, ticks) in costs.ticks.into_iter().filter(|(name, _)| name.starts_with("swap-")) {
            match rows.iter_mut().find(|row| row.name == name) {
                Some(row) => row.values.push(ticks),
                None => rows.push(Row { name, values: vec![ticks] }),
            }
        }
    }
    Ok(Table { title: "a page to swap and back, ticks", columns: vec!["copied", "compressed"], rows })
}

/// Counts what a sweep over 1.7 times the machine's memory asks of a disk.
///
/// # Errors
/// Something cannot be built or run.
pub(super) fn disk() -> Result<Table> {
    let sizes = ["--memory", "96M", "--host-memory", "64M", "--swap", "disk:128M"];
    let sweep = run_guest(&sizes, "sweep rounds=2", &COUNTERS)?;
    let rows = sweep.events.into_iter().map(|(name, value)| Row { name, values: vec![value] }).collect();
    Ok(Table { title: "a sweep over a disk", columns: vec!["Herald"], rows })
}
