//! How a run goes, while it goes: on a terminal a line for each guest and one for the machine, elsewhere the same lines now and
//! then.

use super::history::{History, Sample, faults, notifier_calls};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Between two changes of what a terminal shows.
const REDRAW: Duration = Duration::from_millis(250);
/// Between two reports where there is no terminal.
const REPORT: Duration = Duration::from_secs(30);
/// Seconds of the machine's time that rates are taken over.
const SPAN: f64 = 1.0;
const PAGES_PER_MIB: f64 = 256.0;

/// What is shown.
pub(super) struct Live {
    label: String,
    started: Instant,
    drawn: Instant,
    /// Guests that have a line: the first ones.
    guests: usize,
    /// A line for each guest, then the machine's; none without a terminal.
    bars: Option<(MultiProgress, Vec<ProgressBar>)>,
}

impl Live {
    /// Shows guests of these names.
    pub(super) fn new(label: &str, names: &[String]) -> Self {
        let lines = || names.iter().map(String::as_str).chain(["machine"]);
        let bars = std::io::stderr().is_terminal().then(|| {
            let all = MultiProgress::new();
            let width = lines().map(str::len).max().unwrap_or(0);
            let bars = lines().map(|name| all.add(line(&format!("{name:width$}")))).collect();
            (all, bars)
        });
        let now = Instant::now();
        Self { label: label.to_owned(), started: now, drawn: now, guests: names.len(), bars }
    }

    /// Shows what has been told so far, if it is time.
    pub(super) fn update(&mut self, history: &History) {
        let pause = if self.bars.is_some() { REDRAW } else { REPORT };
        if self.drawn.elapsed() < pause {
            return;
        }
        self.drawn = Instant::now();
        let guests = (0..self.guests).map(|guest| of_guest(history, guest));
        let lines: Vec<String> = guests.chain([self.of_machine(history)]).collect();
        match &self.bars {
            Some((_, bars)) => {
                for (bar, line) in bars.iter().zip(lines) {
                    bar.set_message(line);
                    bar.tick();
                }
            }
            None => {
                let names = history.names()[..self.guests].iter().map(String::as_str).chain(["machine"]);
                names.zip(lines).for_each(|(name, line)| eprintln!("{}: {name}: {line}", self.label));
            }
        }
    }

    /// A line that stays.
    pub(super) fn say(&self, line: &str) {
        match &self.bars {
            Some((all, _)) => {
                let _ = all.println(line);
            }
            None => eprintln!("{line}"),
        }
    }

    fn of_machine(&self, history: &History) -> String {
        let Some(Sample { at, record }) = history.newest() else { return "starts".into() };
        let swap = &record.host_swap;
        let waits: f64 = (0..history.names().len())
            .map(|guest| history.rate(guest, (at - SPAN, *at), |record| record.memory_ticks))
            .sum();
        let pressure = if history.hz() == 0 { 0.0 } else { waits / history.hz() as f64 };
        let merge = &record.merge;
        format!(
            "free {:.1} MiB, {:.1} MiB compressed into {:.1}, {:.1} on disk, {:.1} merged into {:.1}, pressure {:.0} %, \
             {at:.1} s in {} s",
            mib(record.free_frames),
            mib(swap.pages),
            mib(swap.frames),
            mib(swap.on_disk),
            mib(merge.sharing),
            mib(merge.shared),
            pressure * 100.0,
            self.started.elapsed().as_secs(),
        )
    }
}

fn line(name: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {wide_msg}");
    ProgressBar::new_spinner()
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
        .with_prefix(name.to_owned())
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some((_, bars)) = &self.bars {
            bars.iter().for_each(ProgressBar::finish_and_clear);
        }
    }
}

fn mib(pages: u64) -> f64 {
    pages as f64 / PAGES_PER_MIB
}

fn of_guest(history: &History, guest: usize) -> String {
    let Some(Sample { at, record }) = history.last(guest) else { return "-".into() };
    let rate = |read| history.rate(guest, (at - SPAN, *at), read);
    format!(
        "resident {:6.1} MiB, swapped {:6.1}, faults {:6.0}/s, in {:5.0}/s, out {:5.0}/s, notifier {:6.0}/s",
        mib(record.resident_frames),
        mib(record.swap.pages),
        rate(faults),
        rate(|record| record.swap.back),
        rate(|record| record.swap.out),
        rate(notifier_calls),
    )
}
