//! What a Linux guest's boot and its own work cost, under an EPT and under shadow page tables: the tiny Linux, whose /init
//! measures (`guest/src/bin/init/measure.rs`).

use super::machine::run_linux;
use super::{Row, Table};
use anyhow::{Result, ensure};

/// Columns, and what `run` is told.
const PAGING: [(&str, &str); 2] = [("EPT", "ept"), ("shadow", "shadow")];
/// Rows that Herald counts: their names, and where they are.
const COUNTERS: [(&str, &str); 3] = [
    ("boot, to /init", "/guest_boot_ticks"),
    ("of these outside the guest", "/outside_guest_ticks"),
    ("exits of the whole run", "/exits/total"),
];

/// Measures.
///
/// # Errors
/// Something cannot be built or run.
pub(super) fn measure() -> Result<Table> {
    let mut rows: Vec<Row> = Vec::new();
    for (column, paging) in PAGING {
        let costs = run_linux(&["--paging", paging], &COUNTERS)?;
        ensure!(!costs.ticks.is_empty(), "{column}: the guest measured nothing");
        for (name, value) in costs.events.into_iter().chain(costs.ticks) {
            match rows.iter_mut().find(|row| row.name == name) {
                Some(row) => row.values.push(value),
                None => rows.push(Row { name, values: vec![value] }),
            }
        }
    }
    ensure!(rows.iter().all(|row| row.values.len() == PAGING.len()), "the guests measured different things");
    let columns = PAGING.iter().map(|(column, _)| *column).collect();
    Ok(Table { title: "a Linux guest's own work, ticks", columns, rows })
}
