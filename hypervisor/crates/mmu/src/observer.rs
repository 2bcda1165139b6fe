//! A subscriber that keeps no translations: it counts the calls, and may keep the last ones, for telemetry,
//! diagnostics and tests.
//!
//! ```text
//!   call ─► counter + 1 ─► ring, if there is one:  [ n-2 | n-1 | n | n-N | ... ]   the oldest is overwritten
//! ```
//!
//! The ring is allocated when the observer is made: callbacks run under spin locks and allocate nothing.

use crate::stats::{CallCounts, CallStats, count};
use addr::{Hva, HvaRange};
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::num::NonZeroUsize;
use mm::notifier::{MmuNotifier, UsedBlocks, YoungPages};
use sync::{Mutex, Rank};

/// One call of the notifier interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// `release`.
    Release,
    /// `clear_flush_young` of a primary page.
    ClearFlushYoung(HvaRange),
    /// `clear_young` of a range.
    ClearYoung(HvaRange),
    /// `collect_young` of a block.
    CollectYoung(HvaRange),
    /// `test_young` of a range.
    TestYoung(HvaRange),
    /// `invalidate_page`.
    InvalidatePage(Hva),
    /// `invalidate_range_begin`.
    RangeBegin(HvaRange),
    /// `invalidate_range_end`.
    RangeEnd(HvaRange),
}

/// The last calls. The slot that is written next is also the oldest, once all are full.
#[derive(Debug)]
struct Ring {
    slots: Box<[Option<Call>]>,
    next: usize,
}

/// Records the calls of one address space's chain.
#[derive(Debug, Default)]
pub struct Observer {
    counts: CallStats,
    ring: Option<Mutex<Ring>>,
}

impl Observer {
    /// Counts only.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts, and keeps the last `calls` calls.
    #[must_use]
    pub fn with_ring(calls: NonZeroUsize) -> Self {
        let slots = vec![None; calls.get()].into_boxed_slice();
        // Callbacks take it where other subscribers take their mmu locks.
        let ring = Mutex::new(Rank::Mmu, Ring { slots, next: 0 });
        Self { counts: CallStats::default(), ring: Some(ring) }
    }

    /// How often each operation was called.
    #[must_use]
    pub fn counts(&self) -> CallCounts {
        self.counts.snapshot()
    }

    /// The last calls, oldest first; none where there is no ring.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        let Some(ring) = &self.ring else { return Vec::new() };
        let ring = ring.lock();
        let (newer, older) = ring.slots.split_at(ring.next);
        older.iter().chain(newer).copied().flatten().collect()
    }

    fn record(&self, call: Call) {
        if let Some(ring) = &self.ring {
            let mut ring = ring.lock();
            let next = ring.next;
            ring.slots[next] = Some(call);
            ring.next = (next + 1) % ring.slots.len();
        }
    }
}

impl MmuNotifier for Observer {
    fn release(&self) {
        count(&self.counts.release);
        self.record(Call::Release);
    }

    /// It uses no page: never young.
    fn clear_flush_young(&self, range: HvaRange) -> bool {
        count(&self.counts.clear_flush_young);
        self.record(Call::ClearFlushYoung(range));
        false
    }

    fn collect_young(&self, young: &mut YoungPages) {
        count(&self.counts.collect_young);
        self.record(Call::CollectYoung(young.range()));
    }

    fn find_used(&self, _blocks: &mut UsedBlocks) {}

    fn clear_young(&self, range: HvaRange) -> bool {
        count(&self.counts.clear_young);
        self.record(Call::ClearYoung(range));
        false
    }

    fn test_young(&self, range: HvaRange) -> bool {
        count(&self.counts.test_young);
        self.record(Call::TestYoung(range));
        false
    }

    fn invalidate_page(&self, address: Hva) {
        count(&self.counts.invalidate_page);
        self.record(Call::InvalidatePage(address));
    }

    fn invalidate_range_begin(&self, range: HvaRange) {
        count(&self.counts.invalidate_range_begin);
        self.record(Call::RangeBegin(range));
    }

    fn invalidate_range_end(&self, range: HvaRange) {
        count(&self.counts.invalidate_range_end);
        self.record(Call::RangeEnd(range));
    }
}
