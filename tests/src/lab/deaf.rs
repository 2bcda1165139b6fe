//! A subscriber that passes every call on to another, except those that a test has it miss.

use crate::lock;
use addr::{Hva, HvaRange};
use mm::notifier::{MmuNotifier, UsedBlocks, YoungPages};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// An operation of the notifier interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice {
    /// `release`.
    Release,
    /// `clear_flush_young`.
    ClearFlushYoung,
    /// `invalidate_page`.
    InvalidatePage,
    /// `invalidate_range_begin`.
    RangeBegin,
    /// `invalidate_range_end`.
    RangeEnd,
    /// `clear_young`.
    ClearYoung,
    /// `find_used`.
    FindUsed,
    /// `collect_young`.
    CollectYoung,
    /// `flush_young`.
    FlushYoung,
    /// `test_young`.
    TestYoung,
}

/// Which calls are missed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Miss {
    /// None.
    Nothing,
    /// Every call of this operation.
    Every(Notice),
    /// The call with this number, counted from 0 since the subscription.
    Number(u64),
    /// No call, but each begin is followed by its end at once.
    EndsEarly,
}

/// The subscriber.
pub struct Deaf {
    inner: Arc<dyn MmuNotifier>,
    miss: Mutex<Miss>,
    calls: AtomicU64,
}

impl Deaf {
    /// Ears that hear everything.
    #[must_use]
    pub fn new(inner: Arc<dyn MmuNotifier>) -> Self {
        Self { inner, miss: Mutex::new(Miss::Nothing), calls: AtomicU64::new(0) }
    }

    /// Chooses what is missed from now on.
    pub fn miss(&self, miss: Miss) {
        *lock(&self.miss) = miss;
    }

    /// Calls so far, missed ones included.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    fn hears(&self, notice: Notice) -> bool {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        match *lock(&self.miss) {
            Miss::Nothing => true,
            Miss::Every(missed) => missed != notice,
            Miss::Number(missed) => missed != number,
            Miss::EndsEarly => notice != Notice::RangeEnd,
        }
    }
}

impl MmuNotifier for Deaf {
    fn release(&self) {
        if self.hears(Notice::Release) {
            self.inner.release();
        }
    }

    fn clear_flush_young(&self, range: HvaRange) -> bool {
        self.hears(Notice::ClearFlushYoung) && self.inner.clear_flush_young(range)
    }

    fn clear_young(&self, range: HvaRange) -> bool {
        self.hears(Notice::ClearYoung) && self.inner.clear_young(range)
    }

    fn collect_young(&self, young: &mut YoungPages) {
        if self.hears(Notice::CollectYoung) {
            self.inner.collect_young(young);
        }
    }

    fn find_used(&self, blocks: &mut UsedBlocks) {
        if self.hears(Notice::FindUsed) {
            self.inner.find_used(blocks);
        }
    }

    fn flush_young(&self) {
        if self.hears(Notice::FlushYoung) {
            self.inner.flush_young();
        }
    }

    fn test_young(&self, range: HvaRange) -> bool {
        self.hears(Notice::TestYoung) && self.inner.test_young(range)
    }

    fn invalidate_page(&self, address: Hva) {
        if self.hears(Notice::InvalidatePage) {
            self.inner.invalidate_page(address);
        }
    }

    /// Each page counts as a call.
    fn invalidate_pages(&self, pages: &[Hva]) {
        let heard: Vec<_> = pages.iter().copied().filter(|_| self.hears(Notice::InvalidatePage)).collect();
        if !heard.is_empty() {
            self.inner.invalidate_pages(&heard);
        }
    }

    fn invalidate_range_begin(&self, range: HvaRange) {
        if self.hears(Notice::RangeBegin) {
            self.inner.invalidate_range_begin(range);
        }
        if *lock(&self.miss) == Miss::EndsEarly {
            self.inner.invalidate_range_end(range);
        }
    }

    fn invalidate_range_end(&self, range: HvaRange) {
        if self.hears(Notice::RangeEnd) {
            self.inner.invalidate_range_end(range);
        }
    }

    /// Never missed: which site leaves it out is for mutants to say.
    fn contents_changed(&self, range: HvaRange) {
        self.inner.contents_changed(range);
    }
}
