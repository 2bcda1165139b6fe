//! `fuzz`: builds the targets in `tests/fuzz` and lets libFuzzer search, with the stable toolchain and without cargo-fuzz.
//!
//! ```text
//!  tests/fuzz/seeds/TARGET ──┐
//!                            ├─► TARGET ─► ok, or target/fuzz/crashes/TARGET-crash-… and the command that repeats it
//!  target/fuzz/corpus/TARGET ┘
//! ```
//!
//! The compiler counts edges by LLVM's own pass, as cargo-fuzz asks it to on nightly toolchains. Comparisons are not
//! traced: with seeds that know the magic numbers that made every target slower and none better. A search by runs starts
//! from the seeds alone and takes the same inputs each time; one by seconds goes on where the last one ended.

use crate::cli::FuzzArgs;
use crate::test::{Job, Tally};
use crate::toolchain::find_program;
use crate::{progress, setup, workspace};
use anyhow::{Context, Result, bail};
use clap::builder::PossibleValuesParser;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// The package of the targets, from the root of the tree.
pub(crate) const MANIFEST: &str = "tests/fuzz/Cargo.toml";
/// What compiles libFuzzer.
pub(crate) const PACKAGES: [&str; 1] = ["g++"];
/// Build scripts and macros run without the flags only where a target is named.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
const FLAGS: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "--cfg=fuzzing",
];
/// Seconds after which an input counts as one that never ends; the slowest takes a hundredth of one.
const HANG: u32 = 60;

/// A program of the package.
struct Target {
    name: &'static str,
    /// Runs of the tests: some ten seconds.
    runs: u64,
    /// Longest input, in bytes.
    longest: u32,
}

const TARGETS: [Target; 14] = [
    Target { name: "acpi_tables", runs: 2_500_000, longest: 2048 },
    Target { name: "balloon", runs: 150_000, longest: 1024 },
    Target { name: "boot_information", runs: 1_000_000, longest: 6144 },
    Target { name: "configuration", runs: 400_000, longest: 1024 },
    Target { name: "devices", runs: 150_000, longest: 4096 },
    Target { name: "images", runs: 600_000, longest: 4096 },
    Target { name: "instructions", runs: 2_000_000, longest: 512 },
    Target { name: "machine_memory", runs: 150_000, longest: 2048 },
    Target { name: "memory_map", runs: 400_000, longest: 2048 },
    Target { name: "operations", runs: 2_000, longest: 1024 },
    Target { name: "package", runs: 1_500_000, longest: 4608 },
    Target { name: "page_walk", runs: 1_500_000, longest: 1024 },
    Target { name: "start_up_code", runs: 200_000, longest: 1024 },
    Target { name: "virtio_structures", runs: 3_000_000, longest: 512 },
];

/// How far a search goes.
#[derive(Clone, Copy)]
struct Extent {
    seconds: Option<u64>,
    /// Of each target; `None`: as the tests.
    runs: Option<u64>,
    seed: u32,
}

/// What a search that found nothing has done.
struct Searched {
    runs: u64,
    edges: u64,
}

impl fmt::Display for Searched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} runs, {} edges", self.runs, self.edges)
    }
}

/// For the command line.
pub(crate) fn names() -> PossibleValuesParser {
    PossibleValuesParser::new(TARGETS.iter().map(|target| target.name))
}

/// Searches as asked; the exit status.
///
/// # Errors
/// The targets cannot be built.
pub(crate) fn run(args: &FuzzArgs) -> Result<u8> {
    ensure_compiler()?;
    let wanted = |target: &&Target| args.target.as_deref().is_none_or(|name| name == target.name);
    let targets: Vec<&Target> = TARGETS.iter().filter(wanted).collect();
    build(&targets)?;
    if let (Some(input), [target]) = (&args.input, targets.as_slice()) {
        return again(target, input);
    }
    let extent = Extent { seconds: args.seconds, runs: args.runs, seed: args.seed };
    let mut tally = Tally::default();
    targets.iter().for_each(|target| tally.add(search(target, extent)));
    Ok(tally.told())
}

/// The searches that belong to the tests: bounded, and the same each time. Without a C++ compiler they count as one that failed.
///
/// # Errors
/// The targets cannot be built.
pub(crate) fn bounded() -> Result<Vec<Job<'static>>> {
    if let Err(error) = ensure_compiler() {
        return Ok(vec![Job::check("fuzzing", || Err(error))]);
    }
    let targets: Vec<&Target> = TARGETS.iter().collect();
    build(&targets)?;
    let extent = Extent { seconds: None, runs: None, seed: 1 };
    Ok(TARGETS.iter().map(|target| Job::sum(target.name, move || Ok(search(target, extent)))).collect())
}

fn ensure_compiler() -> Result<()> {
    if std::env::var_os("CXX").is_some() || find_program("c++").is_some() {
        return Ok(());
    }
    setup::ensure_packages("fuzzing", &PACKAGES)
}

fn build(targets: &[&Target]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(workspace::root()).args(["build", "--release", "--manifest-path", MANIFEST]);
    command.args(["--target", TRIPLE, "--target-dir"]).arg(build_dir());
    for target in targets {
        command.args(["--bin", target.name]);
    }
    // The separator that cargo defines.
    command.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
    for name in ["CARGO_TARGET_DIR", "RUSTFLAGS"] {
        command.env_remove(name);
    }
    progress::run("building the fuzz targets", &mut command)
}

fn build_dir() -> PathBuf {
    workspace::fuzz().join("build")
}

/// Searches, and tells how it went.
fn search(target: &Target, extent: Extent) -> Tally {
    let started = Instant::now();
    let result = target.search(&extent);
    let seconds = started.elapsed().as_secs_f64();
    progress::say(&match &result {
        Ok(searched) => format!("ok      fuzz {} ({seconds:.1} s): {searched}", target.name),
        Err(error) => format!("FAILED  fuzz {} ({seconds:.1} s): {error:#}", target.name),
    });
    let mut tally = Tally::default();
    tally.count(result.is_ok());
    tally
}

/// Runs one input. What the target prints is passed on, after what it makes of the input.
fn again(target: &Target, input: &Path) -> Result<u8> {
    let decoded = workspace::fuzz().join("decoded");
    // With this variable a target writes the input down as it is decoded, and does not use it.
    let status = target.command().arg(input).env("RUST_LIBFUZZER_DEBUG_PATH", &decoded).output();
    status.context("cannot start the target")?;
    println!("{}", std::fs::read_to_string(&decoded).with_context(|| format!("{}", decoded.display()))?);
    let status = target.command().arg(input).status().context("cannot start the target")?;
    println!("{} {}", input.display(), if status.success() { "is harmless" } else { "breaks something" });
    Ok(u8::from(!status.success()))
}

impl Target {
    fn command(&self) -> Command {
        let mut command = Command::new(build_dir().join(TRIPLE).join("release").join(self.name));
        command.arg(format!("-timeout={HANG}"));
        command
    }

    /// Searches to the end of `extent`.
    fn search(&self, extent: &Extent) -> Result<Searched> {
        let crashes = workspace::fuzz().join("crashes");
        std::fs::create_dir_all(&crashes).with_context(|| format!("{}", crashes.display()))?;
        let mut command = self.command();
        command.arg(format!("-artifact_prefix={}/{}-", crashes.display(), self.name));
        command.arg(format!("-max_len={}", self.longest)).arg(format!("-seed={}", extent.seed));
        command.arg(format!("-seed_inputs={}", self.seeds()?));
        if let Some(seconds) = extent.seconds {
            command.arg(format!("-max_total_time={seconds}"));
        }
        match (extent.runs, extent.seconds) {
            (Some(runs), _) => drop(command.arg(format!("-runs={runs}"))),
            (None, None) => drop(command.arg(format!("-runs={}", self.runs))),
            (None, Some(_)) => {}
        }
        // The end of the output has to hold what was wrong.
        command.arg(self.corpus(extent)?).env("RUST_BACKTRACE", "0");
        let (status, output) = progress::follow(&format!("fuzzing {}", self.name), &mut command)?;
        if !status.success() {
            bail!("{status}\n{}\n{}", progress::tail(&output), self.hint(&output));
        }
        Ok(done(&output).unwrap_or(Searched { runs: 0, edges: 0 }))
    }

    /// Where interesting inputs go. A search by runs does not see what others have found.
    fn corpus(&self, extent: &Extent) -> Result<PathBuf> {
        let kind = if extent.seconds.is_some() { "corpus" } else { "fresh" };
        let dir = workspace::fuzz().join(kind).join(self.name);
        if extent.seconds.is_none() && dir.is_dir() {
            std::fs::remove_dir_all(&dir).with_context(|| format!("{}", dir.display()))?;
        }
        std::fs::create_dir_all(&dir).with_context(|| format!("{}", dir.display()))?;
        Ok(dir)
    }

    /// The seeds, in the order of their names: that of a directory is not the same everywhere.
    fn seeds(&self) -> Result<String> {
        let dir = workspace::root().join("tests/fuzz/seeds").join(self.name);
        let files = std::fs::read_dir(&dir).with_context(|| format!("{}", dir.display()))?;
        let mut paths = Vec::new();
        for file in files {
            paths.push(file?.path().display().to_string());
        }
        paths.sort();
        Ok(paths.join(","))
    }

    /// How to see it again.
    fn hint(&self, output: &[String]) -> String {
        let saved = output.iter().rev().find_map(|line| line.split_once("Test unit written to "));
        match saved {
            Some((_, path)) => format!("again: cargo xtask fuzz {} --input {path}", self.name),
            None => "no input was saved".into(),
        }
    }
}

/// The last status line: `#300000 DONE   cov: 776 ft: 3889 ...`
fn done(output: &[String]) -> Option<Searched> {
    let line = output.iter().rev().find(|line| line.starts_with('#') && line.contains("DONE"))?;
    let mut words = line.trim_start_matches('#').split_whitespace();
    let runs = words.next()?.parse().ok()?;
    let edges = words.skip_while(|word| *word != "cov:").nth(1)?.parse().ok()?;
    Some(Searched { runs, edges })
}

#[cfg(test)]
mod tests {
    use super::{TARGETS, done};
    use crate::workspace;

    #[test]
    fn the_last_line_is_read() {
        let output = [
            "#8 pulse",
            "#300000\tDONE   cov: 776 ft: 3889 corp: 1695/374Kb",
            "Done 300000 runs in 3 second(s)",
        ];
        let searched = done(&output.map(str::to_owned)).expect("a status line");
        assert_eq!(searched.to_string(), "300000 runs, 776 edges");
        assert!(done(&[]).is_none());
    }

    #[test]
    fn every_target_is_known_and_has_seeds() {
        let package = workspace::root().join("tests/fuzz");
        let mut sources = 0;
        for file in std::fs::read_dir(package.join("fuzz_targets")).expect("the targets") {
            sources += usize::from(file.expect("a file").path().is_file());
        }
        assert_eq!(sources, TARGETS.len());
        for target in TARGETS {
            assert!(package.join("fuzz_targets").join(target.name).with_extension("rs").is_file());
            let seeds = std::fs::read_dir(package.join("seeds").join(target.name)).expect("its seeds");
            assert!(seeds.count() > 0, "{} has no seeds", target.name);
        }
    }
}
