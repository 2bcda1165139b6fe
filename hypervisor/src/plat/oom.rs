//! When nothing helps: of all guests the one that has most memory, in frames and in swap, ends, and what it had is free for the others.
//!
//! ```text
//!   a fault finds no frame, and nothing can be reclaimed
//!     └─► is a guest on its way out? ── yes ──► try again: its memory comes
//!         has one left since it was last told so? ── yes ──► try again: the fault may have looked before
//!            └─ no: is a guest being written out? ── yes ──► its copy goes, and the snapshot with it; try again
//!                └─ no: who has most pages? ─── who asks ──► ends
//!                                           └── another ──► is ended; try again
//! ```

use super::end::End;
use super::vm::Vm;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use spin::Mutex;

/// The guests that may have to go. Held over a whole verdict: one at a time.
static GUESTS: Mutex<Vec<Weak<Vm>>> = Mutex::new(Vec::new());
/// Guests that have ended, and whose memory is not free yet.
static LEAVING: AtomicUsize = AtomicUsize::new(0);
/// Guests and copies that have left, and whose memory is free.
static LEFT: AtomicUsize = AtomicUsize::new(0);

/// Copies of guests that are being written out. None is more than a snapshot, which can be taken again.
static COPIES: Mutex<Vec<Weak<Copy>>> = Mutex::new(Vec::new());

/// A copy of a guest, which goes before a guest has to. It outlives the copy's memory.
#[derive(Debug, Default)]
pub(super) struct Copy(Departure);

impl Copy {
    /// There is one from now on.
    pub(super) fn new() -> Arc<Self> {
        let copy = Arc::new(Self::default());
        let mut copies = COPIES.lock();
        copies.retain(|copy| copy.strong_count() > 0);
        copies.push(Arc::downgrade(&copy));
        copy
    }

    /// Whether its memory is wanted: it is to go.
    pub(super) fn is_wanted(&self) -> bool {
        self.0.0.load(Ordering::Relaxed)
    }
}

/// What becomes of a guest that has found no memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It has most.
    Ends,
    /// There will be some.
    TriesAgain,
}

/// Departures that a guest has been told of: one that ended between its fault and the verdict has left memory.
#[derive(Debug, Default)]
pub(super) struct Told(AtomicUsize);

impl Told {
    /// Whether somebody has left since this was last asked.
    fn is_news(&self) -> bool {
        let left = LEFT.load(Ordering::SeqCst);
        self.0.swap(left, Ordering::SeqCst) != left
    }
}

/// A guest has memory from now on.
pub(super) fn add(vm: &Arc<Vm>) {
    let mut guests = GUESTS.lock();
    guests.retain(|guest| guest.strong_count() > 0);
    guests.push(Arc::downgrade(vm));
}

/// A guest's departure: from its end until its memory is free, which this has to outlive.
#[derive(Debug, Default)]
pub(super) struct Departure(AtomicBool);

impl Departure {
    /// The guest has ended.
    pub(super) fn begins(&self) {
        if !self.0.swap(true, Ordering::SeqCst) {
            LEAVING.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        if *self.0.get_mut() {
            // In this order: who finds nobody leaving hears of who has left.
            LEFT.fetch_add(1, Ordering::SeqCst);
            LEAVING.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Decides for `asker`, which would end so, and ends whoever has to go. No lock is held.
pub(crate) fn judge(asker: &Vm, end: End) -> Verdict {
    let known = GUESTS.lock();
    if LEAVING.load(Ordering::SeqCst) != 0 || asker.told.is_news() {
        return Verdict::TriesAgain;
    }
    let copy = COPIES.lock().iter().find_map(Weak::upgrade);
    if let Some(copy) = copy {
        log::error!("{} finds no memory: a snapshot that is under way is given up", asker.name());
        copy.0.begins();
        return Verdict::TriesAgain;
    }
    let guests: Vec<_> = known.iter().filter_map(Weak::upgrade).collect();
    // What lies in swap counts, too: it has taken the room that others would need (Linux: `oom_badness`).
    let pages =
        |guest: &Vm| guest.memory.space().resident_frames() + guest.memory.space().swapped_pages().now;
    let others = guests.iter().filter(|guest| guest.index != asker.index);
    let worst = others.max_by_key(|guest| pages(guest)).filter(|guest| pages(guest) > pages(asker));
    let (ends, verdict) = match worst {
        Some(worst) => {
            let (name, count) = (worst.name(), pages(worst));
            log::error!("{name} has most memory, {count} pages, and {} finds none", asker.name());
            (&**worst, Verdict::TriesAgain)
        }
        None => (asker, Verdict::Ends),
    };
    ends.finish_with(Ok(end));
    drop(known);
    verdict
}
