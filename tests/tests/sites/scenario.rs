//! A scenario: what comes before, and the operation at a notifier site with all that shows that it was noticed.

use crate::Outcome;
use crate::bench::{Bench, Plan};

/// A scenario.
pub(crate) struct Scenario {
    /// Site of the patch, and what is done there.
    pub(crate) name: &'static str,
    /// The bench that it needs.
    pub(crate) plan: Plan,
    /// Heard by everybody.
    pub(crate) prepare: fn(&Bench) -> Outcome,
    /// What a guest's MMU may miss calls of.
    pub(crate) act: fn(&Bench) -> Outcome,
}

impl Scenario {
    /// Runs it with nothing missed.
    pub(crate) fn run(&self) -> Outcome {
        let bench = Bench::new(self.plan);
        (self.prepare)(&bench)?;
        (self.act)(&bench)?;
        bench.touch_all();
        bench.check()?;
        bench.finish()
    }
}
