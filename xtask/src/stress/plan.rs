//! What a stress program is: a run, what is typed meanwhile, and what has to be true of it.

use super::history::History;
use serde_json::{Value, json};

/// What is typed on the console once something was seen there, or in the log.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// Text that has to appear after the last keys, wherever.
    pub(super) wait: String,
    /// So many passes of merging have to end behind it, too.
    pub(super) passes: u64,
    /// May be none.
    pub(super) keys: String,
}

impl Step {
    pub(super) fn new(wait: impl Into<String>, keys: impl Into<String>) -> Self {
        Self { wait: wait.into(), passes: 0, keys: keys.into() }
    }

    pub(super) fn after_passes(self, passes: u64) -> Self {
        Self { passes, ..self }
    }
}

/// Says what is to be thought of a run.
pub(super) type Judge = Box<dyn Fn(&Finished) -> Judgement>;

/// A run that is to be made.
pub(super) struct Plan {
    /// Which of a program's runs.
    pub(super) label: String,
    /// Behind `run`.
    pub(super) arguments: Vec<String>,
    /// Names of guests that will come to those of the command line, in the order of their numbers.
    pub(super) clones: Vec<String>,
    /// What is typed, in this order.
    pub(super) steps: Vec<Step>,
    /// Wall seconds after which the machine hangs.
    pub(super) timeout: u64,
    pub(super) judge: Judge,
}

/// A run that has ended.
pub(super) struct Finished {
    /// Exit status.
    pub(super) status: u8,
    /// Wall time.
    pub(super) seconds: f64,
    /// All consoles.
    pub(super) console: String,
    /// Herald's log.
    pub(super) log: String,
    /// Seconds of the machine's time at which each step's text was seen.
    pub(super) marks: Vec<f64>,
    /// What telemetry told.
    pub(super) history: History,
}

/// Something that has to be true.
#[derive(Clone, Debug)]
pub(super) struct Check {
    pub(super) what: String,
    pub(super) passed: bool,
}

/// Something that was measured.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    pub(super) name: String,
    pub(super) value: f64,
    pub(super) unit: &'static str,
}

/// What is to be thought of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Judgement {
    pub(super) checks: Vec<Check>,
    pub(super) figures: Vec<Figure>,
}

impl Judgement {
    /// Begins with what holds for all: the run ends with `status`.
    pub(super) fn expecting(status: u8, run: &Finished) -> Self {
        let mut judgement = Self::default();
        judgement
            .check(format!("the run ends with status {status}, it was {}", run.status), run.status == status);
        judgement
    }

    pub(super) fn check(&mut self, what: impl Into<String>, passed: bool) {
        self.checks.push(Check { what: what.into(), passed });
    }

    /// Something is at least so much.
    pub(super) fn at_least(&mut self, what: &str, value: u64, least: u64) {
        self.check(format!("{what}: {value}, at least {least}"), value >= least);
    }

    /// Something is at most so much.
    pub(super) fn at_most(&mut self, what: &str, value: u64, most: u64) {
        self.check(format!("{what}: {value}, at most {most}"), value <= most);
    }

    pub(super) fn figure(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.figures.push(Figure { name: name.into(), value, unit });
    }

    pub(super) fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.passed)
    }

    /// Takes over another one's, as part `label`.
    pub(super) fn absorb(&mut self, label: &str, other: &Self) {
        let checks = other.checks.iter().cloned();
        self.checks.extend(checks.map(|check| Check { what: format!("{label}: {}", check.what), ..check }));
        let figures = other.figures.iter().cloned();
        self.figures
            .extend(figures.map(|figure| Figure { name: format!("{label}: {}", figure.name), ..figure }));
    }

    pub(super) fn json(&self) -> Value {
        let checks = self.checks.iter().map(|check| json!({"what": check.what, "passed": check.passed}));
        let figures = self
            .figures
            .iter()
            .map(|figure| json!({"name": figure.name, "value": figure.value, "unit": figure.unit}));
        json!({
            "passed": self.passed(),
            "checks": checks.collect::<Vec<_>>(),
            "figures": figures.collect::<Vec<_>>(),
        })
    }
}
