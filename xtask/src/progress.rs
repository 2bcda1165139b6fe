//! Progress of steps that may take long: silent below two seconds, then a spinner on a terminal and
//! plain lines elsewhere. What a program printed is shown when it fails.

use anyhow::{Context, Result, bail};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::io::{BufRead, BufReader, IsTerminal, PipeReader};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

const SILENT: Duration = Duration::from_secs(2);
const REPORT: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(150);
/// Lines of a failed program's output that are shown.
const TAIL: usize = 60;

/// The spinners of all threads, one below the other.
static SPINNERS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Prints lines to the standard output, above the spinners.
pub(crate) fn say(text: &str) {
    SPINNERS.suspend(|| println!("{text}"));
}

/// One step.
pub(crate) struct Step {
    label: String,
    started: Instant,
    reported: Option<Instant>,
    bar: Option<ProgressBar>,
}

impl Step {
    /// Starts the clock.
    pub(crate) fn new(label: &str) -> Self {
        Self { label: label.to_owned(), started: Instant::now(), reported: None, bar: None }
    }

    /// Tells what is going on; to be called often.
    pub(crate) fn tick(&mut self, detail: &str) {
        if self.started.elapsed() < SILENT {
            return;
        }
        if std::io::stderr().is_terminal() {
            let bar = self.bar.get_or_insert_with(|| SPINNERS.add(spinner(&self.label, self.started)));
            bar.set_message(detail.to_owned());
            bar.tick();
            return;
        }
        match self.reported {
            None => eprintln!("xtask: {} ...", self.label),
            Some(last) if last.elapsed() >= REPORT => {
                eprintln!("xtask: {}: {} s, {detail}", self.label, self.started.elapsed().as_secs());
            }
            Some(_) => return,
        }
        self.reported = Some(Instant::now());
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if self.bar.is_some() || self.reported.is_some() {
            eprintln!("xtask: {}: {:.1} s", self.label, self.started.elapsed().as_secs_f64());
        }
    }
}

fn spinner(label: &str, started: Instant) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg}");
    ProgressBar::new_spinner()
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
        .with_prefix(label.to_owned())
        .with_elapsed(started.elapsed())
}

/// Runs a program to its end as one step.
///
/// # Errors
/// It cannot start, or fails: then the end of its output is in the message.
pub(crate) fn run(label: &str, command: &mut Command) -> Result<()> {
    let (status, output) = follow(label, command)?;
    if !status.success() {
        let name = command.get_program().to_string_lossy().into_owned();
        bail!("{label}: {name} failed ({status})\n{}", tail(&output));
    }
    Ok(())
}

/// The end of a program's output, as much of it as is worth showing.
pub(crate) fn tail(output: &[String]) -> String {
    output[output.len().saturating_sub(TAIL)..].join("\n")
}

/// Runs a program to its end as one step; how it ended, and what it printed.
///
/// # Errors
/// It cannot start.
pub(crate) fn follow(label: &str, command: &mut Command) -> Result<(ExitStatus, Vec<String>)> {
    follow_each(label, command, |_| {})
}

/// The same; what it prints is looked at as it comes.
///
/// # Errors
/// It cannot start.
pub(crate) fn follow_each(
    label: &str,
    command: &mut Command,
    mut look: impl FnMut(&str),
) -> Result<(ExitStatus, Vec<String>)> {
    let name = command.get_program().to_string_lossy().into_owned();
    let (reader, writer) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("{label}: cannot start {name}"))?;
    // The command keeps its ends of the pipe open; without them the reader sees the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let lines = read_lines(reader);
    let mut step = Step::new(label);
    let mut output: Vec<String> = Vec::new();
    loop {
        match lines.recv_timeout(TICK) {
            Ok(line) => {
                look(&line);
                output.push(line);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        step.tick(output.last().map_or("", |line| line.trim()));
    }
    Ok((child.wait()?, output))
}

fn read_lines(reader: PipeReader) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
    receiver
}
