//! A model: what is set up, what runs at the same time, and what must be true in the end.

use crate::journal::{Schedule, Shared, parse};
use crate::search::{Explorer, Search};
use crate::{PREEMPTIONS, SCHEDULE};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};
use std::fmt;
use std::sync::Arc;
use tests::random::Random;

/// Stack of each thread of a model, in bytes.
const STACK: usize = 1 << 20;
/// Steps after which an execution counts as stuck.
const MOST_STEPS: usize = 100_000;
const SEED: u64 = 0x0dd_ba11;

/// How far a search goes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Preemptions in a schedule: all schedules with at most so many are run.
    pub preemptions: u32,
    /// How often a thread offers one switch point of the program in one execution: a loop over 512 pages is not left at
    /// each of them.
    pub passes: u32,
    /// Schedules beyond the bound, at random.
    pub random: u64,
}

impl Bounds {
    /// At most so many preemptions, every pass of every switch point, and some schedules beyond.
    #[must_use]
    pub const fn preemptions(preemptions: u32) -> Self {
        Self { preemptions, passes: u32::MAX, random: 1_000 }
    }

    /// The same, or more where the environment asks for it.
    fn deepened(self) -> Self {
        let wanted = std::env::var(PREEMPTIONS).ok();
        let wanted = wanted.map(|text| text.parse().unwrap_or_else(|_| panic!("{PREEMPTIONS}: {text}?")));
        Self { preemptions: wanted.unwrap_or(0).max(self.preemptions), ..self }
    }

    /// The same, where loops offer their switch points only a few times.
    #[must_use]
    pub const fn with_passes(self, passes: u32) -> Self {
        Self { passes, ..self }
    }
}

/// What a search has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// Schedules within the bound: all there are.
    pub exhaustive: u64,
    /// Schedules at random.
    pub random: u64,
    /// Most places in one schedule at which another thread could have gone on.
    pub places: u64,
}

/// A schedule in which something went wrong.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What the panic said.
    pub message: String,
    /// What [`SCHEDULE`] has to be to see it again.
    pub schedule: String,
    /// Schedules run, this one included.
    pub executions: u64,
    /// Where threads were stopped.
    places: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.message)?;
        for place in &self.places {
            writeln!(f, "  {place}")?;
        }
        write!(f, "in schedule {} of the search; again: {SCHEDULE}={}", self.executions, self.schedule)
    }
}

type Thread<S> = Box<dyn Fn(&S) + Send + Sync>;

/// A model over a state `S`.
pub struct Model<S> {
    setup: Box<dyn Fn() -> S + Send + Sync>,
    threads: Vec<(&'static str, Thread<S>)>,
    end: Box<dyn Fn(S) + Send + Sync>,
}

impl<S: Send + Sync + 'static> Model<S> {
    /// A model that begins with this state.
    #[must_use]
    pub fn new(setup: impl Fn() -> S + Send + Sync + 'static) -> Self {
        Self { setup: Box::new(setup), threads: Vec::new(), end: Box::new(drop) }
    }

    /// One more thread; they are numbered from 1.
    #[must_use]
    pub fn thread(mut self, name: &'static str, work: impl Fn(&S) + Send + Sync + 'static) -> Self {
        self.threads.push((name, Box::new(work)));
        self
    }

    /// What is looked at when all threads have ended.
    #[must_use]
    pub fn end(mut self, end: impl Fn(S) + Send + Sync + 'static) -> Self {
        self.end = Box::new(end);
        self
    }

    /// Runs every schedule that the bounds allow, with few preemptions first.
    ///
    /// # Panics
    /// If one fails: with what went wrong, and how to see it again.
    pub fn holds(self, bounds: Bounds) -> Report {
        match self.explore(bounds) {
            Ok(report) => {
                let Report { exhaustive, random, places } = report;
                let name = std::thread::current().name().unwrap_or_default().to_owned();
                let preemptions = bounds.deepened().preemptions;
                println!(
                    "MODEL {name}: {exhaustive} schedules, all with at most {preemptions} preemptions at up to \
                     {places} places; {random} at random"
                );
                report
            }
            Err(failure) => panic!("{failure}"),
        }
    }

    /// The first schedule that fails.
    ///
    /// # Panics
    /// If none does.
    #[must_use]
    pub fn fails(self, bounds: Bounds) -> Failure {
        match self.explore(bounds) {
            Ok(report) => panic!("no schedule fails: {report:?}"),
            Err(failure) => failure,
        }
    }

    /// Runs every schedule that the bounds allow, up to the first that fails.
    ///
    /// # Errors
    /// The [`Failure`].
    pub fn explore(self, bounds: Bounds) -> Result<Report, Failure> {
        let model = Arc::new(self);
        if let Ok(text) = std::env::var(SCHEDULE) {
            let decisions = parse(&text).unwrap_or_else(|part| panic!("{SCHEDULE}: {part} is no decision"));
            let (exhaustive, places) = model.search(Search::Replay(decisions), bounds)?;
            return Ok(Report { exhaustive, random: 0, places });
        }
        let bounds = bounds.deepened();
        let mut report = Report { exhaustive: 0, random: 0, places: 0 };
        for preemptions in 0..=bounds.preemptions {
            (report.exhaustive, report.places) = model.search(Search::Exhaustive { preemptions }, bounds)?;
        }
        let preemptions = bounds.preemptions + 4;
        let random = Search::Random { executions: bounds.random, preemptions, random: Random(SEED) };
        report.random = model.search(random, bounds)?.0;
        Ok(report)
    }

    /// Runs one search, in a thread of its own: a failed execution leaves its coroutines behind.
    fn search(self: &Arc<Self>, search: Search, bounds: Bounds) -> Result<(u64, u64), Failure> {
        let journal = Shared::default();
        let explorer = journal.clone();
        let model = Arc::clone(self);
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            let mut config = Config::new();
            config.stack_size = STACK;
            config.failure_persistence = FailurePersistence::None;
            config.max_steps = MaxSteps::FailAfter(MOST_STEPS);
            config.silence_warnings = true;
            let explorer = Explorer::new(search, bounds.passes, explorer);
            Runner::new(explorer, config).run(move || model.execute());
        });
        let outcome = thread.expect("a thread").join();
        let journal = journal.lock();
        match outcome {
            Ok(()) => Ok((journal.executions, journal.longest)),
            Err(panic) => Err(Failure {
                message: self.words_of(&*panic),
                schedule: Schedule(&journal.decisions).to_string(),
                executions: journal.executions,
                places: journal.decisions.iter().map(|decision| self.describe(decision)).collect(),
            }),
        }
    }

    fn words_of(&self, panic: &(dyn std::any::Any + Send)) -> String {
        let owned = panic.downcast_ref::<String>().cloned();
        owned.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.into())).unwrap_or_default()
    }

    fn describe(&self, decision: &crate::journal::Decision) -> String {
        let name = |number: usize| self.threads.get(number - 1).map_or("?", |(name, _)| name);
        let place = decision.place.map(ToString::to_string).unwrap_or_default();
        format!("step {}: before {place}, \"{}\" goes on", decision.step, name(decision.thread))
    }

    fn execute(self: &Arc<Self>) {
        let state = Arc::new(sync::undisturbed(|| (self.setup)()));
        let spawn = |number: usize| {
            let (model, state) = (Arc::clone(self), Arc::clone(&state));
            shuttle::thread::spawn(move || (model.threads[number].1)(&state))
        };
        let threads: Vec<_> = sync::undisturbed(|| (0..self.threads.len()).map(spawn).collect());
        for thread in threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
        let state = Arc::into_inner(state).expect("all threads have ended");
        sync::undisturbed(|| (self.end)(state));
    }
}
