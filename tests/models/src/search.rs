//! The scheduler: which thread goes on, in this execution and in the next.
//!
//! ```text
//!   step of a thread that ...      who may go on                              cost
//!   can go on                      itself first; each other                   0; 1 preemption
//!   is undisturbed                 itself                                     0
//!   has asked others to go on      the next; each other, but not itself       0; 1 preemption
//!   waits, or has ended            each other                                 0
//! ```
//!
//! Thread 0 sets the model up and looks at its end: it runs only where no other can.

use crate::journal::{Decision, Shared};
use shuttle::scheduler::{Schedule, Scheduler, Task, TaskId};
use std::collections::{HashMap, HashSet};
use tests::random::Random;

const MAIN: usize = 0;

/// Which schedules are run.
#[derive(Debug)]
pub(crate) enum Search {
    /// All with at most so many preemptions.
    Exhaustive { preemptions: u32 },
    /// So many, with at most so many preemptions at random places.
    Random { executions: u64, preemptions: u32, random: Random },
    /// The one with these decisions.
    Replay(Vec<(u64, usize)>),
}

/// A place where a schedule could go on in several ways.
#[derive(Clone, Copy, Debug)]
struct Level {
    choice: usize,
    options: usize,
}

/// See the module.
pub(crate) struct Explorer {
    search: Search,
    /// How often a thread offers one switch point of the program, in one execution.
    passes: u32,
    journal: Shared,
    levels: Vec<Level>,
    /// Of the execution that runs.
    depth: usize,
    step: u64,
    spent: u32,
    /// By thread, and address of the place.
    passed: HashMap<(usize, usize), u32>,
    /// The thread that runs.
    running: usize,
    /// Of each other one, the places that it goes by.
    goes_by: HashMap<usize, HashSet<usize>>,
}

impl Explorer {
    pub(crate) fn new(search: Search, passes: u32, journal: Shared) -> Self {
        let (levels, passed, goes_by) = (Vec::new(), HashMap::new(), HashMap::new());
        Self { search, passes, journal, levels, depth: 0, step: 0, spent: 0, passed, running: MAIN, goes_by }
    }

    /// Goes to the next schedule of an exhaustive search; `false`: there is none.
    fn advance(&mut self) -> bool {
        while let Some(level) = self.levels.last_mut() {
            if level.choice + 1 < level.options {
                level.choice += 1;
                return true;
            }
            self.levels.pop();
        }
        false
    }

    fn may_preempt(&self) -> bool {
        match self.search {
            Search::Exhaustive { preemptions } | Search::Random { preemptions, .. } => {
                self.spent < preemptions
            }
            Search::Replay(_) => true,
        }
    }

    /// Whether the thread has not yet been here too often.
    fn offers(&mut self, thread: usize) -> bool {
        let Some(place) = sync::model::place() else { return true };
        let passed = self.passed.entry((thread, std::ptr::from_ref(place).addr())).or_default();
        *passed += 1;
        if *passed == self.passes {
            sync::model::pass_by_also(place);
        }
        *passed <= self.passes
    }

    /// Another thread runs, or none, at an execution's begin.
    fn switch_to(&mut self, thread: usize) {
        if thread != self.running {
            let own = sync::model::pass_by(self.goes_by.remove(&thread).unwrap_or_default());
            self.goes_by.insert(self.running, own);
            self.running = thread;
        }
    }

    /// Chooses one of the threads; the first is what comes without a decision, `costly` are the others.
    fn choose(&mut self, threads: &[usize], costly: bool) -> usize {
        let offered = if costly && !self.may_preempt() { 1 } else { threads.len() };
        let choice = match &mut self.search {
            Search::Replay(decisions) => {
                let wanted = decisions.iter().find(|(step, _)| *step == self.step);
                wanted.and_then(|(_, thread)| threads.iter().position(|other| other == thread)).unwrap_or(0)
            }
            _ if offered == 1 => 0,
            Search::Exhaustive { .. } => match self.levels.get(self.depth) {
                Some(level) => {
                    assert_eq!(level.options, offered, "the model does not do the same in the same schedule");
                    level.choice
                }
                None => {
                    self.levels.push(Level { choice: 0, options: offered });
                    0
                }
            },
            Search::Random { random, .. } if costly => {
                // One switch in 16 steps, or so.
                if random.below(16) == 0 { random.below(offered as u64) as usize } else { 0 }
            }
            Search::Random { random, .. } => random.below(offered as u64) as usize,
        };
        self.depth += usize::from(offered > 1);
        if choice > 0 {
            self.spent += u32::from(costly);
            let decision = Decision { step: self.step, thread: threads[choice], place: sync::model::place() };
            self.journal.lock().decisions.push(decision);
        }
        threads[choice]
    }

    fn next(&mut self, runnable: &[usize], current: Option<usize>, yields: bool) -> usize {
        self.step += 1;
        let goes_on = current.filter(|current| runnable.contains(current));
        if let Some(current) = goes_on.filter(|_| sync::model::is_undisturbed() && !yields) {
            return current;
        }
        let mut threads: Vec<_> = runnable.iter().copied().filter(|&thread| thread != MAIN).collect();
        let Some(&only) = threads.first() else { return MAIN };
        if threads.len() == 1 {
            return only;
        }
        // In a ring, so that threads that wait for each other in loops all come to run.
        let after = threads.partition_point(|&thread| thread <= current.unwrap_or(MAIN));
        threads.rotate_left(after);
        let Some(current) = goes_on.filter(|&current| current != MAIN) else {
            return self.choose(&threads, false);
        };
        // The ring ends with the thread itself.
        if yields {
            threads.pop();
        } else if self.offers(current) {
            threads.rotate_right(1);
        } else {
            return current;
        }
        self.choose(&threads, true)
    }
}

impl Scheduler for Explorer {
    fn new_execution(&mut self) -> Option<Schedule> {
        let mut journal = self.journal.lock();
        journal.longest = journal.longest.max(self.depth as u64);
        let begun = journal.executions;
        journal.executions += 1;
        journal.decisions.clear();
        drop(journal);
        let goes_on = match self.search {
            Search::Exhaustive { .. } => begun == 0 || self.advance(),
            Search::Random { executions, .. } => begun < executions,
            Search::Replay(_) => begun == 0,
        };
        if !goes_on {
            self.journal.lock().executions -= 1;
            return None;
        }
        (self.depth, self.step, self.spent) = (0, 0, 0);
        self.passed.clear();
        self.switch_to(MAIN);
        self.goes_by.clear();
        Some(Schedule::new(0))
    }

    fn next_task(&mut self, runnable: &[&Task], current: Option<TaskId>, yields: bool) -> Option<TaskId> {
        let numbers: Vec<usize> = runnable.iter().map(|task| task.id().into()).collect();
        let next = self.next(&numbers, current.map(usize::from), yields);
        self.switch_to(next);
        Some(next.into())
    }

    fn next_u64(&mut self) -> u64 {
        unreachable!("models draw no random numbers")
    }
}
