//! What is known of the schedule that runs: its decisions, and where in the program each was taken.

use std::fmt;
use std::panic::Location;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A switch to another thread than the one that comes without a decision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Decision {
    /// Number of the scheduler's call in the execution.
    pub(crate) step: u64,
    /// Number of the thread that goes on.
    pub(crate) thread: usize,
    /// The switch point at which the other thread was stopped.
    pub(crate) place: Option<&'static Location<'static>>,
}

/// What a search has done.
#[derive(Clone, Default, Debug)]
pub(crate) struct Journal {
    /// Decisions of the execution that runs, or failed.
    pub(crate) decisions: Vec<Decision>,
    /// Executions begun.
    pub(crate) executions: u64,
    /// Most places at which an execution could be decided.
    pub(crate) longest: u64,
}

/// A journal that outlives the search, also if that ends with a panic.
#[derive(Clone, Default, Debug)]
pub(crate) struct Shared(Arc<Mutex<Journal>>);

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Journal> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As [`crate::SCHEDULE`] has it.
pub(crate) struct Schedule<'a>(pub(crate) &'a [Decision]);

impl fmt::Display for Schedule<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Decision { step, thread, .. }) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{step}:{thread}")?;
        }
        Ok(())
    }
}

/// Reads a schedule as it was printed.
///
/// # Errors
/// The part that is no decision.
pub(crate) fn parse(text: &str) -> Result<Vec<(u64, usize)>, String> {
    let decision = |part: &str| {
        let (step, thread) = part.split_once(':')?;
        Some((step.trim().parse().ok()?, thread.trim().parse().ok()?))
    };
    let parts = text.split(',').filter(|part| !part.trim().is_empty());
    parts.map(|part| decision(part).ok_or_else(|| part.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::{Decision, Schedule, parse};

    #[test]
    fn a_schedule_is_read_as_it_was_printed() {
        let decisions = [(3, 1), (120, 2)].map(|(step, thread)| Decision { step, thread, place: None });
        assert_eq!(Schedule(&decisions).to_string(), "3:1,120:2");
        assert_eq!(parse("3:1,120:2"), Ok(vec![(3, 1), (120, 2)]));
        assert_eq!(parse(""), Ok(vec![]));
        assert_eq!(parse("3:1,x"), Err("x".into()));
    }
}
