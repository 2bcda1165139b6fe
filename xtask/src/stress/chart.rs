//! From records to lines over time: levels as they were, totals as rates over short spans.

use super::history::{History, Read, faults, notifier_calls};
use abi::telemetry::Telemetry;
use serde_json::{Value, json};

/// Most points of a line.
const POINTS: f64 = 240.0;
/// Shortest span that a rate is taken over, in seconds: several records.
const SHORTEST: f64 = 0.5;
const PAGES_PER_MIB: f64 = 256.0;

/// One line.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) name: String,
    /// Seconds, and the value then.
    pub(super) points: Vec<(f64, f64)>,
}

/// Lines over one axis.
#[derive(Clone, Debug)]
pub(super) struct Chart {
    pub(super) title: &'static str,
    pub(super) unit: &'static str,
    pub(super) lines: Vec<Line>,
}

impl Chart {
    /// Whether there is anything to see.
    pub(super) fn is_flat(&self) -> bool {
        self.lines.iter().all(|line| line.points.iter().all(|&(_, value)| value == 0.0))
    }

    pub(super) fn json(&self) -> Value {
        let line = |line: &Line| {
            let (seconds, values): (Vec<f64>, Vec<f64>) = line.points.iter().copied().unzip();
            json!({"name": line.name, "seconds": seconds, "values": values})
        };
        let lines: Vec<Value> = self.lines.iter().map(line).collect();
        json!({"title": self.title, "unit": self.unit, "lines": lines})
    }
}

/// All charts of a run.
pub(super) fn all(history: &History) -> Vec<Chart> {
    let guests = |title, unit, read: Read, scale| levels(history, title, unit, read, scale);
    let rate = |title, unit, read: Read, scale| rates(history, title, unit, read, scale);
    let waits = if history.hz() == 0 { 0.0 } else { 100.0 / history.hz() as f64 };
    let charts = [
        guests("Resident memory of each guest", "MiB", |record| record.resident_frames, 1.0 / PAGES_PER_MIB),
        guests("In swap, of each guest", "MiB", |record| record.swap.pages, 1.0 / PAGES_PER_MIB),
        rate("Faults", "EPT violations, or page faults under shadows, a second", faults, 1.0),
        rate("Swapped out", "pages a second", |record| record.swap.out, 1.0),
        rate("Swapped in", "pages a second", |record| record.swap.back, 1.0),
        rate("Waiting for memory", "% of the time, where a fault ends", |record| record.memory_ticks, waits),
        rate("Notifier calls", "a second", notifier_calls, 1.0),
        machine(history, "The machine", &HOST),
        machine(history, "Merged pages", &MERGED),
    ];
    charts.into_iter().filter(|chart| !chart.is_flat()).collect()
}

/// The times at which something is drawn.
fn times(history: &History) -> Vec<f64> {
    let end = history.end();
    let step = (end / POINTS).max(SHORTEST);
    let count = (end / step).ceil() as usize;
    (0..=count).map(|index| (index as f64 * step).min(end)).collect()
}

/// The span of a guest's records.
fn span(history: &History, guest: usize) -> Option<(f64, f64)> {
    let samples = history.of(guest);
    Some((samples.first()?.at, samples.last()?.at))
}

fn levels(history: &History, title: &'static str, unit: &'static str, read: Read, scale: f64) -> Chart {
    let times = times(history);
    let line = |(guest, name): (usize, &String)| {
        let span = span(history, guest)?;
        let inside = times.iter().filter(|&&at| span.0 <= at && at <= span.1);
        let points = inside.map(|&at| (at, history.value(guest, at, read) as f64 * scale)).collect();
        Some(Line { name: name.clone(), points })
    };
    Chart { title, unit, lines: history.names().iter().enumerate().filter_map(line).collect() }
}

fn rates(history: &History, title: &'static str, unit: &'static str, read: Read, scale: f64) -> Chart {
    let times = times(history);
    let line = |(guest, name): (usize, &String)| {
        let span = span(history, guest)?;
        let pairs = times.windows(2).map(|pair| (pair[0], pair[1]));
        let inside = pairs.filter(|&(from, to)| span.0 <= to && from <= span.1);
        let points =
            inside.map(|pair| ((pair.0 + pair.1) / 2.0, history.rate(guest, pair, read) * scale)).collect();
        Some(Line { name: name.clone(), points })
    };
    Chart { title, unit, lines: history.names().iter().enumerate().filter_map(line).collect() }
}

/// Where the machine's memory is.
const HOST: [(&str, Read); 5] = [
    ("free", |record| record.free_frames),
    ("compressed", |record| record.host_swap.frames),
    ("kept compressed", |record| record.host_swap.pages),
    ("on disk", |record| record.host_swap.on_disk),
    ("page tables", |record| record.table_frames),
];

/// What merging has come to.
const MERGED: [(&str, Read); 2] =
    [("pages", |record| record.merge.sharing), ("the frames that they share", |record| record.merge.shared)];

/// Memory of the machine, as whichever guest has told last.
fn machine(history: &History, title: &'static str, reads: &[(&str, Read)]) -> Chart {
    let mut records: Vec<_> = (0..history.names().len()).flat_map(|guest| history.of(guest)).collect();
    records.sort_by(|a, b| a.at.total_cmp(&b.at));
    let times = times(history);
    let newest = |at: f64| -> Option<&Telemetry> {
        let behind = records.partition_point(|sample| sample.at <= at);
        behind.checked_sub(1).map(|index| &records[index].record)
    };
    let lines = reads.iter().map(|&(name, read)| {
        let point = |&at: &f64| newest(at).map(|record| (at, read(record) as f64 / PAGES_PER_MIB));
        Line { name: name.to_owned(), points: times.iter().filter_map(point).collect() }
    });
    let told = |line: &Line| line.points.iter().any(|&(_, value)| value != 0.0);
    Chart { title, unit: "MiB", lines: lines.filter(told).collect() }
}

#[cfg(test)]
mod tests {
    use super::all;
    use crate::stress::history::History;
    use abi::telemetry::Telemetry;

    #[test]
    fn what_never_happens_is_not_drawn() {
        let mut history = History::new(vec!["a".into()], 10);
        for tsc in 0..100 {
            history.add(&Telemetry { tsc, resident_frames: 256, ..Telemetry::default() });
        }
        let charts = all(&history);
        assert_eq!(charts.len(), 1);
        let points = &charts[0].lines[0].points;
        assert!(points.iter().all(|&(_, value)| value == 1.0) && points.len() > 10);
    }
}
