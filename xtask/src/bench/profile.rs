//! `bench --profile`: in which functions of Herald's the ticks of each event go. Bochs runs the machine in steps of equal length
//! and prints where it is after each; the machine notices nothing, so a profile is the same each time.
//!
//! ```text
//!   standard output of Bochs:   now: refault                                                            samples begin to count
//!                               Next at t=94347910
//!                               (0) [0x0000002344e8] 0008:ffffffff802344e8 (unk. ctxt): add rsp, ...    a sample
//!                               row: refault ticks=5226429 pages=4096 exits=4096 flushes=0              the samples before were its
//! ```
//!
//! What was inlined counts for the function that it was inlined into.

use super::guest_file;
use super::samples::{Reader, STEP, STEPS};
use super::versus::{MACHINE, Variant};
use crate::bochs::Pace;
use crate::cli::{BenchArgs, Cli, Command};
use crate::progress::Step;
use crate::run::{Prepared, RunDir};
use crate::{metal, symbols};
use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::path::Path;

const PAGES: u64 = 4096;
const FEW_PAGES: u64 = 1024;
/// What the guest says when all was measured.
const END: &str = "versus: ok";
/// Herald's image and its memory are above, guests and firmware below.
const HERALD: u64 = 0xffff_8000_0000_0000;
/// Functions of an event that are named.
const NAMED: usize = 8;
/// Nor are those that have less than this part of it.
const LEAST: f64 = 0.01;

/// Where one event was found.
struct Profile {
    event: String,
    pages: u64,
    /// Samples in the guest, and in each function.
    guest: u64,
    functions: BTreeMap<String, u64>,
}

/// Profiles the events of the guest `versus`, in all of its variants.
///
/// # Errors
/// Something cannot be built or run.
pub(super) fn run(args: &BenchArgs) -> Result<u8> {
    let pages = if args.quick { FEW_PAGES } else { PAGES };
    let functions = symbols::functions(&std::fs::read(metal::build()?.herald).context("Herald")?)?;
    let dir = RunDir::create()?;
    let guest = guest_file(dir.path())?;
    let mut json = serde_json::Map::new();
    for variant in Variant::ALL {
        let profiles = sample_variant(variant, pages, &guest, &functions)?;
        println!("\n{}", variant.title());
        print!("{}", profiles.iter().map(text).collect::<String>());
        let events: Value =
            profiles.iter().map(|profile| (profile.event.clone(), document(profile))).collect();
        json.insert(variant.name().to_owned(), events);
    }
    if let Some(path) = &args.json {
        let json = Value::from(json);
        std::fs::write(path, format!("{json:#}\n")).with_context(|| format!("--json {}", path.display()))?;
    }
    Ok(0)
}

fn sample_variant(
    variant: Variant,
    pages: u64,
    guest: &Path,
    functions: &[(u64, u64, String)],
) -> Result<Vec<Profile>> {
    let append = variant.command_line(pages);
    let guest = guest.to_str().context("a path that is no text")?;
    let kernel = [guest, "--append", &append];
    let words = ["xtask"].iter().chain(&MACHINE).chain(&kernel).chain(variant.herald());
    let Command::Run(run) = Cli::try_parse_from(words)?.command else {
        bail!("`run` is another command");
    };
    let machine = RunDir::create()?;
    let steps = Pace::Steps { count: STEPS, ticks: STEP };
    let mut running = Prepared::new(&run)?.start_in_steps(steps, &machine)?;
    let profiles = collect(BufReader::new(&mut running.link), functions)?;
    Ok(profiles)
}

/// Reads what Bochs prints, to its end.
fn collect(output: impl BufRead, functions: &[(u64, u64, String)]) -> Result<Vec<Profile>> {
    let mut step = Step::new("sampling");
    let (mut profiles, mut samples, mut reader) = (Vec::new(), Vec::new(), Reader::default());
    let mut left = STEPS;
    for line in output.split(b'\n') {
        let line = line.context("Bochs")?;
        let line = String::from_utf8_lossy(&line);
        if let Some(sample) = reader.take(&line) {
            samples.push((sample.time, sample.address));
            left -= 1;
            ensure!(left != 0, "the guest has not come to its end in {STEPS} steps of {STEP} ticks");
        } else if line.contains("now: ") {
            samples.clear();
        } else if let Some(row) = row(&line) {
            step.tick(&row.event);
            profiles.push(Profile::new(row, &samples, functions));
        } else if line.contains(END) {
            return Ok(profiles);
        }
    }
    bail!("the guest has not come to its end: no `{END}`")
}

/// What the guest says of an event.
pub(super) struct Row {
    pub(super) event: String,
    pub(super) ticks: u64,
    pub(super) pages: u64,
}

/// The row that this line has.
pub(super) fn row(line: &str) -> Option<Row> {
    let mut words = line.split_once("row: ")?.1.split(' ');
    let event = words.next()?.to_owned();
    let mut number = |key: &str| words.find_map(|word| word.strip_prefix(key))?.parse().ok();
    Some(Row { event, ticks: number("ticks=")?, pages: number("pages=")? })
}

/// The function of Herald's at an address.
fn name(functions: &[(u64, u64, String)], address: u64) -> Option<&str> {
    if address < HERALD {
        return None;
    }
    let before = functions.partition_point(|function| function.0 <= address);
    let function = before.checked_sub(1).and_then(|index| functions.get(index));
    let inside = function.filter(|function| address - function.0 < function.1.max(1));
    Some(inside.map_or("elsewhere", |function| &function.2))
}

/// Without the one type that nearly everything is generic over.
fn short(name: &str) -> String {
    name.replace("<herald::physmem::PhysicalMemory>", "").replace("herald::physmem::PhysicalMemory", "_")
}

impl Profile {
    /// The first of the samples, as many as lie in the event's ticks; the rest are the printing of its row.
    fn new(row: Row, samples: &[(u64, u64)], functions: &[(u64, u64, String)]) -> Self {
        let mut profile = Self { event: row.event, pages: row.pages, guest: 0, functions: BTreeMap::new() };
        let end = samples.first().map_or(0, |(time, _)| time + row.ticks);
        for &(_, address) in samples.iter().take_while(|(time, _)| *time < end) {
            match name(functions, address) {
                Some(name) => *profile.functions.entry(short(name)).or_default() += 1,
                None => profile.guest += 1,
            }
        }
        profile
    }

    fn herald(&self) -> u64 {
        self.functions.values().sum()
    }

    /// Ticks a page.
    fn ticks(&self, samples: u64) -> f64 {
        (samples * STEP) as f64 / self.pages.max(1) as f64
    }

    /// Functions with their samples, the most first.
    fn hottest(&self) -> Vec<(&str, u64)> {
        let mut functions: Vec<_> =
            self.functions.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        functions.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        functions
    }
}

fn text(profile: &Profile) -> String {
    let total = profile.herald();
    let mut text = format!("\n{}, ticks a page\n", profile.event);
    let mut line = |name: &str, count: u64| {
        let part = count as f64 / total.max(1) as f64;
        let _ = writeln!(text, "{:>10.1}{:>7.1} %  {name}", profile.ticks(count), part * 100.0);
        part
    };
    line("all of Herald's", total);
    let named = profile.hottest().into_iter().filter(|&(_, count)| count as f64 >= LEAST * total as f64);
    named.take(NAMED).for_each(|(name, count)| {
        line(name, count);
    });
    text
}

fn document(profile: &Profile) -> Value {
    let function =
        |(name, count): (&str, u64)| json!({"name": name, "samples": count, "ticks": profile.ticks(count)});
    json!({
        "pages": profile.pages,
        "ticks_between_samples": STEP,
        "guest_samples": profile.guest,
        "functions": profile.hottest().into_iter().map(function).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::{collect, name, row, short, text};

    fn functions() -> Vec<(u64, u64, String)> {
        vec![
            (0xffff_ffff_8023_4000, 0x1000, "a::walk".into()),
            (0xffff_ffff_8023_6000, 0x10, "b::lock".into()),
        ]
    }

    #[test]
    fn rows_have_numbers() {
        let row = row("\u{1}? row: fork ticks=3 pages=4 exits=1 flushes=0").expect("a row");
        assert_eq!((row.event.as_str(), row.ticks, row.pages), ("fork", 3, 4));
    }

    #[test]
    fn addresses_have_functions() {
        let functions = functions();
        assert_eq!(name(&functions, 0xffff_ffff_8023_44e8), Some("a::walk"));
        assert_eq!(name(&functions, 0xffff_ffff_8023_6010), Some("elsewhere"));
        assert_eq!(name(&functions, 0x10_2000), None);
        assert_eq!(short("<mm::A<herald::physmem::PhysicalMemory>>::f"), "<mm::A>::f");
    }

    #[test]
    fn samples_belong_to_the_row_behind_them() {
        let at = |time: u64, address: u64| {
            format!("Next at t={time}\n(0) [0x000000000000] 0008:{address:016x} (unk. ctxt): nop ; 90\n")
        };
        let output = [
            at(1000, 0xffff_ffff_8023_44e8),
            "\u{2}; now: fork\n".into(),
            at(2000, 0xffff_ffff_8023_44e8),
            at(3000, 0xffff_ffff_8023_6000),
            at(4000, 0xffff_ffff_8023_4000),
            at(5000, 0x10_2000),
            at(6000, 0xffff_ffff_8023_4000),
            "row: fork ticks=3500 pages=4999 exits=1 flushes=0\n".into(),
        ];
        let output = output.concat();
        assert!(collect(output.as_bytes(), &functions()).is_err(), "no end");
        let output = output + "versus: ok\n";
        let profiles = collect(output.as_bytes(), &functions()).expect("a profile");
        assert_eq!((profiles.len(), profiles[0].guest, profiles[0].herald()), (1, 1, 3));
        assert_eq!(profiles[0].hottest(), [("a::walk", 2), ("b::lock", 1)]);
        assert!(text(&profiles[0]).contains("       2.0   66.7 %  a::walk"), "{}", text(&profiles[0]));
    }
}
