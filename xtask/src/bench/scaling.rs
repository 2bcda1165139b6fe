//! `bench --scaling`: whether a page costs the same where there are many. Guest memory of several sizes is measured on the emulated machine, by the
//! test guest `versus`, in ticks; many address spaces by `tests/costs`, in instructions of the host memory manager and of the guests'
//! tables: a hundred guests would take the emulator an hour.

use super::ahead;
use super::host;
use super::machine::rows_of;
use super::versus::title;
use super::{Row, Table};
use crate::setup;
use anyhow::{Context, Result, ensure};

/// Pages of a guest, the guest's RAM, the machine's, and what it may swap to compressed memory.
const SIZES: [(&str, u64, [&str; 3]); 3] = [
    ("4 MiB", 1 << 10, ["64M", "256M", "ram:64M"]),
    ("64 MiB", 1 << 14, ["160M", "512M", "ram:256M"]),
    ("1 GiB", 1 << 18, ["2112M", "3G", "ram:2G"]),
];
const GUESTS: [(&str, u64); 3] = [("1", 1), ("10", 10), ("100", 100)];
/// Pages of each guest: 2 MiB.
const PAGES: u64 = 512;
/// As `tests/costs` names them, and as people do.
const OPERATIONS: [(&str, &str); 10] = [
    ("write-fault", "first touch, but for the zeroing"),
    ("guest-refault", "fault on a page that is there"),
    ("mprotect", "mprotect(READ)"),
    ("zap", "discard"),
    ("fork", "fork"),
    ("cow-break", "copy on write, but for the copy"),
    ("aging-used", "aging pass, all used"),
    ("aging-unused", "aging pass, nothing used"),
    ("swap-out", "swap-out, but for the device"),
    ("swap-in", "swap-in, but for the device"),
];

/// Measures both, and what an idle processor takes off a guest.
///
/// # Errors
/// Something cannot be built or run.
pub(super) fn measure() -> Result<Vec<Table>> {
    Ok(vec![sizes()?, spaces()?, ahead::measure()?])
}

fn sizes() -> Result<Table> {
    let mut rows: Vec<Row> = Vec::new();
    for (size, pages, [memory, host_memory, swap]) in SIZES {
        let args = ["--host-operations", "--memory", memory, "--host-memory", host_memory, "--swap", swap];
        for (name, ticks) in
            rows_of(&format!("measuring {size}"), &args, &format!("versus main=1 pages={pages}"))?
        {
            let name = title(&name);
            match rows.iter_mut().find(|row| row.name == name) {
                Some(row) => row.values.push(ticks),
                None => rows.push(Row { name, values: vec![ticks] }),
            }
        }
    }
    let columns: Vec<_> = SIZES.iter().map(|(column, ..)| *column).collect();
    let ragged = rows.iter().find(|row| row.values.len() != columns.len());
    ensure!(ragged.is_none(), "{}: not of all sizes", ragged.map_or("", |row| &row.name));
    ensure!(!rows.is_empty(), "the guest has measured nothing");
    Ok(Table { title: "a guest's page, ticks, by the size of its memory", columns, rows })
}

fn spaces() -> Result<Table> {
    setup::ensure_packages("counting instructions", &host::PACKAGES)?;
    let program = host::build(&[], "target").context("tests/costs")?;
    let mut step = crate::progress::Step::new("counting instructions");
    let mut row = |(operation, title): &(&str, &str)| {
        step.tick(title);
        let of = |&(_, guests): &(&str, u64)| {
            let all = host::of_all(&program, operation, PAGES, &[&format!("guests={guests}")])?;
            let pages = PAGES * guests;
            Ok((all + pages / 2) / pages)
        };
        Ok(Row { name: (*title).to_owned(), values: GUESTS.iter().map(of).collect::<Result<_>>()? })
    };
    let rows = OPERATIONS.iter().map(&mut row).collect::<Result<_>>()?;
    let columns = GUESTS.iter().map(|(column, _)| *column).collect();
    Ok(Table { title: "a guest's page, instructions, by the number of address spaces", columns, rows })
}
