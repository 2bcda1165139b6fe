//! When nothing helps: of all guests the one that has most memory ends, and what it had is free for the others.
//!
//! ```text
//!   a fault finds no frame, and nothing can be reclaimed
//!     └─► is a guest on its way out? ── yes ──► try again: its memory comes
//!            └─ no: who has most frames? ── who asks ──► ends
//!                                       └── another ──► is ended; try again
//! ```

use super::end::End;
use super::vm::Vm;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use mmu::MmuError;
use spin::Mutex;

/// The guests that may have to go.
static GUESTS: Mutex<Vec<Weak<Vm>>> = Mutex::new(Vec::new());

/// What becomes of a guest that has found no memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It has most.
    Ends,
    /// There will be some.
    TriesAgain,
}

/// A guest has memory from now on.
pub(super) fn add(vm: &Arc<Vm>) {
    let mut guests = GUESTS.lock();
    guests.retain(|guest| guest.strong_count() > 0);
    guests.push(Arc::downgrade(vm));
}

/// Decides for `asker`, which has met `error`. No lock is held.
pub(crate) fn judge(asker: &Vm, error: MmuError) -> Verdict {
    // Dropped after the lock: one of them may be the last reference.
    let guests: Vec<_> = GUESTS.lock().iter().filter_map(Weak::upgrade).collect();
    let others = || guests.iter().filter(|guest| guest.index != asker.index);
    if others().any(|guest| guest.has_ended()) {
        return Verdict::TriesAgain;
    }
    let frames = |guest: &Vm| guest.memory.space().resident_frames();
    match others().max_by_key(|guest| frames(guest)).filter(|guest| frames(guest) > frames(asker)) {
        Some(worst) => {
            log::error!(
                "{}: has most memory, {} frames, and {} finds none",
                worst.name(),
                frames(worst),
                asker.name()
            );
            worst.finish_with(Ok(End::Memory(error)));
            Verdict::TriesAgain
        }
        None => Verdict::Ends,
    }
}
