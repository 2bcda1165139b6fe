//! Upheavals: host operations after which a guest's memory is what it was, and in the middle of which it is not there at all
//! (mprotect(NONE) and back, munmap and mmap, mremap and back). Whoever fails to reach memory meanwhile tries again.
//!
//! ```text
//!   operation                                   whoever needs memory
//!   active += 1                                 before = completed
//!   … not there … and back                      attempt fails
//!   completed += 1, active -= 1                 active, or completed is not before: again; else it has failed
//! ```

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The upheavals of one guest's memory.
#[derive(Debug, Default)]
pub(super) struct Upheavals {
    active: AtomicU32,
    completed: AtomicU64,
}

/// One of them, until it is dropped.
#[must_use]
pub(super) struct Upheaval<'a>(&'a Upheavals);

impl Upheavals {
    /// Begins one.
    pub(super) fn begin(&self) -> Upheaval<'_> {
        self.active.fetch_add(1, Ordering::SeqCst);
        Upheaval(self)
    }

    /// Whether there is one.
    pub(super) fn is_active(&self) -> bool {
        self.active.load(Ordering::SeqCst) != 0
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
        self.0.completed.fetch_add(1, Ordering::SeqCst);
        self.0.active.fetch_sub(1, Ordering::SeqCst);
    }
}
