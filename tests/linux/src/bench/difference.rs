//! What the bench can find, and how much it has looked at.

use crate::answer::Answer;
use crate::areas::Area;
use crate::deviations::Deviation;
use crate::herald::Presence;
use crate::step::What;
use std::collections::BTreeMap;
use std::ops::AddAssign;
use tests::Violation;

/// Linux and `mm` do not agree.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub enum Difference {
    /// In what a call answers, or a load finds.
    Answer { space: usize, what: What, linux: Answer, herald: Answer },
    /// In their areas.
    Areas { space: usize, linux: Vec<Area>, herald: Vec<Area> },
    /// In whether a page is there.
    Presence { space: usize, page: u64, linux: bool, herald: Presence },
    /// A page that may be dropped could not be.
    Kept { space: usize, page: u64 },
    /// The simulated machine is not in order.
    Oracle(Violation),
}

impl Difference {
    pub(super) fn answers(space: usize, what: What, (linux, herald): (Answer, Answer)) -> Self {
        Self::Answer { space, what, linux, herald }
    }
}

/// How much was compared.
#[derive(Clone, Default, Debug)]
pub struct Report {
    /// Steps taken.
    pub steps: u64,
    /// Calls made on both sides.
    pub calls: u64,
    /// Those of them that both have refused.
    pub refused: u64,
    /// Loads and stores made on both sides.
    pub touches: u64,
    /// Those of them that both have refused.
    pub faults: u64,
    /// Pages looked at for presence.
    pub pages: u64,
    /// Words compared at the end.
    pub words: u64,
    /// Calls left out.
    pub left_out: BTreeMap<Deviation, u64>,
}

impl AddAssign for Report {
    fn add_assign(&mut self, other: Self) {
        self.steps += other.steps;
        self.calls += other.calls;
        self.refused += other.refused;
        self.touches += other.touches;
        self.faults += other.faults;
        self.pages += other.pages;
        self.words += other.words;
        for (deviation, count) in other.left_out {
            *self.left_out.entry(deviation).or_default() += count;
        }
    }
}
