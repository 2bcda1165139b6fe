//! What a Linux guest's boot and its own work cost, under an EPT and under shadow page tables: the tiny Linux, whose /init
//! measures (`guest/src/bin/init/measure.rs`). With KVM beside it, if that is wanted: the same kernel, RAM disk and command line, a
//! console of the same kind, and a machine with the same clock.
//!
//! What is spent outside the guest KVM does not count, so the machine is sampled, on both sides; Herald's own count stands
//! beside.

use super::machine::run_linux;
use super::versus::{LINUX_VARIANTS, linux_on_kvm, outside_on_kvm};
use super::{IPS_WORD, Row, Table, boot, markdown};
use crate::cli::Rival;
use anyhow::{Result, ensure};

/// Columns, and what `run` is told.
const PAGING: [(&str, &str); 2] = [("EPT", "ept"), ("shadow", "shadow")];
/// KVM's columns, in the order of its variants.
const RIVALS: [&str; 2] = ["KVM, EPT", "KVM, ept=0"];
/// Rows that Herald counts: their names, and where they are.
const COUNTERS: [(&str, &str); 3] = [
    ("boot, to /init", "/guest_boot_ticks"),
    (COUNTED, "/outside_guest_ticks"),
    ("exits of the whole run", "/exits/total"),
];
const COUNTED: &str = "of these outside the guest, as Herald counts";
const SAMPLED: &str = "of these outside the guest, by samples";
/// Herald's aim for it, of KVM's, in percent.
const AIM: u64 = 50;
/// What /init measures, and what people call it.
const TITLES: [(&str, &str); 5] = [
    ("system-call", "a system call (`getppid`)"),
    ("switch", "a switch between two processes, by a pipe"),
    ("page-fault", "a page fault, of a page that Linux has at hand"),
    ("mmap-storm", "16 pages mapped, written, protected, unmapped"),
    ("fork", "fork, and the child's end"),
];
/// Linux hands its first process what is behind `--`.
const MEASURE: &str = "-- measure";

/// Measures Herald's side.
///
/// # Errors
/// Something cannot be built or run.
pub(super) fn alone() -> Result<Table> {
    let mut rows: Vec<Row> = Vec::new();
    for (column, paging) in PAGING {
        let append = format!("--append={MEASURE}");
        let costs = run_linux(&["--paging", paging, "--ips", IPS_WORD, &append], &COUNTERS)?;
        ensure!(!costs.ticks.is_empty(), "{column}: the guest measured nothing");
        costs.events.into_iter().chain(costs.ticks).for_each(|cost| add(&mut rows, cost));
    }
    complete(PAGING.map(|(column, _)| column).to_vec(), rows)
}

/// Measures, and beside a rival says how far Herald is from it.
///
/// # Errors
/// Something cannot be built or run.
pub(super) fn measure(rival: Option<Rival>) -> Result<Vec<Table>> {
    let Table { mut columns, mut rows, .. } = alone()?;
    let Some(Rival::Kvm) = rival else { return Ok(vec![complete(columns, rows)?]) };
    let boots = rows[0].values.clone();
    for ((_, paging), boot) in PAGING.into_iter().zip(boots) {
        let machine = ["run", "--machine", "bochs", "--headless", "--no-zero-ahead"];
        let words = [&machine[..], &["--paging", paging, "--ips", IPS_WORD]].concat();
        let append = format!("--append={MEASURE}");
        let sampled = boot::outside(&[&words[..], &[&append]].concat(), boot)?;
        add(&mut rows, (SAMPLED.to_owned(), sampled));
    }
    columns.extend(RIVALS);
    let (said, samples) = linux_on_kvm(MEASURE)?;
    for variant in LINUX_VARIANTS {
        let of = said.iter().filter(|(of, ..)| *of == variant);
        of.for_each(|(_, name, ticks)| add(&mut rows, (name.clone(), *ticks)));
    }
    outside_on_kvm(&said, &samples)?
        .into_iter()
        .for_each(|ticks| add(&mut rows, (SAMPLED.to_owned(), ticks)));
    // Of what only Herald counts the one row that is checked by another.
    let (counted, compared): (Vec<Row>, Vec<Row>) =
        rows.into_iter().partition(|row| row.values.len() == PAGING.len());
    let parts = parts(&compared);
    let mut tables = vec![complete(columns, compared)?, parts];
    tables[0].rows.extend(counted.into_iter().filter(|row| row.name == COUNTED));
    Ok(tables)
}

/// Herald's part of what KVM takes.
fn parts(compared: &[Row]) -> Table {
    let percent = |herald: &u64, kvm: &u64| (herald * 100 + kvm / 2) / (*kvm).max(1);
    let row = |row: &Row| {
        let (herald, kvm) = row.values.split_at(PAGING.len());
        let mut values: Vec<u64> = herald.iter().zip(kvm).map(|(herald, kvm)| percent(herald, kvm)).collect();
        values.extend((row.name == SAMPLED).then_some(AIM));
        Row { name: row.name.clone(), values }
    };
    let columns = PAGING.map(|(column, _)| column).into_iter().chain(["aim"]).collect();
    Table {
        title: "Herald's part of what KVM takes, in percent",
        columns,
        rows: compared.iter().map(row).collect(),
    }
}

/// Both sides' columns beside each other, with their parts; or Herald's alone.
pub(super) fn markdown(tables: &[Table]) -> String {
    let [own, _parts] = tables else { return tables.iter().map(markdown::plain).collect() };
    let heading = ["", "Herald, EPT", "KVM, EPT", "part", "Herald, shadow", "KVM, `ept=0`", "part", "aim"];
    let cells = |row: &Row| {
        let (name, numbers) = markdown::in_millions(row);
        let mut cells = vec![title(&name).to_owned()];
        for paging in 0..PAGING.len() {
            let at = |column: usize| (row.values.get(column), numbers.get(column).cloned());
            let ((herald, herald_text), (kvm, kvm_text)) = (at(paging), at(PAGING.len() + paging));
            let part = herald.zip(kvm).map(|(herald, kvm)| *herald as f64 / (*kvm).max(1) as f64);
            cells.push(herald_text.unwrap_or_default());
            cells.push(kvm_text.unwrap_or_else(|| "-".to_owned()));
            cells.push(part.map(|part| format!("{part:.2}")).unwrap_or_default());
        }
        let aim = (row.name == SAMPLED).then(|| format!("{:.2}", AIM as f64 / 100.0));
        cells.push(aim.unwrap_or_default());
        cells
    };
    // Parts of the boot stand below it.
    let (boot, work): (Vec<&Row>, Vec<&Row>) =
        own.rows.iter().partition(|row| !is_measured_inside(&row.name));
    markdown::table(&heading.map(str::to_owned), boot.into_iter().chain(work).map(cells))
}

fn is_measured_inside(name: &str) -> bool {
    TITLES.iter().any(|(event, _)| *event == name)
}

fn title(name: &str) -> &str {
    TITLES.iter().find(|(event, _)| *event == name).map_or(name, |(_, title)| title)
}

/// A table in which no row lacks a column.
fn complete(columns: Vec<&'static str>, rows: Vec<Row>) -> Result<Table> {
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

#[cfg(test)]
mod tests {
    use super::{COUNTED, Row, SAMPLED, Table, markdown};

    #[test]
    fn a_paper_has_both_sides_of_each_row() {
        let row = |name: &str, values: &[u64]| Row { name: name.to_owned(), values: values.to_vec() };
        let rows = vec![
            row("boot, to /init", &[60_000_000, 110_000_000, 80_000_000, 160_000_000]),
            row("fork", &[900, 1200, 1000, 4000]),
            row(SAMPLED, &[13_000_000, 50_000_000, 26_000_000, 100_000_000]),
            row(COUNTED, &[12_900_000, 49_000_000]),
        ];
        let columns = vec!["EPT", "shadow", "KVM, EPT", "KVM, ept=0"];
        let parts = Table { title: "parts", columns: Vec::new(), rows: Vec::new() };
        let text = markdown(&[Table { title: "work", columns, rows }, parts]);
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(lines[0], "| boot, to /init, in millions | 60.0 | 80.0 | 0.75 | 110.0 | 160.0 | 0.69 | |");
        assert!(lines[1].ends_with("| 13.0 | 26.0 | 0.50 | 50.0 | 100.0 | 0.50 | 0.50 |"), "{text}");
        assert!(lines[2].ends_with("| 12.9 | - | | 49.0 | - | | |"), "{text}");
        assert_eq!(lines[3], "| fork, and the child's end | 900 | 1,000 | 0.90 | 1,200 | 4,000 | 0.30 | |");
    }
}
