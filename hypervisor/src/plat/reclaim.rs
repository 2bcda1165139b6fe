//! Reclaim in the background: while frames are short, the oldest pages go to swap, before a guest has to wait for that.
//!
//! ```text
//!   free frames
//!     high ─ ─ ─ ─ ─ ─ ─ ─ ─ the thread stops
//!     low  ─ ─ ─ ─ ─ ─ ─ ─ ─ the thread starts
//!     0    ───────────────── a fault makes room itself (`mm`, make_room)
//!          the reserve, for what reclaim needs
//! ```
//!
//! If it is asked to, the thread also makes a pass of aging twice in every so many seconds, and what two of them have found
//! unused goes though nobody needs frames. (Passes that reclaim makes when frames are short count, too.)

use super::swap::Writer;
use crate::cpu::tsc;
use crate::physmem::PhysicalMemory;
use crate::sched::{self, Group, JoinHandle, Turn};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};
use mm::frames::MOST_CACHED;
use mm::{Host, Mm, OutOfFrames, Progress};
use spin::Once;

/// Frames that only reclaim may take: spans of compressed pages, and what lies in the caches of CPUs.
const RESERVE: u64 = 128;
/// One part in so many of all memory is kept free.
const PART: u64 = 256;
/// Pages that go between two looks at the clock.
const BATCH: u64 = 32;
/// Nothing could be reclaimed: parts of a second until the next attempt.
const PAUSE: u64 = 50;
const WEIGHT: u32 = 100;
/// Passes of aging that have to find a page unused before it goes for that alone.
const IDLE_PASSES: u32 = 2;
/// Frames that are looked at before others may have the CPU.
const PART_OF_FRAMES: u64 = 512;

/// Time, and what counts as idle.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) tsc_hz: u64,
    /// What was not used for so many seconds goes; 0: it stays.
    pub(super) idle_seconds: u32,
}

/// The thread, and when it works.
pub(crate) struct Reclaimer {
    mm: Arc<Mm<PhysicalMemory>>,
    /// Who moves pages on to a disk.
    writer: Option<Arc<Writer>>,
    low: u64,
    thread: Once<Arc<sched::Thread>>,
    stops: AtomicBool,
    pace: Pace,
}

/// When what lies idle is looked for.
#[derive(Default)]
struct Due {
    /// The next time.
    tsc: u64,
    /// The generation that the last time began.
    last: Option<u32>,
}

impl Reclaimer {
    /// Sets the reserve, and starts the thread.
    ///
    /// # Errors
    /// [`OutOfFrames`].
    pub(super) fn start(
        mm: &Arc<Mm<PhysicalMemory>>,
        writer: Option<Arc<Writer>>,
        pace: Pace,
    ) -> Result<(Arc<Self>, JoinHandle), OutOfFrames> {
        let frames = mm.host().frames();
        frames.set_reserve(RESERVE + MOST_CACHED * sched::online() as u64);
        let low = (frames.total() / PART).max(BATCH);
        let this = Arc::new(Self {
            mm: Arc::clone(mm),
            writer,
            low,
            thread: Once::new(),
            stops: AtomicBool::new(false),
            pace,
        });
        let own = Arc::clone(&this);
        let handle = sched::spawn(&Group::new(WEIGHT), move || own.run())?;
        this.thread.call_once(|| Arc::clone(handle.thread()));
        Ok((this, handle))
    }

    /// Whether few frames are left.
    #[inline]
    pub(super) fn is_short(&self) -> bool {
        self.mm.host().frames().spare() < self.low
    }

    /// A guest has got a frame, and few are left. If that cannot be mended: the frames with what does not compress, once.
    pub(super) fn look(&self) -> Option<u64> {
        self.wake();
        self.mm.take_standstill()
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
        let mut due = Due::default();
        while !self.stops.load(Ordering::Acquire) {
            let (room, idle) = (self.refill(), self.trim(&mut due));
            // It may have waited for a disk, and missed that it was woken.
            if !self.stops.load(Ordering::Acquire) {
                sched::park(room.into_iter().chain(idle).min());
            }
        }
    }

    /// Takes what lies idle, if that is `due`; when to look again.
    fn trim(&self, due: &mut Due) -> Option<u64> {
        let Pace { tsc_hz, idle_seconds } = self.pace;
        if idle_seconds == 0 {
            return None;
        }
        if tsc() >= due.tsc {
            self.mm.age_all();
            // Others make passes, too, when memory is short: what counts is what was not used since the last one of these.
            let now = self.mm.host().frames().generation();
            let passes = due.last.replace(now).map_or(u32::MAX, |last| now.wrapping_sub(last) + 1);
            let all = self.mm.host().frames().known();
            for start in (0..all).step_by(PART_OF_FRAMES as usize) {
                self.mm.reclaim_idle(passes, start..start + PART_OF_FRAMES);
                if self.stops.load(Ordering::Acquire) {
                    break;
                }
                if sched::turn() == Turn::Over {
                    sched::yield_now();
                }
            }
            due.tsc = tsc() + tsc_hz * u64::from(idle_seconds) / u64::from(IDLE_PASSES);
        }
        Some(due.tsc)
    }

    /// Makes frames free up to the upper mark; when to try again, if that did not succeed.
    fn refill(&self) -> Option<u64> {
        while self.mm.host().frames().spare() < 2 * self.low && !self.stops.load(Ordering::Acquire) {
            let progress = self.mm.make_progress(|| {
                let shrunk = self.mm.shrink(BATCH);
                self.writer.iter().for_each(|writer| writer.look());
                shrunk
            });
            if progress == Progress::Nothing {
                return Some(tsc() + self.pace.tsc_hz / PAUSE);
            }
            if sched::turn() == Turn::Over {
                sched::yield_now();
            }
        }
        None
    }
}
