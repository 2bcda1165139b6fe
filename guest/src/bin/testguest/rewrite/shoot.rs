//! Messages between processors: whose pages have to be dropped, and that they have been.
//!
//! ```text
//!   owner:   tables change ─► its mask to each other processor ─► waits, and serves the others meanwhile ─► all masks are empty: settled
//!   other:   between two accesses: a mask that is not empty ─► INVLPG of each page, or MOV to CR3 ─► the mask is emptied
//! ```
//!
//! The sequence of an owner is odd while other processors may have what its tables do not say any more.

use super::tree::linear;
use core::sync::atomic::{AtomicU64, Ordering};
use guest::cpu;

/// Most processors that take part.
pub(super) const MOST: usize = 8;

/// Of each owner, to each processor: the pages to drop.
static MASKS: [[AtomicU64; MOST]; MOST] = [const { [const { AtomicU64::new(0) }; MOST] }; MOST];
static SEQUENCES: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];

/// How pages are dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Means {
    /// INVLPG of each.
    Each,
    /// MOV to CR3.
    All,
}

/// Drops pages of an owner.
pub(super) fn drop_pages(owner: u64, mut mask: u64, means: Means) {
    if means == Means::All {
        // SAFETY: it stays what it is.
        unsafe { cpu::set_cr3(cpu::cr3()) };
        return;
    }
    while mask != 0 {
        cpu::invalidate(linear(owner, mask.trailing_zeros().into()));
        mask &= mask - 1;
    }
}

/// Does what others have asked this processor for.
pub(super) fn serve(me: u64, mut means: impl FnMut(u64) -> Means) {
    for (owner, masks) in MASKS.iter().enumerate() {
        let mask = masks[me as usize].load(Ordering::SeqCst);
        if mask != 0 {
            drop_pages(owner as u64, mask, means(mask));
            masks[me as usize].store(0, Ordering::SeqCst);
        }
    }
}

/// The owner's tables are about to change.
pub(super) fn begin(owner: u64) {
    let sequence = &SEQUENCES[owner as usize];
    if sequence.load(Ordering::SeqCst).is_multiple_of(2) {
        sequence.fetch_add(1, Ordering::SeqCst);
    }
}

/// All others have dropped these pages of the owner's, or `stopped` says that nobody goes on.
pub(super) fn settle(owner: u64, count: u64, mask: u64, stopped: impl Fn() -> bool) {
    let others = || (0..count).filter(|&other| other != owner);
    let masks = &MASKS[owner as usize];
    if mask != 0 {
        others().for_each(|other| masks[other as usize].store(mask, Ordering::SeqCst));
        while others().any(|other| masks[other as usize].load(Ordering::SeqCst) != 0) && !stopped() {
            serve(owner, |_| Means::All);
            core::hint::spin_loop();
        }
    }
    let sequence = &SEQUENCES[owner as usize];
    if !sequence.load(Ordering::SeqCst).is_multiple_of(2) {
        sequence.fetch_add(1, Ordering::SeqCst);
    }
}

/// Where an owner's tables are: two equal numbers that are even have nothing between them.
pub(super) fn sequence(owner: u64) -> u64 {
    SEQUENCES[owner as usize].load(Ordering::SeqCst)
}
