//! What others know of a virtual processor, and how they get its attention.
//!
//! ```text
//!   virtual processor                           whoever has news for it
//!   1  on = this CPU                            1  news = true
//!   2  full fence (the flush handshake's)       2  full fence
//!   3  news? back, and look                     3  on = a CPU? interrupt it; else unpark the thread
//!   4  enter
//! ```
//!
//! Each side stores, and then looks: at least one sees the other. A thread that is neither in the guest nor parked looks
//! by itself before it enters or parks.
//!
//! The guest's end, or a pause, is stored before the news of it: who has no news has neither to heed. Who takes news looks
//! at both afterwards, and notes news of its own if it does not heed them at once.

use super::ticks::Ticks;
use crate::cpu;
use crate::sched::Thread;
use crate::vcpu::{Counters, VcpuState};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use spin::Mutex;

/// One virtual processor, seen from outside.
#[derive(Default)]
pub(crate) struct Control {
    thread: Mutex<Option<Arc<Thread>>>,
    news: AtomicBool,
    /// The CPU that has it in guest mode, and 1; 0: none has.
    on: AtomicUsize,
    /// It sleeps, and only another virtual processor could wake it.
    asleep_for_good: AtomicBool,
    /// It works on its guest's memory, or runs in it.
    busy: AtomicBool,
    accounts: Mutex<(Counters, Ticks)>,
    /// Somebody wants newer accounts.
    asked: AtomicBool,
    /// What it is, for a copy of its guest.
    deposit: Mutex<Option<Box<VcpuState>>>,
}

impl Control {
    /// Tells which thread runs it.
    pub(crate) fn set_thread(&self, thread: Arc<Thread>) {
        *self.thread.lock() = Some(thread);
    }

    /// The thread has ended.
    pub(super) fn forget_thread(&self) {
        *self.thread.lock() = None;
    }

    /// Makes it look: at its board, at whether its guest has ended.
    pub(crate) fn kick(&self) {
        // Release pairs with the Acquire of `has_news`: what there is to look at was stored before.
        self.news.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        match self.on.load(Ordering::Relaxed) {
            0 => {
                let thread = self.thread.lock().clone();
                if let Some(thread) = thread {
                    thread.unpark();
                }
            }
            on => cpu::kick(on - 1),
        }
    }

    /// It has done something to its own local APIC, and will look before it enters.
    pub(crate) fn note_own_news(&self) {
        self.news.store(true, Ordering::Relaxed);
    }

    /// Whether it has to look.
    pub(crate) fn has_news(&self) -> bool {
        self.news.load(Ordering::Acquire)
    }

    /// It looks now.
    pub(crate) fn take_news(&self) -> bool {
        self.has_news() && self.news.swap(false, Ordering::AcqRel)
    }

    /// It is about to enter its guest on this CPU. A full fence follows.
    pub(crate) fn enters(&self) {
        self.on.store(cpu::index() + 1, Ordering::Relaxed);
    }

    /// It has left its guest.
    pub(crate) fn has_left(&self) {
        self.on.store(0, Ordering::Release);
    }

    /// Whether only another virtual processor could wake it.
    pub(crate) fn set_asleep_for_good(&self, asleep: bool) {
        self.asleep_for_good.store(asleep, Ordering::SeqCst);
    }

    /// News that it has not looked at yet may wake it.
    pub(super) fn is_asleep_for_good(&self) -> bool {
        self.asleep_for_good.load(Ordering::SeqCst) && !self.has_news()
    }

    /// Says whether it works on its guest's memory.
    pub(crate) fn set_busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::SeqCst);
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::SeqCst)
    }

    /// Leaves its state with whoever copies its guest.
    pub(crate) fn deposit(&self, state: Box<VcpuState>) {
        *self.deposit.lock() = Some(state);
    }

    /// What it has left since the last call.
    pub(super) fn take_deposit(&self) -> Option<Box<VcpuState>> {
        self.deposit.lock().take()
    }

    /// Publishes its counters.
    pub(crate) fn publish(&self, counters: &Counters, ticks: &Ticks) {
        self.asked.store(false, Ordering::Relaxed);
        *self.accounts.lock() = (*counters, *ticks);
    }

    /// Whether somebody wants to know its counters.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Its counters as it has published them last; it is asked for newer ones.
    pub(super) fn accounts(&self) -> (Counters, Ticks) {
        self.asked.store(true, Ordering::Relaxed);
        *self.accounts.lock()
    }
}
