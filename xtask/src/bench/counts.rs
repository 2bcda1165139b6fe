//! `bench --counts`: what the main events take beyond ticks, since an emulated machine's tick is the same for all instructions,
//! and hardware's is not: VMREADs and VMWRITEs, flushes, locked instructions, cache lines.
//!
//! Each event of the guest `versus` is traced, instruction by instruction; the programs are the same as without. Traces come in the order
//! of the guest's rows. Once more with a second virtual processor, on a processor of its own, that stays in the guest: what the first does
//! then has to reach it.

use super::profile::{Row, row};
use super::trace::{self, Counts};
use super::versus::{self, MACHINE, Variant, few, title};
use super::{command, guest_file, markdown, versions};
use crate::bochs::Pace;
use crate::cli::{BenchArgs, Cli, Command, Rival};
use crate::link::Payloads;
use crate::progress::Step;
use crate::run::{Prepared, RunDir};
use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use serde_json::{Value, json};
use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// Four groups of neighbours; all is printed.
const PAGES: u64 = 256;
/// More than there are events.
const TIMES: usize = 40;
/// What the guest says when all was measured.
const END: &str = "versus: ok";
const CALL: &str = "call";

/// An event, and what it took.
type Event = (Row, Counts);

/// Counts, and prints.
///
/// # Errors
/// Something cannot be built or run.
pub(super) fn run(args: &BenchArgs) -> Result<u8> {
    let dir = RunDir::create()?;
    let guest = guest_file(dir.path())?;
    let mut sides = Vec::new();
    let append = format!("{} main=1", Variant::Ept.command_line(PAGES));
    let mut count = |side, events: Vec<Event>| {
        print!("{}", text(side, &events));
        sides.push((side, events));
    };
    count("Herald", herald(&guest, &append, 1)?);
    if args.vs == Some(Rival::Kvm) {
        let watch = |printed: Box<dyn BufRead>| trace::read(printed, |_| true);
        let (rows, traces) = versus::traced_on_kvm(&guest, &append, TIMES, watch)?;
        count("KVM", events(rows, traces)?);
    }
    count("Herald, two virtual processors", herald(&guest, &append, 2)?);
    let versions = versions::own()?;
    println!();
    versions.iter().for_each(|(name, version)| println!("{name:<8} {version}"));
    markdown::write(args, || markdown::origin(&command(args), &versions) + &sheets(&sides))?;
    if let Some(path) = &args.json {
        let versions: Value = versions.iter().map(|(name, text)| ((*name).to_owned(), json!(text))).collect();
        let sides = sides.iter().map(|(side, events)| ((*side).to_owned(), document(events)));
        let json: Value = sides.chain([("versions".to_owned(), versions)]).collect();
        std::fs::write(path, format!("{json:#}\n")).with_context(|| format!("--json {}", path.display()))?;
    }
    Ok(0)
}

/// On so many processors, with as many of the guest's.
fn herald(guest: &Path, append: &str, cpus: u32) -> Result<Vec<Event>> {
    let append = &format!("{append} cpus={cpus}");
    let (guest, count) = (guest.to_str().context("a path that is no text")?, cpus.to_string());
    let kernel = [guest, "--append", append, "--vcpus", &count, "--host-cpus", &count];
    let words = ["xtask"].iter().chain(&MACHINE).chain(&kernel);
    let Command::Run(run) = Cli::try_parse_from(words)?.command else {
        bail!("`run` is another command");
    };
    let machine = RunDir::create()?;
    let pace = Pace::Traced { times: TIMES, cpus };
    let mut running = Prepared::new(&run)?.start_in_steps(pace, &machine)?;
    let (mut step, mut rows) = (Step::new("tracing Herald"), Vec::new());
    let traces = trace::read(BufReader::new(Payloads::new(&mut running.link)), |line| {
        step.tick("");
        rows.extend(row(line));
        !line.contains(END)
    });
    events(rows, traces)
}

/// The first row is of what is not traced.
fn events(rows: Vec<Row>, traces: Vec<Counts>) -> Result<Vec<Event>> {
    let rows: Vec<_> = rows.into_iter().filter(|row| row.event != CALL).collect();
    ensure!(rows.len() == traces.len(), "{} events, {} traces", rows.len(), traces.len());
    ensure!(!rows.is_empty(), "the guest measured nothing");
    Ok(rows.into_iter().zip(traces).collect())
}

/// Columns, with a page's share of each.
fn shares((row, counts): &Event) -> [(&'static str, f64); 14] {
    let share = |count: u64| count as f64 / row.pages.max(1) as f64;
    [
        ("ticks", share(row.ticks)),
        ("instructions", share(counts.instructions)),
        ("entries", share(counts.entries)),
        ("VMREAD", share(counts.vmreads)),
        ("VMWRITE", share(counts.vmwrites)),
        ("INVEPT", share(counts.invepts)),
        ("INVVPID", share(counts.invvpids)),
        ("INVLPG/PCID", share(counts.invlpgs)),
        ("CR3", share(counts.cr3_loads)),
        ("WRMSR", share(counts.wrmsrs)),
        ("IPIs", share(counts.ipis)),
        ("locked", share(counts.atomics)),
        ("lines", share(counts.lines)),
        ("new lines", share(counts.new_lines)),
    ]
}

fn text(side: &str, events: &[Event]) -> String {
    let mut text = format!("\n{side}, EPT, a page of 4 KiB\n{:<20}", "");
    for (column, _) in events.first().map(shares).into_iter().flatten() {
        let _ = write!(text, "{column:>13}");
    }
    text.push('\n');
    for event in events {
        let _ = write!(text, "{:<20}", event.0.event);
        for (_, share) in shares(event) {
            let _ = write!(text, "{:>13}", few(share));
        }
        text.push('\n');
    }
    text
}

/// A table for each number of processors, with a cell for both sides.
fn sheets(sides: &[(&str, Vec<Event>)]) -> String {
    let Some((two, one)) = sides.split_last() else { return String::new() };
    [sheet(one), sheet(std::slice::from_ref(two))].join("\n")
}

fn sheet(sides: &[(&str, Vec<Event>)]) -> String {
    let [(_, events), ..] = sides else { return String::new() };
    let names: Vec<&str> = sides.iter().map(|(side, _)| *side).collect();
    let mut heading = vec![format!("a page of 4 KiB: {}", names.join("; "))];
    heading.extend(events.first().map(shares).into_iter().flatten().map(|(column, _)| column.to_owned()));
    let row = |(Row { event: name, .. }, _): &Event| {
        let same = |(of, _): &&Event| of.event == *name;
        let of_sides = sides.iter().filter_map(|(_, events)| events.iter().find(same));
        let of_sides: Vec<_> = of_sides.map(shares).collect();
        let cell = |column: usize| {
            of_sides.iter().map(|shares| markdown::share(shares[column].1)).collect::<Vec<_>>().join("; ")
        };
        [title(name)].into_iter().chain((0..heading.len() - 1).map(cell)).collect()
    };
    markdown::table(&heading, events.iter().map(row))
}

fn document(events: &[Event]) -> Value {
    let of = |event: &Event| -> Value {
        shares(event).into_iter().map(|(column, share)| (column.to_owned(), json!(share))).collect()
    };
    events.iter().map(|event| (event.0.event.clone(), of(event))).collect()
}

#[cfg(test)]
mod tests {
    use super::{Counts, Row, events, text};

    #[test]
    fn traces_are_of_rows_in_their_order() {
        let of = |event: &str, pages| Row { event: event.to_owned(), ticks: 12, pages };
        let rows = || vec![of("call", 1), of("fork", 4)];
        assert!(events(rows(), Vec::new()).is_err());
        let counts = Counts { vmreads: 6, ..Counts::default() };
        let found = events(rows(), vec![counts]).expect("one of each");
        let text = text("KVM", &found);
        assert!(text.contains("VMREAD") && text.contains("fork") && text.contains("1.50"), "{text}");
    }
}
