//! Random sequences over everything that a [`World`] can do. A case has a seed of its own, so that one number brings a
//! failure back, shrunk.
//!
//! ```text
//!   seed ─► options, slots, steps ─► World: product, model, oracle after each step ─► violation? ─► shrink, tell
//! ```

mod step;
mod strategies;

pub use step::{CALLBACKS, Range, Step, What, take};

use crate::Violation;
use crate::machine::Options;
use crate::random::Random;
use crate::worlds::{Backing, IN_PLACE, Late, SHARED, STORED, With, World};
use addr::PageSize;
use mm::Protection;
use proptest::test_runner::{RngAlgorithm, TestCaseError, TestCaseResult, TestError, TestRng, TestRunner};
use std::cell::Cell;
use std::fmt;
use std::mem::ManuallyDrop;

/// Attempts to make a failing case smaller.
const MOST_SHRINKS: u32 = 4_000;

/// A machine, and what is done on it.
#[derive(Clone, Debug)]
pub struct Case {
    /// The machine.
    pub options: Options,
    /// Slots of its swap device.
    pub slots: u64,
    /// Which accesses come late: in the middle of operations. `None`: none does.
    pub late: Option<u64>,
    /// The steps.
    pub steps: Vec<Step>,
}

/// A case that went wrong, as small as it could be made.
#[derive(Debug)]
pub struct Failure {
    /// Brings it back.
    pub seed: u64,
    /// What was found wrong in the small case.
    pub reason: String,
    /// The small case.
    pub case: Option<Case>,
}

impl Case {
    /// A world with a space and a guest in it, and some memory of each kind; then the steps.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn run(&self) -> Result<(), Violation> {
        // After a failure it is in no state to be torn down.
        let mut world = ManuallyDrop::new(World::new(self.options, self.slots));
        world.spawn(0, With::Guest)?;
        world.mmap(0, (0, 12), Protection::ReadWrite, Backing::Anonymous(PageSize::Size4K))?;
        world.mmap(0, (512, 6), Protection::ReadWrite, Backing::Shared { file: STORED, index: 0 })?;
        world.mmap(0, (518, 4), Protection::ReadWrite, Backing::Private { file: STORED, index: 2 })?;
        world.mmap(0, (1024, 6), Protection::ReadWrite, Backing::Shared { file: SHARED, index: 0 })?;
        world.mmap(0, (1030, 4), Protection::ReadWrite, Backing::Shared { file: IN_PLACE, index: 0 })?;
        if let Some(seed) = self.late {
            world.be_late(Late::Sometimes(Random(seed)));
        }
        for &step in &self.steps {
            take(&mut world, step)?;
        }
        ManuallyDrop::into_inner(world).finish()
    }
}

/// Draws the case of a seed and runs it; returns how many steps it has.
///
/// # Errors
/// [`Failure`].
pub fn run_seed(seed: u64) -> Result<usize, Box<Failure>> {
    let config = proptest::test_runner::Config {
        cases: 1,
        failure_persistence: None,
        max_shrink_iters: MOST_SHRINKS,
        ..proptest::test_runner::Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let taken = Cell::new(0);
    let check = |case: Case| -> TestCaseResult {
        taken.set(case.steps.len());
        case.run().map_err(|violation| TestCaseError::fail(format!("{violation:?}")))
    };
    match runner.run(&strategies::case(), check) {
        Ok(()) => Ok(taken.get()),
        Err(TestError::Fail(reason, case)) => {
            Err(Box::new(Failure { seed, reason: reason.to_string(), case: Some(case) }))
        }
        Err(TestError::Abort(reason)) => {
            Err(Box::new(Failure { seed, reason: reason.to_string(), case: None }))
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.reason)?;
        if let Some(Case { options, slots, late, steps }) = &self.case {
            writeln!(f, "{options:?}, {slots} slots of swap, late: {late:?}")?;
            steps.iter().try_for_each(|step| writeln!(f, "  {step:?}"))?;
        }
        write!(f, "again: cargo xtask test random --seed {} --steps 1", self.seed)
    }
}
