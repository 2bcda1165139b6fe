//! The end of a stress program: the verdict on the terminal, the JSON file, the page, and what was said.

use super::Part;
use super::chart::{self, Chart};
use super::page::{Page, Section};
use super::plan::Judgement;
use super::svg;
use crate::cli::StressArgs;
use crate::workspace;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Lines of the console and of Herald's log that are shown when something is wrong.
const TAIL: usize = 20;

/// Writes and prints it; the exit status.
///
/// # Errors
/// A file cannot be written.
pub(super) fn report(args: &StressArgs, parts: &[Part]) -> Result<u8> {
    let name = args.name.to_string();
    let judgement = sum(parts);
    let sections: Vec<Section> = parts.iter().map(section).collect();
    let paths = Paths::of(args)?;
    let said = parts.iter().map(|part| format!("{}\n{}\n", part.finished.console, part.finished.log));
    write(&paths.said, &said.collect::<String>())?;
    write(&paths.page, &Page { name: &name, judgement: &judgement, sections: &sections }.html())?;
    let json = document(&name, parts, &judgement, &sections);
    write(&paths.json, &format!("{json:#}\n"))?;
    for part in parts.iter().filter(|part| !part.judgement.passed()) {
        eprintln!("{}:\n{}\n{}", part.plan.label, tail(&part.finished.console), tail(&part.finished.log));
    }
    print(&judgement);
    println!("{name}: {} and {}", paths.json.display(), paths.page.display());
    println!("{name}: {}", if judgement.passed() { "ok" } else { "FAILED" });
    Ok(u8::from(!judgement.passed()))
}

/// All parts' judgements in one.
fn sum(parts: &[Part]) -> Judgement {
    let [part] = parts else {
        let mut sum = Judgement::default();
        parts.iter().for_each(|part| sum.absorb(&part.plan.label, &part.judgement));
        return sum;
    };
    part.judgement.clone()
}

fn section(part: &Part) -> Section {
    let run = &part.finished;
    Section {
        label: part.plan.label.clone(),
        command: format!("cargo xtask run {}", part.plan.arguments.join(" ")),
        summary: format!("{:.1} s of the machine's time in {:.0} s", run.history.end(), run.seconds),
        charts: chart::all(&run.history),
    }
}

/// Prints what had to be true and what was measured.
pub(super) fn print(judgement: &Judgement) {
    for check in &judgement.checks {
        println!("{:6}  {}", if check.passed { "ok" } else { "FAILED" }, check.what);
    }
    for figure in &judgement.figures {
        println!("{:>12}  {} {}", svg::number(figure.value), figure.name, figure.unit);
    }
}

/// Where results go.
struct Paths {
    json: PathBuf,
    page: PathBuf,
    /// Consoles and log.
    said: PathBuf,
}

impl Paths {
    /// Beside the JSON file that the command line names, if it does.
    fn of(args: &StressArgs) -> Result<Self> {
        let dir = workspace::target().join("stress");
        std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let default = dir.join(format!("{}.json", args.name));
        let json = args.json.clone().unwrap_or(default);
        Ok(Self { page: json.with_extension("html"), said: json.with_extension("log"), json })
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

fn document(name: &str, parts: &[Part], judgement: &Judgement, sections: &[Section]) -> Value {
    let runs = parts.iter().zip(sections).map(|(part, section)| run_of(part, section));
    let Value::Object(mut document) = judgement.json() else { return Value::Null };
    document.insert("name".to_owned(), json!(name));
    document.insert("runs".to_owned(), runs.collect());
    Value::Object(document)
}

fn run_of(part: &Part, section: &Section) -> Value {
    let run = &part.finished;
    let guests = run.history.names().iter().enumerate().map(|(guest, name)| {
        let last = run.history.last(guest).map(|sample| sample.record);
        json!({"name": name, "last": last})
    });
    json!({
        "label": section.label,
        "command": section.command,
        "status": run.status,
        "seconds": run.seconds,
        "machine_seconds": run.history.end(),
        "guests": guests.collect::<Vec<_>>(),
        "charts": section.charts.iter().map(Chart::json).collect::<Vec<_>>(),
    })
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}
