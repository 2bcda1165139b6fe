//! What a Linux guest's boot and its own work cost, under an EPT and under shadow page tables: the tiny Linux, whose /init
//! measures (`guest/src/bin/init/measure.rs`). With KVM beside it, if that is wanted.

use super::machine::run_linux;
use super::versus::{LINUX_VARIANTS, linux_on_kvm};
use super::{Row, Table};
use crate::cli::Rival;
use anyhow::{Result, ensure};

/// Columns, and what `run` is told.
const PAGING: [(&str, &str); 2] = [("EPT", "ept"), ("shadow", "shadow")];
/// KVM's columns, in the order of its variants.
const RIVALS: [&str; 2] = ["KVM, EPT", "KVM, ept=0"];
/// Rows that Herald counts: their names, and where they are.
const COUNTERS: [(&str, &str); 3] = [
    ("boot, to /init", "/guest_boot_ticks"),
    ("of these outside the guest", "/outside_guest_ticks"),
    ("exits of the whole run", "/exits/total"),
];
/// Linux hands its first process what is behind `--`.
const MEASURE: &str = "-- measure";

/// Measures. Beside a rival, only what it has, too.
///
/// # Errors
/// Something cannot be built or run.
pub(super) fn measure(rival: Option<Rival>) -> Result<Table> {
    let mut columns: Vec<&str> = PAGING.iter().map(|(column, _)| *column).collect();
    let mut rows: Vec<Row> = Vec::new();
    for (column, paging) in PAGING {
        let costs = run_linux(&["--paging", paging, &format!("--append={MEASURE}")], &COUNTERS)?;
        ensure!(!costs.ticks.is_empty(), "{column}: the guest measured nothing");
        costs.events.into_iter().chain(costs.ticks).for_each(|cost| add(&mut rows, cost));
    }
    if let Some(Rival::Kvm) = rival {
        columns.extend(RIVALS);
        let said = linux_on_kvm(MEASURE)?;
        for variant in LINUX_VARIANTS {
            let of = said.iter().filter(|(of, ..)| *of == variant);
            of.for_each(|(_, name, ticks)| add(&mut rows, (name.clone(), *ticks)));
        }
        rows.retain(|row| row.values.len() > PAGING.len());
    }
    ensure!(
        rows.iter().all(|row| row.values.len() == columns.len()),
        "the guests have measured different things"
    );
    Ok(Table { title: "a Linux guest's own work, ticks", columns, rows })
}

/// One more column of a row.
fn add(rows: &mut Vec<Row>, (name, value): (String, u64)) {
    match rows.iter_mut().find(|row| row.name == name) {
        Some(row) => row.values.push(value),
        None => rows.push(Row { name, values: vec![value] }),
    }
}
