//! Which ranks the current CPU (or thread, or thread of a model) holds, as a bit mask. Compiled in debug builds only.

use crate::Rank;
#[cfg(not(any(feature = "std", feature = "shuttle", test)))]
use core::sync::atomic::{AtomicU32, Ordering};

/// CPUs that can be told apart.
pub const MAX_CPUS: usize = 64;

#[cfg(not(any(feature = "std", feature = "shuttle", test)))]
static HELD: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];
static CURRENT_CPU: spin::Once<fn() -> usize> = spin::Once::new();

/// Tells how to find the index of the CPU that runs; before the first call all is CPU 0.
pub fn set_current_cpu(current_cpu: fn() -> usize) {
    CURRENT_CPU.call_once(|| current_cpu);
}

#[cfg(not(any(feature = "std", feature = "shuttle", test)))]
fn update(change: impl FnOnce(u32) -> u32) {
    let cpu = CURRENT_CPU.get().map_or(0, |current_cpu| current_cpu());
    let held = &HELD[cpu];
    // Relaxed: only this CPU writes its word.
    held.store(change(held.load(Ordering::Relaxed)), Ordering::Relaxed);
}

#[cfg(all(any(feature = "std", test), not(feature = "shuttle")))]
std::thread_local! {
    static HELD: core::cell::Cell<u32> = const { core::cell::Cell::new(0) };
}

#[cfg(feature = "shuttle")]
shuttle::thread_local! {
    static HELD: core::cell::Cell<u32> = core::cell::Cell::new(0);
}

#[cfg(any(feature = "std", feature = "shuttle", test))]
fn update(change: impl FnOnce(u32) -> u32) {
    HELD.with(|held| held.set(change(held.get())));
}

/// A place in the lock order, taken for a lock that this crate does not know: a bit in a word, say. It is given back
/// on drop.
#[must_use]
#[derive(Debug)]
pub struct Held(Rank);

impl Held {
    /// Checks the order, and takes the place.
    ///
    /// # Panics
    /// In debug builds, if a lock of this or a later rank is held.
    #[track_caller]
    pub fn acquire(rank: Rank) -> Self {
        acquire(rank);
        Self(rank)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        release(self.0);
    }
}

/// In order: a place in this list is a bit of the mask.
const ALL: [Rank; Rank::RunQueue as usize + 1] = [
    Rank::Board,
    Rank::Reclaim,
    Rank::Merge,
    Rank::Mmap,
    Rank::Page,
    Rank::FileRmap,
    Rank::Rmap,
    Rank::Rmaps,
    Rank::Book,
    Rank::Registration,
    Rank::PageTable,
    Rank::PageCache,
    Rank::Swap,
    Rank::SwapStore,
    Rank::NotifierChain,
    Rank::Slots,
    Rank::Mmu,
    Rank::DirtyLog,
    Rank::Spaces,
    Rank::Pool,
    Rank::FrameCache,
    Rank::Buddy,
    Rank::RunQueue,
];
const _: () = {
    let mut place = 0;
    while place < ALL.len() {
        assert!(ALL[place] as usize == place, "a rank is not in its place");
        place += 1;
    }
};

/// Checks the order before a lock of this rank is waited for.
#[track_caller]
pub(crate) fn acquire(rank: Rank) {
    if !cfg!(debug_assertions) {
        return;
    }
    update(|held| {
        let inner = held >> (rank as u32);
        if inner != 0 {
            let culprit = ALL[rank as usize + inner.trailing_zeros() as usize];
            panic!("lock order: {rank:?} taken while {culprit:?} is held");
        }
        held | 1 << (rank as u32)
    });
}

/// Forgets a lock that was released.
pub(crate) fn release(rank: Rank) {
    if cfg!(debug_assertions) {
        update(|held| held & !(1 << (rank as u32)));
    }
}
