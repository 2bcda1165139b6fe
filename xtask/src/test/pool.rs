//! Runs what takes a host processor for a while, two at a time at most: an emulated machine takes a whole processor, and
//! tests on the host get no more than their part.
//!
//! ```text
//!   everything is compiled     ──►  the queue, the longest first  ──► worker ─► lines of a job when it ends
//!   (cargo takes all processors)                                  └─► worker        └─► the sum
//! ```

use super::Tally;
use crate::progress;
use anyhow::Result;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Most jobs at a time.
const WORKERS: usize = 2;

/// One test or many, run by one worker.
pub(crate) struct Job<'a> {
    pub(super) name: &'static str,
    run: Box<dyn FnOnce() -> Tally + Send + 'a>,
}

impl<'a> Job<'a> {
    /// One that counts and tells by itself.
    pub(crate) fn sum(name: &'static str, run: impl FnOnce() -> Result<Tally> + Send + 'a) -> Self {
        let run = move || {
            let started = Instant::now();
            run().unwrap_or_else(|error| one(name, started, &Err(error)))
        };
        Self { name, run: Box::new(run) }
    }

    /// One test.
    pub(crate) fn check(name: &'static str, run: impl FnOnce() -> Result<()> + Send + 'a) -> Self {
        let run = move || {
            let started = Instant::now();
            one(name, started, &run())
        };
        Self { name, run: Box::new(run) }
    }
}

fn one(name: &str, started: Instant, result: &Result<()>) -> Tally {
    let mut tally = Tally::default();
    tally.count(report(name, started.elapsed().as_secs_f64(), result));
    tally
}

/// Prints how one went; whether it passed.
pub(super) fn report(name: &str, seconds: f64, result: &Result<()>) -> bool {
    match result {
        Ok(()) => progress::say(&format!("ok      {name} ({seconds:.1} s)")),
        Err(error) => progress::say(&format!("FAILED  {name} ({seconds:.1} s): {error:#}")),
    }
    result.is_ok()
}

/// Runs all of them, in this order; the sum.
pub(super) fn run(mut jobs: Vec<Job<'_>>) -> Tally {
    jobs.reverse();
    let (queue, tally) = (Mutex::new(jobs), Mutex::new(Tally::default()));
    std::thread::scope(|scope| {
        for _ in 0..workers() {
            scope.spawn(|| {
                while let Some(job) = { locked(&queue).pop() } {
                    let sum = (job.run)();
                    locked(&tally).add(sum);
                }
            });
        }
    });
    tally.into_inner().unwrap_or_default()
}

/// Threads that a job on the host may have.
pub(super) fn threads() -> usize {
    (processors() / workers()).max(1)
}

fn workers() -> usize {
    processors().min(WORKERS)
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
