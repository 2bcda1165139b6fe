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

/// Groups of neighbours of 64: four, and one where both processors' instructions are printed.
const PAGES: u64 = 256;
const FEW_PAGES: u64 = 64;
/// More than there are events.
const TIMES: usize = 40;
/// What the guest says when all was measured.
const END: &str = "versus: ok";
const CALL: &str = "call";
/// What Bochs says of a break: outside of traces of the one before each event.
const BREAK: &str = "Magic breakpoint";

/// Of the machine, and of the guest, one after the other.
const PROCESSORS: [u32; 2] = [1, 2];

/// An event, and what it took.
type Event = (Row, Counts);

/// What one hypervisor took on so many processors.
struct Side {
    name: &'static str,
    cpus: u32,
    events: Vec<Event>,
}

impl Side {
    fn title(&self) -> String {
        format!("{}, {}", self.name, processors(self.cpus))
    }
}

const fn pages(cpus: u32) -> u64 {
    if cpus == 1 { PAGES } else { FEW_PAGES }
}

const fn processors(cpus: u32) -> &'static str {
    if cpus == 1 { "one processor" } else { "two processors" }
}

/// Counts, and prints.
///
/// # Errors
/// Something cannot be built or run.
pub(super) fn run(args: &BenchArgs) -> Result<u8> {
    let dir = RunDir::create()?;
    let guest = guest_file(dir.path())?;
    let mut sides = Vec::new();
    let mut count = |name, cpus, events| {
        let side = Side { name, cpus, events };
        print!("{}", text(&side));
        sides.push(side);
    };
    for cpus in PROCESSORS {
        let append = format!("{} main=1 cpus={cpus}", Variant::Ept.command_line(pages(cpus)));
        count("Herald", cpus, herald(&guest, &append, cpus)?);
        if args.vs == Some(Rival::Kvm) {
            count("KVM", cpus, kvm(&guest, &append, cpus)?);
        }
    }
    let versions = versions::own()?;
    println!();
    versions.iter().for_each(|(name, version)| println!("{name:<8} {version}"));
    markdown::write(args, || markdown::origin(&command(args), &versions) + &sheets(&sides))?;
    if let Some(path) = &args.json {
        let versions: Value = versions.iter().map(|(name, text)| ((*name).to_owned(), json!(text))).collect();
        let sides = sides.iter().map(|side| (side.title(), document(&side.events)));
        let json: Value = sides.chain([("versions".to_owned(), versions)]).collect();
        std::fs::write(path, format!("{json:#}\n")).with_context(|| format!("--json {}", path.display()))?;
    }
    Ok(0)
}

/// On so many processors, with as many of the guest's.
fn herald(guest: &Path, append: &str, cpus: u32) -> Result<Vec<Event>> {
    let (guest, count) = (guest.to_str().context("a path that is no text")?, cpus.to_string());
    let kernel = [guest, "--append", append, "--vcpus", &count, "--host-cpus", &count];
    let words = ["xtask"].iter().chain(&MACHINE).chain(&kernel);
    let Command::Run(run) = Cli::try_parse_from(words)?.command else {
        bail!("`run` is another command");
    };
    let machine = RunDir::create()?;
    let pace = Pace::Traced { times: TIMES, cpus };
    let mut running = Prepared::new(&run)?.start_in_steps(pace, &machine)?;
    let (mut step, mut rows) = (Step::new(&format!("tracing Herald, {}", processors(cpus))), Vec::new());
    let traces = trace::read(BufReader::new(Payloads::new(&mut running.link)), |line| {
        step.tick("");
        rows.extend(row(line));
        !line.contains(END)
    });
    events(rows, traces)
}

/// The same. What is printed is counted as it comes, and not kept.
fn kvm(guest: &Path, append: &str, cpus: u32) -> Result<Vec<Event>> {
    let watch = move |printed: Box<dyn BufRead>| {
        let (mut step, mut breaks) =
            (Step::new(&format!("tracing KVM, {}: some three minutes", processors(cpus))), 0);
        trace::read(printed, |line| {
            breaks += usize::from(line.contains(BREAK));
            step.tick(&format!("event {breaks}"));
            true
        })
    };
    let (rows, traces) = versus::traced_on_kvm(guest, append, (TIMES, cpus), watch)?;
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

fn text(side: &Side) -> String {
    let events = &side.events;
    let mut text = format!("\n{}, EPT, a page of 4 KiB, of {}\n{:<20}", side.title(), pages(side.cpus), "");
    for (column, _) in events.first().map(shares).into_iter().flatten() {
        let _ = write!(text, "{column:>13}");
    }
    text.push('\n');
    for event in events.iter() {
        let _ = write!(text, "{:<20}", event.0.event);
        for (_, share) in shares(event) {
            let _ = write!(text, "{:>13}", few(share));
        }
        text.push('\n');
    }
    text
}

/// A table for each number of processors, with a cell for both sides.
fn sheets(sides: &[Side]) -> String {
    let of_same = sides.chunk_by(|one, other| one.cpus == other.cpus);
    of_same.map(sheet).collect::<Vec<_>>().join("\n")
}

fn sheet(sides: &[Side]) -> String {
    let [Side { cpus, events, .. }, ..] = sides else { return String::new() };
    let names: Vec<&str> = sides.iter().map(|side| side.name).collect();
    let mut heading =
        vec![format!("a page of 4 KiB, of {}, {}: {}", pages(*cpus), processors(*cpus), names.join("; "))];
    heading.extend(events.first().map(shares).into_iter().flatten().map(|(column, _)| column.to_owned()));
    let row = |(Row { event: name, .. }, _): &Event| {
        let same = |(of, _): &&Event| of.event == *name;
        let of_sides = sides.iter().filter_map(|side| side.events.iter().find(same));
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
    use super::{Counts, Row, Side, events, text};

    #[test]
    fn traces_are_of_rows_in_their_order() {
        let of = |event: &str, pages| Row { event: event.to_owned(), ticks: 12, pages };
        let rows = || vec![of("call", 1), of("fork", 4)];
        assert!(events(rows(), Vec::new()).is_err());
        let counts = Counts { vmreads: 6, ..Counts::default() };
        let events = events(rows(), vec![counts]).expect("one of each");
        let text = text(&Side { name: "KVM", cpus: 2, events });
        assert!(text.contains("VMREAD") && text.contains("fork") && text.contains("1.50"), "{text}");
        assert!(text.contains("KVM, two processors"), "{text}");
    }
}
