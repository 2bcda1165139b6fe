//! Merging in the background: a thread that looks for equal pages of guests that want it (`merge`), for a share of one CPU's
//! time.
//!
//! ```text
//!   some pages ─► some pages ─► ... ─► as long asleep as the share asks for ─► some pages ...
//!        took t ticks                  t · (100 - share) / share
//!
//!   end of a pass ─ gained something ────────► a moment
//!                 └ gained next to nothing ──► twice as long as the last time, up to some seconds
//! ```
//!
//! A page has to be the same in two passes, so there is a moment between them. No lock is held between two of these steps, nor
//! while it sleeps.

use crate::cpu::tsc;
use crate::physmem::PhysicalMemory;
use crate::sched::{self, Group, JoinHandle, Turn};
use abi::telemetry::MergeUse;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use mm::{MergeCounts, Mm, OutOfFrames, Pass};
use spin::{Mutex, Once};

/// Pages that are looked at between two looks at the clock.
const BATCH: u64 = 16;
/// It goes to sleep when it owes so manyeth a part of a second.
const NAP: u64 = 100;
/// After a pass that gained something it sleeps so manyeth a part of a second; after others longer, up to so many seconds.
const SHORT: u64 = 8;
const LONG: u64 = 2;
/// A pass has gained something if it was one in so many pages: some merge in each pass, and part again as soon.
const WORTH: u64 = 16;
/// What was counted is good for so manyeth a part of a second.
const FRESH: u64 = 8;
/// Whoever waits comes first.
const WEIGHT: u32 = 50;

/// The thread, and how much it works.
pub(crate) struct Merger {
    mm: Arc<Mm<PhysicalMemory>>,
    tsc_hz: u64,
    /// Percent of one CPU.
    share: u32,
    thread: Once<Arc<sched::Thread>>,
    stops: AtomicBool,
    ticks: AtomicU64,
    /// TSC from which on they are counted anew.
    stale: AtomicU64,
    counts: Mutex<MergeCounts>,
}

/// What the thread owes for its work.
struct Rest {
    /// Ticks that it has to sleep.
    owed: u64,
    /// Ticks that it slept after the last pass.
    long: u64,
}

impl Merger {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`OutOfFrames`].
    pub(super) fn start(
        mm: &Arc<Mm<PhysicalMemory>>,
        tsc_hz: u64,
        share: u32,
    ) -> Result<(Arc<Self>, JoinHandle), OutOfFrames> {
        let this = Arc::new(Self {
            mm: Arc::clone(mm),
            tsc_hz,
            share: share.clamp(1, 100),
            thread: Once::new(),
            stops: AtomicBool::new(false),
            ticks: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            counts: Mutex::new(MergeCounts::default()),
        });
        let own = Arc::clone(&this);
        let handle = sched::spawn(&Group::new(WEIGHT), move || own.run())?;
        this.thread.call_once(|| Arc::clone(handle.thread()));
        Ok((this, handle))
    }

    /// The thread ends.
    pub(super) fn stop(&self) {
        self.stops.store(true, Ordering::Release);
        self.thread.get().into_iter().for_each(sched::Thread::unpark);
    }

    fn run(&self) {
        let mut rest = Rest { owed: 0, long: self.shortest() };
        while !self.stops.load(Ordering::Acquire) {
            let since = tsc();
            let ended = self.mm.merge(BATCH);
            let took = tsc() - since;
            self.ticks.fetch_add(took, Ordering::Relaxed);
            rest.owed += took * u64::from(100 - self.share) / u64::from(self.share);
            if let Some(pass) = ended {
                rest.owed += self.after_pass(&mut rest.long, pass);
            }
            if rest.owed > self.tsc_hz / NAP {
                // It may have been told to stop meanwhile: then it does not sleep.
                sched::park(Some(tsc() + core::mem::take(&mut rest.owed)));
            } else if sched::turn() == Turn::Over {
                sched::yield_now();
            }
        }
    }

    fn shortest(&self) -> u64 {
        self.tsc_hz / SHORT
    }

    /// Ticks to sleep behind a pass.
    fn after_pass(&self, long: &mut u64, pass: Pass) -> u64 {
        *long = if pass.gained * WORTH > pass.scanned {
            self.shortest()
        } else {
            (*long * 2).min(self.tsc_hz * LONG)
        };
        *long
    }

    /// What it has come to. What changes with each write of a guest is counted a few times a second, whoever asks.
    pub(super) fn uses(&self) -> MergeUse {
        let (now, stale) = (tsc(), self.stale.load(Ordering::Relaxed));
        let next = now + self.tsc_hz / FRESH;
        let claim = || self.stale.compare_exchange(stale, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if now >= stale && claim() {
            // Not under the lock: who waits for that does not hear of flushes.
            let counts = self.mm.merge_counts();
            *self.counts.lock() = counts;
        }
        let counts = *self.counts.lock();
        MergeUse {
            scanned: counts.scanned,
            changed: counts.changed,
            zero: counts.zero,
            merged: counts.merged,
            passes: counts.passes,
            shared: counts.shared,
            sharing: counts.sharing,
            ticks: self.ticks.load(Ordering::Relaxed),
        }
    }
}
