//! The end of a stress program: the verdict on the terminal, the JSON file, the page, and what was said.

use super::chart::{self, Chart};
use super::page::Page;
use super::plan::{Finished, Judgement, Plan};
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
pub(super) fn report(args: &StressArgs, plan: &Plan, run: &Finished, judgement: &Judgement) -> Result<u8> {
    let name = args.name.to_string();
    let charts = chart::all(&run.history);
    let command = format!("cargo xtask run {}", plan.arguments.join(" "));
    let summary = format!("{:.1} s of the machine's time in {:.0} s", run.history.end(), run.seconds);
    let page = Page { name: &name, command: &command, summary: &summary, judgement, charts: &charts };
    let paths = Paths::of(args)?;
    write(&paths.page, &page.html())?;
    write(&paths.said, &format!("{}\n{}", run.console, run.log))?;
    let json = document(&name, &command, run, judgement, &charts);
    write(&paths.json, &format!("{json:#}\n"))?;
    if !judgement.passed() {
        eprintln!("{}\n{}", tail(&run.console), tail(&run.log));
    }
    print(judgement);
    println!("{name}: {summary}; {} and {}", paths.json.display(), paths.page.display());
    println!("{name}: {}", if judgement.passed() { "ok" } else { "FAILED" });
    Ok(u8::from(!judgement.passed()))
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
pub(super) struct Paths {
    pub(super) json: PathBuf,
    pub(super) page: PathBuf,
    /// Consoles and log.
    said: PathBuf,
}

impl Paths {
    /// Beside the JSON file that the command line names, if it does.
    pub(super) fn of(args: &StressArgs) -> Result<Self> {
        let dir = workspace::target().join("stress");
        std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let default = dir.join(format!("{}.json", args.name));
        let json = args.json.clone().unwrap_or(default);
        Ok(Self { page: json.with_extension("html"), said: json.with_extension("log"), json })
    }
}

/// Writes a file.
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

fn document(name: &str, command: &str, run: &Finished, judgement: &Judgement, charts: &[Chart]) -> Value {
    let guests = run.history.names().iter().enumerate().map(|(guest, name)| {
        let last = run.history.last(guest).map(|sample| sample.record);
        json!({"name": name, "last": last})
    });
    let Value::Object(mut document) = judgement.json() else { return Value::Null };
    document.extend([
        ("name".to_owned(), json!(name)),
        ("command".to_owned(), json!(command)),
        ("status".to_owned(), json!(run.status)),
        ("seconds".to_owned(), json!(run.seconds)),
        ("machine_seconds".to_owned(), json!(run.history.end())),
        ("guests".to_owned(), guests.collect()),
        ("charts".to_owned(), charts.iter().map(Chart::json).collect()),
    ]);
    Value::Object(document)
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}
