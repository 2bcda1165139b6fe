//! Upheavals: host operations after which a guest's memory is what it was, and in the middle of which it is not there at all
//! (mprotect(NONE) and back, munmap and mmap, mremap and back). Whoever fails to reach memory meanwhile tries again.
//!
//! ```text
//!   operation                                   whoever needs memory
//!   active = true                               before = completed
//!   … not there … and back                      attempt fails
//!   completed += 1, active = false              active, or completed is not before: again; else it has failed
//! ```
//!
//! There is one at a time: in the middle of one, another one would not find the memory either.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use spin::{Mutex, MutexGuard};

/// The upheavals of one guest's memory.
#[derive(Debug, Default)]
pub(super) struct Upheavals {
    one: Mutex<()>,
    active: AtomicBool,
    completed: AtomicU64,
}

/// One of them, until it is dropped.
#[must_use]
pub(super) struct Upheaval<'a> {
    upheavals: &'a Upheavals,
    _one: MutexGuard<'a, ()>,
}

impl Upheavals {
    /// Begins one, when there is none.
    pub(super) fn begin(&self) -> Upheaval<'_> {
        let one = self.one.lock();
        self.active.store(true, Ordering::SeqCst);
        Upheaval { upheavals: self, _one: one }
    }

    /// Whether there is one.
    pub(super) fn is_active(&self) -> bool {
        self.active.load(Ordering::SeqCst)
    }

    /// Tries until it succeeds, or fails with no upheaval to blame.
    pub(super) fn outlast<T, E>(&self, mut attempt: impl FnMut() -> Result<T, E>) -> Result<T, E> {
        loop {
            let before = self.completed.load(Ordering::SeqCst);
            let outcome = attempt();
            if outcome.is_ok() || !self.is_active() && self.completed.load(Ordering::SeqCst) == before {
                return outcome;
            }
            core::hint::spin_loop();
        }
    }
}

impl Drop for Upheaval<'_> {
    fn drop(&mut self) {
        self.upheavals.completed.fetch_add(1, Ordering::SeqCst);
        self.upheavals.active.store(false, Ordering::SeqCst);
    }
}
