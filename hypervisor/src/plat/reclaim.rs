//! Reclaim in the background: while frames are short, the oldest pages go to swap, before a guest has to wait for that.
//!
//! ```text
//!   free frames
//!     high ─ ─ ─ ─ ─ ─ ─ ─ ─ the thread stops
//!     low  ─ ─ ─ ─ ─ ─ ─ ─ ─ the thread starts
//!     0    ───────────────── a fault makes room itself (`mm`, make_room)
//!          the reserve, for what reclaim needs
//! ```

use super::swap::Writer;
use crate::cpu::tsc;
use crate::physmem::PhysicalMemory;
use crate::sched::{self, Group, JoinHandle, Turn};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};
use mm::{Host, Mm, OutOfFrames};
use spin::Once;

/// Frames that only reclaim may take: spans of compressed pages, and what lies in the caches of CPUs.
const RESERVE: u64 = 128;
/// Frames that a CPU's cache may hold.
const CACHED: u64 = 32;
/// One part in so many of all memory is kept free.
const PART: u64 = 256;
/// Pages that go between two looks at the clock.
const BATCH: u64 = 32;
/// Nothing could be reclaimed: parts of a second until the next attempt.
const PAUSE: u64 = 50;
const WEIGHT: u32 = 100;

/// The thread, and when it works.
pub(crate) struct Reclaimer {
    mm: Arc<Mm<PhysicalMemory>>,
    /// Who moves pages on to a disk.
    writer: Option<Arc<Writer>>,
    low: u64,
    thread: Once<Arc<sched::Thread>>,
    stops: AtomicBool,
    tsc_hz: u64,
}

impl Reclaimer {
    /// Sets the reserve, and starts the thread.
    ///
    /// # Errors
    /// [`OutOfFrames`].
    pub(super) fn start(
        mm: &Arc<Mm<PhysicalMemory>>,
        writer: Option<Arc<Writer>>,
        tsc_hz: u64,
    ) -> Result<(Arc<Self>, JoinHandle), OutOfFrames> {
        let frames = mm.host().frames();
        frames.set_reserve(RESERVE + CACHED * sched::online() as u64);
        let low = (frames.total() / PART).max(BATCH);
        let this = Arc::new(Self {
            mm: Arc::clone(mm),
            writer,
            low,
            thread: Once::new(),
            stops: AtomicBool::new(false),
            tsc_hz,
        });
        let own = Arc::clone(&this);
        let handle = sched::spawn(&Group::new(WEIGHT), move || own.run())?;
        this.thread.call_once(|| Arc::clone(handle.thread()));
        Ok((this, handle))
    }

    /// A guest has got a frame: there may be few left.
    pub(super) fn look(&self) {
        if self.mm.host().frames().spare() < self.low {
            self.wake();
        }
    }

    /// The thread ends, and the reserve is anybody's.
    pub(super) fn stop(&self) {
        self.stops.store(true, Ordering::Release);
        self.mm.host().frames().set_reserve(0);
        self.wake();
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    fn run(&self) {
        while !self.stops.load(Ordering::Acquire) {
            let until = self.refill();
            sched::park(until);
        }
    }

    /// Makes frames free up to the upper mark; when to try again, if that did not succeed.
    fn refill(&self) -> Option<u64> {
        while self.mm.host().frames().spare() < 2 * self.low && !self.stops.load(Ordering::Acquire) {
            let reclaimed = self.mm.shrink(BATCH).reclaimed;
            self.writer.iter().for_each(|writer| writer.look());
            if reclaimed == 0 && !self.mm.make_room_in_swap() {
                return Some(tsc() + self.tsc_hz / PAUSE);
            }
            if sched::turn() == Turn::Over {
                sched::yield_now();
            }
        }
        None
    }
}
