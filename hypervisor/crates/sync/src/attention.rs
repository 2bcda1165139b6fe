//! How a virtual processor, which may be in its guest, is made to look.
//!
//! ```text
//!   virtual processor                           whoever has news for it
//!   1  on = this CPU                            1  what there is to see is stored; news = true
//!   2  full fence (the flush handshake's)       2  full fence
//!   3  news? back, and look                     3  on = a CPU? interrupt it; else wake its thread
//!   4  enter
//! ```
//!
//! Each side stores, and then looks: at least one sees the other. A thread that is neither in the guest nor parked looks
//! by itself before it enters or parks.
//!
//! The guest's end and a pause are stored before the news of them, so who has no news has neither to heed. News is of anything: who
//! takes it looks at these two afterwards, and where there is one that he does not heed at once, the news stays.

use crate::atomic::{AtomicU64, Ordering, fence};
use mutants::{Mutant, intact};

/// A virtual processor's.
#[derive(Debug)]
pub struct Attention {
    news: AtomicU64,
    /// The CPU that has it in guest mode, and 1; 0: none has.
    on: AtomicU64,
}

impl Attention {
    /// In no guest, and without news.
    #[must_use]
    pub fn new() -> Self {
        Self { news: AtomicU64::new(0), on: AtomicU64::new(0) }
    }

    /// There is news; the CPU that has to be interrupted for it, if the processor is in its guest. Else its thread is to be woken.
    pub fn post(&self) -> Option<usize> {
        self.post_behind(|| fence(Ordering::SeqCst))
    }

    /// [`Self::post`], with this fence.
    pub(crate) fn post_behind(&self, fence: impl FnOnce()) -> Option<usize> {
        // Release pairs with the Acquire in `has_news` and `take`: what there is to see was stored before. It comes before or after
        // a `take`, and is not lost under its hands.
        self.news.fetch_or(1, Ordering::Release);
        fence();
        (self.on.load(Ordering::Relaxed) as usize).checked_sub(1)
    }

    /// The processor has news for itself, and will look before it enters.
    pub fn note(&self) {
        // Not a store: what another's post has released stays released.
        self.news.fetch_or(1, Ordering::Relaxed);
    }

    /// Whether there is news.
    #[inline]
    pub fn has_news(&self) -> bool {
        self.news.load(Ordering::Acquire) != 0
    }

    /// Takes the news; whether there was any. It stays where `waits` says afterwards that there is a pause or an end to heed.
    pub fn take(&self, waits: impl FnOnce() -> bool) -> bool {
        let taken = self.has_news() && self.news.fetch_and(0, Ordering::AcqRel) != 0;
        if taken && intact(Mutant::NewsHidesPause) && waits() {
            self.note();
        }
        taken
    }

    /// The processor is about to enter its guest on this CPU. A full fence follows before it looks for news.
    #[inline]
    pub fn enters(&self, cpu: usize) {
        self.on.store(cpu as u64 + 1, Ordering::Relaxed);
    }

    /// It has left its guest.
    #[inline]
    pub fn has_left(&self) {
        self.on.store(0, Ordering::Release);
    }
}

impl Default for Attention {
    fn default() -> Self {
        Self::new()
    }
}
