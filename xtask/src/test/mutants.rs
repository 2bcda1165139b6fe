//! The mutation kit: the product makes each mistake of `mutants::Mutant` in turn, and some test must notice.
//!
//! ```text
//!   build with the kit ─► nobody chosen: all pass
//!                     ─► each mutant: suites in order, until one fails ─► killed by that test
//!                                                      none fails ─────► survivor, unless proved equivalent
//! ```
//!
//! A suite that does not end counts as a failure, but should not be needed: the simulated machine ends whoever goes
//! round in circles.

use super::host;
use crate::progress::{self, Step};
use crate::workspace;
use anyhow::{Context, Result, bail, ensure};
use mutants::Mutant;
use std::fmt::Write;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Names the mutant to the product (`mutants::VARIABLE` of a build with the kit).
const VARIABLE: &str = "HERALD_MUTANT";
/// The suites, cheapest first, with what each leaves out: tests that make mistakes of their own, and expect others to
/// be absent; threads, whose order is luck.
const SUITES: [(&str, &[&str]); 8] = [
    // The models under loom.
    ("sync", &["--skip", "without_", "--skip", "s_nothing_"]),
    ("sites", &["--skip", "every_call::", "--skip", "crowd::"]),
    ("scenarios", &["--skip", "device_deaf::"]),
    ("tiers", &[]),
    ("spaces", &["--skip", "random::", "--skip", "threads::"]),
    ("property", &[]),
    ("models", &["--skip", "broken::"]),
    ("spaces", &["random::"]),
];
/// How they are built, each with the kit. One after the other: the models' locks are others, and loom's atomics.
const BUILDS: [&[&str]; 3] = [
    &["--package", "sync", "--lib", "--features", "loom,mutants/kit"],
    &["--package", "tests", "--test", "*", "--features", "mutants"],
    &["--package", "models", "--test", "*", "--features", "mutants"],
];
/// After this a suite counts as stuck.
const PATIENCE: Duration = Duration::from_secs(600);
const TICK: Duration = Duration::from_millis(50);
/// Where the list is written.
const LIST: &str = "docs/mutants.md";

/// What became of a mutant.
enum Fate {
    /// The test that noticed.
    Killed(String),
    Survived,
}

/// Whether the list in `docs` is written anew.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum List {
    Written,
    Kept,
}

/// Tries every mutant whose name contains `only`; the exit status.
///
/// # Errors
/// The suites cannot be built, or fail without a mutant.
pub(super) fn run(only: Option<&str>, list: List) -> Result<u8> {
    let suites = build()?;
    let wanted: Vec<Mutant> =
        Mutant::all().filter(|mutant| only.is_none_or(|only| mutant.to_string().contains(only))).collect();
    ensure!(!wanted.is_empty(), "no mutant's name contains `{}`", only.unwrap_or_default());
    if let Fate::Killed(test) = fate(&suites, None)? {
        bail!("without a mutant `{test}` fails: mend that first");
    }
    let fates = try_all(&suites, &wanted)?;
    let survivors = wanted
        .iter()
        .zip(&fates)
        .filter(|(mutant, fate)| matches!(fate, Fate::Survived) && mutant.equivalent().is_none());
    let survivors: Vec<_> = survivors.map(|(mutant, _)| mutant.to_string()).collect();
    let disproved = wanted.iter().zip(&fates).filter_map(|(mutant, fate)| match fate {
        Fate::Killed(test) if mutant.equivalent().is_some() => Some(format!("{mutant} (by {test})")),
        Fate::Killed(_) | Fate::Survived => None,
    });
    let disproved: Vec<_> = disproved.collect();
    if list == List::Written && only.is_none() {
        std::fs::write(workspace::root().join(LIST), text(&wanted, &fates)?).context(LIST)?;
    }
    for name in &survivors {
        println!("survived: {name}");
    }
    for name in &disproved {
        println!("called equivalent, but killed: {name}");
    }
    let killed = fates.iter().filter(|fate| matches!(fate, Fate::Killed(_))).count();
    println!(
        "{} mutants: {killed} killed, {} equivalent, {} survived",
        wanted.len(),
        wanted.len() - killed - survivors.len(),
        survivors.len()
    );
    Ok(u8::from(!survivors.is_empty() || !disproved.is_empty()))
}

/// Builds the suites with the kit; where each is.
fn build() -> Result<Vec<PathBuf>> {
    let mut built = Vec::new();
    for build in BUILDS {
        built.extend(build_suites(build)?);
    }
    SUITES.iter().map(|(name, _)| find(&built, name)).collect()
}

fn build_suites(build: &[&str]) -> Result<Vec<PathBuf>> {
    let arguments = [&["test", "--profile", "search", "--no-run"], build].concat();
    progress::run(&format!("{}, with the mutation kit", build[1]), &mut host::command(&arguments))?;
    let json = [&arguments[..], &["--message-format", "json", "--quiet"]].concat();
    let executables = String::from_utf8_lossy(&host::command(&json).output()?.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| Some(PathBuf::from(message.get("executable")?.as_str()?)))
        .collect();
    Ok(executables)
}

fn find(built: &[PathBuf], name: &str) -> Result<PathBuf> {
    let is_suite = |path: &&PathBuf| {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        file.rsplit_once('-').is_some_and(|(stem, _)| stem == name)
    };
    built.iter().find(is_suite).cloned().with_context(|| format!("cargo built no suite `{name}`"))
}

/// Tries mutants side by side, one a processor.
fn try_all(suites: &[PathBuf], wanted: &[Mutant]) -> Result<Vec<Fate>> {
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let fates: Vec<Mutex<Option<Result<Fate>>>> = wanted.iter().map(|_| Mutex::default()).collect();
    let work = || {
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(&mutant) = wanted.get(place) else { return };
            let started = Instant::now();
            let fate = fate(suites, Some(mutant));
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            progress::say(&told((done, wanted.len()), mutant, &fate, started.elapsed()));
            if let Ok(mut slot) = fates[place].lock() {
                *slot = Some(fate);
            }
        }
    };
    std::thread::scope(|scope| {
        let processors = std::thread::available_parallelism().map_or(1, Into::into);
        let workers: Vec<_> = (0..processors).map(|_| scope.spawn(work)).collect();
        let mut step = Step::new("mutants");
        while !workers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            step.tick(&format!("{} of {}", done.load(Ordering::Relaxed), wanted.len()));
            std::thread::sleep(TICK);
        }
    });
    fates.into_iter().map(|fate| fate.into_inner().ok().flatten().context("a worker has failed")?).collect()
}

/// The line for one that is done.
fn told((done, of): (usize, usize), mutant: Mutant, fate: &Result<Fate>, took: Duration) -> String {
    let fate = match fate {
        Ok(Fate::Killed(test)) => format!("killed by {test}"),
        Ok(Fate::Survived) => "survived".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    format!("{done}/{of} {mutant}: {fate} ({:.1} s)", took.as_secs_f64())
}

/// Runs the suites until one fails.
fn fate(suites: &[PathBuf], mutant: Option<Mutant>) -> Result<Fate> {
    for (suite, (name, arguments)) in suites.iter().zip(SUITES) {
        if let Some(test) = failing(suite, arguments, mutant)? {
            return Ok(Fate::Killed(format!("{name}::{test}")));
        }
    }
    Ok(Fate::Survived)
}

/// The first test of a suite that fails; the rest is not waited for.
fn failing(suite: &Path, arguments: &[&str], mutant: Option<Mutant>) -> Result<Option<String>> {
    let mut command = Command::new(suite);
    command.args(arguments).args(["--test-threads", "1"]).current_dir(workspace::root().join("tests"));
    command.env_remove(VARIABLE).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    if let Some(mutant) = mutant {
        command.env(VARIABLE, mutant.to_string());
    }
    let mut child = command.spawn().with_context(|| format!("cannot start {}", suite.display()))?;
    let stdout = child.stdout.take().context("a suite has no standard output")?;
    let (results, lines) = channel();
    std::thread::spawn(move || read_results(stdout, &results));
    let mut last = "the first test".to_owned();
    let started = Instant::now();
    let failed = loop {
        match lines.recv_timeout(PATIENCE.saturating_sub(started.elapsed())) {
            Ok((test, Outcome::Failed)) => break Some(test),
            Ok((test, Outcome::Passed)) => last = test,
            Err(RecvTimeoutError::Timeout) => break Some(format!("what follows {last} (does not end)")),
            Err(RecvTimeoutError::Disconnected) => break None,
        }
    };
    if failed.is_some() {
        child.kill()?;
    }
    let status = child.wait()?;
    Ok(failed.or_else(|| (!status.success()).then(|| format!("what follows {last} (the program ended)"))))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Passed,
    Failed,
}

/// Passes on what a suite prints of each test, as it does.
fn read_results(stdout: impl Read, results: &Sender<(String, Outcome)>) {
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        if result_of(&line).is_some_and(|result| results.send(result).is_err()) {
            return;
        }
    }
}

/// `test a::b ... FAILED`
fn result_of(line: &str) -> Option<(String, Outcome)> {
    let (name, result) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let outcome = match result {
        "ok" => Outcome::Passed,
        "FAILED" => Outcome::Failed,
        _ => return None,
    };
    Some((name.trim_end_matches(" - should panic").to_owned(), outcome))
}

/// The list for `docs`.
fn text(wanted: &[Mutant], fates: &[Fate]) -> Result<String> {
    let mut text = String::from(
        "# Mutants\n\nThe mistakes that the product can be told to make, and the first test that notices each. \
         Written by\n`cargo xtask test mutants --list`; the texts are those of `hypervisor/crates/mutants`.\n\n\
         | mutant | mistake | killed by |\n|---|---|---|\n",
    );
    for (mutant, fate) in wanted.iter().zip(fates) {
        let (what, site) = mutant.describe();
        let fate = match (fate, mutant.equivalent()) {
            (_, Some(proof)) => format!("equivalent: {proof}"),
            (Fate::Killed(test), None) => format!("`{test}`"),
            (Fate::Survived, None) => "**nobody**".to_owned(),
        };
        writeln!(text, "| `{mutant}` | {what}{site} | {fate} |")?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{Outcome, result_of};

    #[test]
    fn results_of_tests_are_read() {
        assert_eq!(result_of("test a::b ... ok"), Some(("a::b".to_owned(), Outcome::Passed)));
        assert_eq!(result_of("test c - should panic ... FAILED"), Some(("c".to_owned(), Outcome::Failed)));
        assert_eq!(result_of("test result: FAILED. 1 passed; 2 failed"), None);
    }
}
