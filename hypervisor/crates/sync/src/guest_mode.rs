//! The enter-guest handshake (I10): which CPUs are interrupted, so that none uses a guest's translations that had to go.
//!
//! ```text
//!   a CPU on its way into a guest             whoever has changed entries
//!   1  state = guest mode, flushed to f       1  the entries are written
//!   2  full fence                             2  generation += 1, which makes it g
//!   3  g = generation                         3  full fence
//!   4  f < g: flush; flushed to g             4  each CPU in guest mode and flushed to less than g: interrupt it
//!   5  enter                                  5  wait until it has flushed to g, or is in root mode
//!
//!      root mode ───── enter ─────► guest mode ──┐ interrupted: acknowledge
//!          ▲                            │  ▲     │ (flush; flushed to g)
//!          └─────────── exit ───────────┘  └─────┘
//! ```
//!
//! Each side stores, and then looks at what the other stores. Without a fence in between, a CPU may let the later load
//! pass the earlier store (SDM vol. 3A 8.2.3.4): the one would see no guest, the other no request, and the guest would
//! run on. With both fences at least one sees the other. A CPU in root mode is left alone: it comes by step 3 before it
//! uses a translation again.
//!
//! From step 1 to the entry the CPU has interrupts off: one that is sent meanwhile makes the guest exit at once. Each set
//! of tables (each guest's EPT, say) has a handshake of its own. Only CPUs that have used them at all are looked at: before
//! its first step 1 a CPU notes itself as a visitor, which step 2 orders like step 1.

use crate::atomic::{AtomicU64, Ordering, fence};
use crate::relax;
use mutants::{Mutant, intact};

/// Of a CPU's state: it is in guest mode. Above it, the generation that it has flushed to.
const IN_GUEST: u64 = 1;

/// The modes of CPUs, and the flushes asked of them.
#[derive(Debug)]
pub struct GuestMode<const CPUS: usize> {
    generation: AtomicU64,
    /// CPUs that have ever entered, a bit each.
    visitors: AtomicU64,
    states: [AtomicU64; CPUS],
}

/// A flush that was asked for: what was changed before may still be used by CPUs.
#[must_use = "a flush that nobody waits for may not have happened"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Requested {
    generation: u64,
}

impl Requested {
    /// Its number: requests are waited for in any order, and a later one covers all earlier ones.
    #[must_use]
    pub const fn generation(self) -> u64 {
        self.generation
    }

    /// The request of this number.
    pub const fn of(generation: u64) -> Self {
        Self { generation }
    }
}

impl<const CPUS: usize> GuestMode<CPUS> {
    /// All CPUs in root mode. Each flushes before its first stay in guest mode: whoever used the same tag before may have
    /// left something in its caches.
    #[cfg(not(feature = "loom"))]
    #[must_use]
    pub const fn new() -> Self {
        const { assert!(CPUS <= u64::BITS as usize, "a CPU has a bit") };
        Self {
            generation: AtomicU64::new(1),
            visitors: AtomicU64::new(0),
            states: [const { AtomicU64::new(0) }; CPUS],
        }
    }

    /// The same; loom's atomics are no constants.
    #[cfg(feature = "loom")]
    #[must_use]
    pub fn new() -> Self {
        Self {
            generation: AtomicU64::new(1),
            visitors: AtomicU64::new(0),
            states: core::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// This CPU, with interrupts off, is about to enter a guest: drops its guest translations by `flush`, if any have
    /// to go.
    pub fn enter(&self, cpu: usize, flush: impl FnOnce()) {
        self.enter_behind(cpu, full_fence::<CPUS>, flush);
    }

    /// [`Self::enter`], with this fence.
    pub(crate) fn enter_behind(&self, cpu: usize, fence: impl FnOnce(), flush: impl FnOnce()) {
        let own = 1 << cpu;
        if self.visitors.load(Ordering::Relaxed) & own == 0 && intact(Mutant::VisitorIsNotNoted) {
            self.visitors.fetch_or(own, Ordering::Relaxed);
        }
        // Relaxed: only this CPU writes its state.
        let state = self.states[cpu].load(Ordering::Relaxed) | IN_GUEST;
        self.states[cpu].store(state, Ordering::Relaxed);
        fence();
        self.catch_up(cpu, flush);
    }

    /// This CPU was interrupted in guest mode, or has come back from there for another reason: drops its guest
    /// translations by `flush`, if any have to go. It may enter the guest again.
    pub fn acknowledge(&self, cpu: usize, flush: impl FnOnce()) {
        self.catch_up(cpu, flush);
    }

    fn catch_up(&self, cpu: usize, flush: impl FnOnce()) {
        let state = self.states[cpu].load(Ordering::Relaxed);
        // Acquire pairs with the Release in `request`: whoever sees the generation sees the entries.
        let generation = self.generation.load(Ordering::Acquire);
        let last = if intact(Mutant::EntersOneBehind) { generation } else { generation - 1 };
        if state >> 1 < last {
            if intact(Mutant::AcknowledgesWithoutFlush) {
                flush();
            }
            // Release pairs with the Acquire in `lags`: what was used before the flush was used before it is seen.
            self.states[cpu].store(generation << 1 | state & IN_GUEST, Ordering::Release);
        }
    }

    /// This CPU has left its guest and uses no guest translation until it enters again.
    pub fn exit(&self, cpu: usize) {
        let state = self.states[cpu].load(Ordering::Relaxed);
        // Release, as in `catch_up`.
        self.states[cpu].store(state & !IN_GUEST, Ordering::Release);
    }

    /// Entries have been written: asks every CPU to forget what it has cached of them, and interrupts those that could
    /// still use it. A batch of changes asks once.
    pub fn request(&self, interrupt: impl FnMut(usize)) -> Requested {
        self.request_behind(full_fence::<CPUS>, interrupt)
    }

    /// [`Self::request`], with this fence.
    pub(crate) fn request_behind(&self, fence: impl FnOnce(), mut interrupt: impl FnMut(usize)) -> Requested {
        let requested = Requested { generation: self.generation.fetch_add(1, Ordering::Release) + 1 };
        fence();
        self.visitors().filter(|&cpu| self.lags(cpu, requested)).for_each(&mut interrupt);
        requested
    }

    /// The same of translations that a CPU drops at each [`Self::enter`], whatever was asked for: where none is in guest mode, nobody is asked, and
    /// there is nothing to wait for ([`crate::Stays`]).
    pub(crate) fn request_if_used(&self, interrupt: impl FnMut(usize)) -> Option<Requested> {
        self.request_if_used_behind(full_fence::<CPUS>, interrupt)
    }

    /// [`Self::request_if_used`], with this fence.
    pub(crate) fn request_if_used_behind(
        &self,
        fence: impl Fn(),
        interrupt: impl FnMut(usize),
    ) -> Option<Requested> {
        fence();
        // Acquire pairs with the Release in `exit`: what was used before it was used before it is seen.
        let is_used = |cpu: usize| self.states[cpu].load(Ordering::Acquire) & IN_GUEST != 0;
        let asks = intact(Mutant::AsksNobody) && self.visitors().any(is_used);
        asks.then(|| self.request_behind(fence, interrupt))
    }

    /// Waits until no CPU uses any more what had to go. The caller is in root mode.
    pub fn wait(&self, requested: Requested) {
        if !intact(Mutant::WaitsForNobody) {
            return;
        }
        for cpu in self.visitors() {
            while self.lags(cpu, requested) {
                relax();
            }
        }
    }

    fn visitors(&self) -> impl Iterator<Item = usize> + use<CPUS> {
        let mut left = self.visitors.load(Ordering::Relaxed);
        core::iter::from_fn(move || {
            let first = left.trailing_zeros() as usize;
            left = left.checked_sub(1).map(|others| left & others)?;
            Some(first)
        })
    }

    /// Whether a CPU may still use what had to go.
    fn lags(&self, cpu: usize, requested: Requested) -> bool {
        let state = self.states[cpu].load(Ordering::Acquire);
        let wanted =
            if intact(Mutant::WaitsForOneBehind) { requested.generation } else { requested.generation - 1 };
        state & IN_GUEST != 0 && state >> 1 < wanted
    }
}

impl<const CPUS: usize> Default for GuestMode<CPUS> {
    fn default() -> Self {
        Self::new()
    }
}

/// A CPU that is alone cannot be in guest mode while it asks, and needs no fence.
fn full_fence<const CPUS: usize>() {
    if CPUS > 1 {
        fence(Ordering::SeqCst);
    }
}
