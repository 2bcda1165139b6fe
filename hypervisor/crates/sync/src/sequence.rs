//! The invalidation sequence: how a fault learns that the frame it resolved has meanwhile gone (I2, I3).
//!
//! ```text
//!   fault                                     invalidation (range)          (single page)
//!   s = snapshot                              lock
//!   resolve the frame, no lock held           in progress += 1, range       lock
//!   lock, shared                              zap, flush                    sequence += 1
//!   in progress overlaps?  ── yes ─► retry    unlock                        zap, flush
//!   sequence == s?         ── no ──► retry    ... primary entries change    unlock
//!   install                                   lock
//!   unlock                                    sequence += 1
//!                                             in progress -= 1
//!                                             unlock
//! ```
//!
//! "Lock" is the mmu lock, taken exclusively where nothing else is said. [`InProgress`] lives inside it, so that a
//! `&mut InProgress` proves the exclusive side held, and a `&InProgress` the shared one; the sequence itself lives
//! outside, so that a snapshot needs no lock. Faults that share the lock all pass the test or come too late for it: no
//! invalidation lies between the test of one and its installation.

use crate::atomic::{AtomicU64, Ordering};
use mutants::{Mutant, intact};

/// The counter that rises with every invalidation that ended.
#[derive(Debug, Default)]
pub struct InvalidationSequence {
    value: AtomicU64,
}

/// A value of the sequence, read before the frame was resolved.
#[must_use = "a snapshot not compared is a missing check (I2)"]
#[derive(Clone, Copy, Debug)]
pub struct Snapshot(u64);

/// Invalidations between their begin and their end; lives inside the mmu lock.
///
/// As in KVM, one hull of all active ranges is kept: it only grows until the last one ends, so ends may
/// carry other ranges than their begins did.
#[derive(Debug, Default)]
pub struct InProgress {
    active: u64,
    hull: Option<(u64, u64)>,
}

/// The frame that was resolved may be gone: resolve it again.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stale;

impl Snapshot {
    /// What the sequence is where whoever has taken this has raised it so many times himself since, and nobody else has.
    pub const fn after_own(self, raises: u64) -> Self {
        Self(self.0.wrapping_add(raises))
    }
}

impl InvalidationSequence {
    /// A sequence at zero.
    #[must_use]
    pub fn new() -> Self {
        Self { value: AtomicU64::new(0) }
    }

    /// Reads the sequence, before the frame is resolved.
    pub fn snapshot(&self) -> Snapshot {
        // Acquire pairs with the Release in `raise`: whoever sees the new value also sees the primary
        // entries as the invalidation left them.
        self.snapshot_as(Ordering::Acquire)
    }

    /// [`Self::snapshot`], with this ordering.
    pub(crate) fn snapshot_as(&self, ordering: Ordering) -> Snapshot {
        Snapshot(self.value.load(ordering))
    }

    /// Raises the sequence for a single page, before it is zapped. The caller holds the mmu lock exclusively and has
    /// cleared the primary entry before (I3).
    pub fn raise(&self, lock_held: &mut InProgress) {
        self.raise_as(lock_held, Ordering::Release);
    }

    /// [`Self::raise`], with this ordering.
    pub(crate) fn raise_as(&self, _lock_held: &mut InProgress, ordering: Ordering) {
        // No exchange: who holds the lock exclusively is the only one to write it.
        self.value.store(self.value.load(Ordering::Relaxed).wrapping_add(1), ordering);
    }
}

impl InProgress {
    /// No invalidation is active.
    #[must_use]
    pub const fn new() -> Self {
        Self { active: 0, hull: None }
    }

    /// An invalidation of `start..end` (any unit, the same for all calls; empty ranges count too) begins.
    pub fn begin(&mut self, start: u64, end: u64) {
        if !intact(Mutant::BeginDoesNotCount) {
            return;
        }
        self.active += 1;
        if start < end {
            let known = self.hull.filter(|_| intact(Mutant::HullDoesNotGrow));
            let (low, high) = known.unwrap_or((start, end));
            self.hull = Some((low.min(start), high.max(end)));
        }
    }

    /// An invalidation ends. The sequence rises before "in progress" falls (I3). An end without a begin
    /// (a subscriber that registered in between) is ignored.
    pub fn end(&mut self, sequence: &InvalidationSequence) {
        if intact(Mutant::NoRaiseOnEnd) {
            sequence.raise(self);
        }
        self.active = self.active.saturating_sub(1);
        if self.active == 0 || !intact(Mutant::EndClearsHull) {
            self.hull = None;
        }
    }

    /// Whether any invalidation is active.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.active > 0
    }

    /// Whether an entry that covers `start..end`, resolved after `snapshot`, may be installed now.
    ///
    /// # Errors
    /// [`Stale`] where an invalidation overlaps, or one has ended since: "in progress" is tested first,
    /// the sequence second (I2).
    pub fn permits(
        &self,
        sequence: &InvalidationSequence,
        snapshot: Snapshot,
        start: u64,
        end: u64,
    ) -> Result<(), Stale> {
        let overlaps = self.hull.is_some_and(|(low, high)| start < high && low < end);
        if overlaps && intact(Mutant::NoInProgressTest) {
            return Err(Stale);
        }
        // Relaxed: the mmu lock, shared at least by the caller and held exclusively by every raiser, orders it.
        if sequence.value.load(Ordering::Relaxed) != snapshot.0 && intact(Mutant::NoSequenceTest) {
            return Err(Stale);
        }
        Ok(())
    }
}
