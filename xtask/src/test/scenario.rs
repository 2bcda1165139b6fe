//! A scenario: one `xtask run` from outside, as a user starts it, and what must be true of it.

use super::dialogue::{Screen, type_keys};
use super::fixtures::Fixtures;
use anyhow::{Context, Result, bail, ensure};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs::File;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What happens on the guest's console.
#[derive(Clone, Copy, Debug)]
pub(super) enum Console {
    /// Standard input, from a pipe that ends behind it.
    Pipe(&'static str),
    /// A terminal: waits for each text and types the keys beside it.
    Terminal(&'static [(&'static str, &'static str)]),
}

/// A bound on one number of the last telemetry record, by JSON pointer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bound {
    AtLeast(&'static str, u64),
    AtMost(&'static str, u64),
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    /// Behind `run`; `{name}` is a fixture.
    pub(super) args: &'static [&'static str],
    pub(super) console: Console,
    /// Exit status.
    pub(super) status: i32,
    /// Texts that must appear.
    pub(super) stdout: &'static [&'static str],
    pub(super) stderr: &'static [&'static str],
    pub(super) telemetry: &'static [Bound],
    /// Wall seconds.
    pub(super) timeout: u32,
}

/// What is about an EPT, or about a processor without one, or has its own scenario under a shadow.
const EPT_ONLY: [&str; 8] = [
    "conformance-skylake",
    "huge-pages",
    "gigantic-pages",
    "no-gigantic-pages",
    "dirty-log-by-processor",
    "no-ept",
    "auto-says-why",
    "skylake",
];

struct Outcome {
    status: i32,
    stdout: String,
    stderr: String,
}

impl Scenario {
    /// Runs it and compares.
    ///
    /// # Errors
    /// What differed, with the output.
    pub(super) fn run(&self, fixtures: &Fixtures) -> Result<()> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("run").args(self.args.iter().map(|argument| fixtures.expand(argument)));
        if !self.args.contains(&"--timeout") {
            command.args(["--timeout", &self.timeout.to_string()]);
        }
        if fixtures.is_shadowed {
            command.args(["--paging", "shadow"]);
        }
        let telemetry = fixtures.output(self.name);
        if !self.telemetry.is_empty() {
            command.arg("--telemetry").arg(&telemetry);
        }
        let outcome = match self.console {
            Console::Pipe(input) => through_pipes(command, input)?,
            Console::Terminal(steps) => through_terminal(command, steps, self.timeout)?,
        };
        self.compare(&outcome).with_context(|| outcome.show())?;
        if !self.telemetry.is_empty() {
            let text = std::fs::read_to_string(&telemetry).context("telemetry")?;
            let line = text.lines().last().context("no telemetry record")?;
            let record = serde_json::from_str(line).with_context(|| line.to_owned())?;
            for bound in self.telemetry.iter().filter(|bound| !fixtures.is_shadowed || !bound.is_of_epts()) {
                bound.check(&record)?;
            }
        }
        Ok(())
    }

    /// Whether guests are paged as the processor and the options of `test` have it.
    pub(super) fn is_of_any_paging(&self) -> bool {
        let says =
            |word: &&str| ["--paging", "penryn", "--apic-virtualisation", "--no-ept-ad"].contains(word);
        !self.args.iter().any(says) && !EPT_ONLY.contains(&self.name)
    }

    fn compare(&self, outcome: &Outcome) -> Result<()> {
        for (stream, text, wanted) in
            [("output", &outcome.stdout, self.stdout), ("error", &outcome.stderr, self.stderr)]
        {
            for part in wanted {
                ensure!(text.contains(part), "standard {stream} lacks `{part}`");
            }
        }
        ensure!(outcome.status == self.status, "status {}, expected {}", outcome.status, self.status);
        Ok(())
    }
}

impl Outcome {
    fn show(&self) -> String {
        let tail = |text: &str| {
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(30)..].join("\n  | ")
        };
        format!("status {}\n  | {}\n  | {}\n ", self.status, tail(&self.stdout), tail(&self.stderr))
    }
}

impl Bound {
    /// Whether it counts what there is with an EPT alone.
    fn is_of_epts(&self) -> bool {
        let (Self::AtLeast(name, _) | Self::AtMost(name, _)) = self;
        ["/ept_violations", "/exits/ept_fault", "/invept"].contains(name)
    }

    fn check(&self, record: &serde_json::Value) -> Result<()> {
        let (Self::AtLeast(name, limit) | Self::AtMost(name, limit)) = *self;
        let value = record.pointer(name).and_then(serde_json::Value::as_u64);
        let value = value.with_context(|| format!("telemetry has no number {name}: {record}"))?;
        match self {
            Self::AtLeast(..) => ensure!(value >= limit, "{name} is {value}, at least {limit} expected"),
            Self::AtMost(..) => ensure!(value <= limit, "{name} is {value}, at most {limit} expected"),
        }
        Ok(())
    }
}

fn through_pipes(mut command: Command, input: &'static str) -> Result<Outcome> {
    command.arg("--headless");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    // A run that refuses its arguments reads nothing; the write then fails, and nothing is wrong.
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    let _ = writer.join();
    Ok(Outcome {
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

fn through_terminal(mut command: Command, steps: &[(&str, &str)], timeout: u32) -> Result<Outcome> {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    grantpt(&terminal)?;
    unlockpt(&terminal)?;
    let name = ptsname(&terminal, Vec::new())?.into_string()?;
    let side = File::options().read(true).write(true).open(&name)?;
    let before = rustix::termios::tcgetattr(&side)?;
    command.stdin(side.try_clone()?).stdout(side.try_clone()?).stderr(side.try_clone()?);
    let mut child = command.spawn()?;
    // The parent's copies of the terminal's other side go with the command.
    drop(command);
    let mut keyboard = File::from(terminal);
    let screen = Screen::watch(keyboard.try_clone()?);
    let deadline = Instant::now() + Duration::from_secs(u64::from(timeout));
    let typed = type_keys(&mut keyboard, &screen, steps, deadline);
    let status = wait(&mut child, deadline)?;
    let after = rustix::termios::tcgetattr(&side)?;
    typed?;
    ensure!(before.local_modes == after.local_modes, "the terminal was left raw");
    let stdout = screen.text();
    Ok(Outcome { status, stdout, stderr: String::new() })
}

fn wait(child: &mut Child, deadline: Instant) -> Result<i32> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code().unwrap_or(-1));
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!("still running at the deadline");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
