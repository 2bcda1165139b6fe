//! What telemetry has told in the course of a run, guest by guest. Records are totals, so that some of them can be left out
//! where there are many.

use abi::telemetry::Telemetry;
use std::time::Instant;

/// Most records of a guest that are kept.
const MOST: usize = 6000;

/// One record, and when it was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Seconds of the machine's time; of wall time, where nobody knows how fast its clock runs.
    pub(super) at: f64,
    pub(super) record: Telemetry,
}

/// A number of a record.
pub(super) type Read = fn(&Telemetry) -> u64;

/// All records.
pub(super) struct History {
    hz: u64,
    started: Instant,
    names: Vec<String>,
    samples: Vec<Vec<Sample>>,
}

impl History {
    /// Of guests with these names, on a machine with this TSC frequency (0: not known).
    pub(super) fn new(names: Vec<String>, hz: u64) -> Self {
        let samples = names.iter().map(|_| Vec::new()).collect();
        Self { hz, started: Instant::now(), names, samples }
    }

    pub(super) fn add(&mut self, record: &Telemetry) {
        let at = if self.hz == 0 {
            self.started.elapsed().as_secs_f64()
        } else {
            record.tsc as f64 / self.hz as f64
        };
        let Some(samples) = self.samples.get_mut(record.vm as usize) else { return };
        samples.push(Sample { at, record: *record });
        if samples.len() > MOST {
            let mut index = 0;
            samples.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
    }

    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// TSC ticks of a second, where they are known.
    pub(super) fn hz(&self) -> u64 {
        self.hz
    }

    /// Records of a guest, in order.
    pub(super) fn of(&self, guest: usize) -> &[Sample] {
        self.samples.get(guest).map_or(&[], Vec::as_slice)
    }

    /// The last record of a guest.
    pub(super) fn last(&self, guest: usize) -> Option<&Sample> {
        self.of(guest).last()
    }

    /// The last record of each guest that has sent one.
    pub(super) fn lasts(&self) -> impl Iterator<Item = &Telemetry> {
        (0..self.names.len()).filter_map(|guest| self.last(guest)).map(|sample| &sample.record)
    }

    /// The newest record of all.
    pub(super) fn newest(&self) -> Option<&Sample> {
        let lasts = (0..self.names.len()).filter_map(|guest| self.last(guest));
        lasts.max_by(|a, b| a.at.total_cmp(&b.at))
    }

    /// When the run was over.
    pub(super) fn end(&self) -> f64 {
        self.newest().map_or(0.0, |sample| sample.at)
    }

    /// The sum over all guests, at their ends.
    pub(super) fn sum(&self, read: Read) -> u64 {
        self.lasts().map(read).sum()
    }

    /// The largest value that a guest has had.
    pub(super) fn most(&self, guest: usize, read: Read) -> u64 {
        self.of(guest).iter().map(|sample| read(&sample.record)).max().unwrap_or(0)
    }

    /// A number of a guest at some time: that of the last record before it.
    pub(super) fn value(&self, guest: usize, at: f64, read: Read) -> u64 {
        let samples = self.of(guest);
        let behind = samples.partition_point(|sample| sample.at <= at);
        behind.checked_sub(1).map_or(0, |index| read(&samples[index].record))
    }

    /// How fast a total of a guest grows, a second, between two times. A guest that starts anew begins with nothing.
    pub(super) fn rate(&self, guest: usize, (from, to): (f64, f64), read: Read) -> f64 {
        let grown = self.value(guest, to, read).saturating_sub(self.value(guest, from, read));
        if to > from { grown as f64 / (to - from) } else { 0.0 }
    }
}

/// Faults that Herald has resolved, of an EPT or of shadows.
pub(super) const fn faults(record: &Telemetry) -> u64 {
    record.ept_violations + record.exits.page_fault
}

/// Calls of the notifier, all operations.
pub(super) const fn notifier_calls(record: &Telemetry) -> u64 {
    let calls = &record.notifier;
    calls.invalidate_page
        + calls.invalidate_range_begin
        + calls.invalidate_range_end
        + calls.clear_flush_young
        + calls.clear_young
        + calls.collect_young
        + calls.test_young
        + calls.release
}

#[cfg(test)]
mod tests {
    use super::{History, MOST};
    use abi::telemetry::Telemetry;

    fn record(tsc: u64, total: u64) -> Telemetry {
        Telemetry { tsc, ept_violations: total, ..Telemetry::default() }
    }

    #[test]
    fn rates_are_differences_of_totals() {
        let mut history = History::new(vec!["a".into()], 100);
        for (tsc, total) in [(100, 5), (200, 25), (300, 30), (400, 2)] {
            history.add(&record(tsc, total));
        }
        let rate = |from, to| history.rate(0, (from, to), |record| record.ept_violations);
        assert_eq!([rate(1.0, 2.0), rate(1.0, 3.0), rate(0.0, 1.0)], [20.0, 12.5, 5.0]);
        // It has begun anew.
        assert_eq!(rate(3.0, 4.0), 0.0);
        assert_eq!(history.end(), 4.0);
    }

    #[test]
    fn of_many_records_some_are_left_out() {
        let mut history = History::new(vec!["a".into()], 1);
        (0..10 * MOST as u64).for_each(|tsc| history.add(&record(tsc, tsc)));
        assert!(history.of(0).len() <= MOST);
        assert!(history.of(0).is_sorted_by(|a, b| a.at < b.at));
    }

    #[test]
    fn a_guest_that_nobody_has_named_is_not_counted() {
        let mut history = History::new(Vec::new(), 1);
        history.add(&record(1, 1));
        assert_eq!(history.end(), 0.0);
    }
}
