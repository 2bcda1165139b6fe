//! `bench`: what things cost, counted, not timed: instructions of the host memory manager, and ticks on the machine.

mod ahead;
mod boot;
mod counts;
mod host;
mod linux;
mod machine;
mod markdown;
mod profile;
mod samples;
mod scaling;
mod swap;
mod trace;
mod versions;
mod versus;

pub(crate) use versus::MONITOR_PACKAGES;

use crate::cli::{BenchArgs, Cpu};
use crate::stress::word;
use crate::{metal, package};
use anyhow::{Context, Result};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Instructions a second of the machine's time, wherever another hypervisor's figures stand beside, and so few of Linux' clock
/// interrupts among them: its favour.
const IPS: u64 = 100_000_000;
const IPS_WORD: &str = "100000000";
const _: () = assert!(matches!(u64::from_str_radix(IPS_WORD, 10), Ok(IPS)));

/// A named figure for each variant of what was measured.
pub(crate) struct Row {
    name: String,
    values: Vec<u64>,
}

/// Figures with the same variants.
pub(crate) struct Table {
    title: &'static str,
    columns: Vec<&'static str>,
    rows: Vec<Row>,
}

/// Measures, prints, and writes to a file if that is asked for.
///
/// # Errors
/// What is not there yet, or something cannot be built or run.
pub(crate) fn run(args: &BenchArgs) -> Result<u8> {
    if args.linux {
        let tables = linux::measure(args.vs)?;
        return report(args, &tables, linux::markdown(&tables));
    }
    if args.scaling {
        let tables = scaling::measure()?;
        return report(args, &tables, plain(&tables));
    }
    if args.counts {
        return counts::run(args);
    }
    if let Some(rival) = args.vs {
        return versus::run(args, rival);
    }
    if args.profile {
        return profile::run(args);
    }
    let tables = all(args)?;
    report(args, &tables, plain(&tables))
}

fn plain(tables: &[Table]) -> String {
    tables.iter().map(markdown::plain).collect::<Vec<_>>().join("\n")
}

/// The command that asks for the same.
fn command(args: &BenchArgs) -> String {
    let mut words = vec!["cargo xtask bench".to_owned()];
    let flags = [("--linux", args.linux), ("--scaling", args.scaling), ("--counts", args.counts)];
    words.extend(flags.iter().filter(|(_, is_set)| *is_set).map(|(flag, _)| (*flag).to_owned()));
    words.extend(args.vs.map(|rival| format!("--vs {}", word(rival))));
    if args.cpu != Cpu::Haswell {
        words.push(format!("--cpu {}", word(args.cpu)));
    }
    words.extend(args.quick.then(|| "--quick".to_owned()));
    words.join(" ")
}

/// Writes the test guest as both hypervisors load it: as an ELF64, by its 64-bit entry.
///
/// # Errors
/// It cannot be built or written.
fn guest_file(dir: &Path) -> Result<PathBuf> {
    let elf = std::fs::read(metal::build()?.testguest).context("the test guest")?;
    let file = dir.join("testguest");
    std::fs::write(&file, package::strip(&elf)?)?;
    Ok(file)
}

fn report(args: &BenchArgs, tables: &[Table], sheets: String) -> Result<u8> {
    for table in tables {
        print(table)?;
    }
    let versions = versions::own()?;
    println!();
    versions.iter().for_each(|(name, version)| println!("{name:<8} {version}"));
    markdown::write(args, || markdown::origin(&command(args), &versions) + &sheets)?;
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&json(tables, &versions))? + "\n";
        std::fs::write(path, json).with_context(|| format!("--json {}", path.display()))?;
    }
    Ok(0)
}

fn all(args: &BenchArgs) -> Result<Vec<Table>> {
    let pages = if args.quick { 512 } else { 2048 };
    Ok(vec![
        host::measure(pages)?,
        host::overhead()?,
        machine::measure(pages)?,
        machine::crowds(pages)?,
        machine::idle()?,
        linux::alone()?,
        swap::pages(pages)?,
        swap::disk()?,
    ])
}

fn print(table: &Table) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{}", table.title)?;
    write!(out, "{:<28}", "")?;
    for column in &table.columns {
        write!(out, "{column:>18}")?;
    }
    writeln!(out)?;
    for row in &table.rows {
        write!(out, "{:<28}", row.name)?;
        for value in &row.values {
            write!(out, "{value:>18}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn json(tables: &[Table], versions: &[(&'static str, String)]) -> serde_json::Value {
    let versions = versions.iter().map(|(name, version)| ((*name).to_owned(), version.clone().into()));
    let versions = versions.collect::<serde_json::Map<_, _>>();
    let rows = |table: &Table| -> serde_json::Map<String, serde_json::Value> {
        let figures = |row: &Row| -> serde_json::Map<String, serde_json::Value> {
            let named = table.columns.iter().zip(&row.values);
            named.map(|(column, value)| ((*column).to_owned(), (*value).into())).collect()
        };
        table.rows.iter().map(|row| (row.name.clone(), figures(row).into())).collect()
    };
    tables
        .iter()
        .map(|table| (table.title.to_owned(), rows(table).into()))
        .chain([("versions".to_owned(), versions.into())])
        .collect::<serde_json::Map<_, _>>()
        .into()
}
