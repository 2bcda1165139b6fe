//! What others know of a virtual processor, and how they get its attention (`sync::Attention`).

use super::ticks::Ticks;
use crate::cpu;
use crate::sched::Thread;
use crate::vcpu::{Counters, VcpuState};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};
use spin::Mutex;
use sync::Attention;

/// One virtual processor, seen from outside.
#[derive(Default)]
pub(crate) struct Control {
    thread: Mutex<Option<Arc<Thread>>>,
    attention: Attention,
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
        match self.attention.post() {
            None => {
                let thread = self.thread.lock().clone();
                if let Some(thread) = thread {
                    thread.unpark();
                }
            }
            Some(cpu) => cpu::kick(cpu),
        }
    }

    /// It has done something to its own local APIC, and will look before it enters.
    pub(crate) fn note_own_news(&self) {
        self.attention.note();
    }

    /// Whether it has to look.
    pub(crate) fn has_news(&self) -> bool {
        self.attention.has_news()
    }

    /// It looks now. The news stays where `waits` says that there is something to heed first: a pause, or the guest's end.
    pub(crate) fn take_news(&self, waits: impl FnOnce() -> bool) -> bool {
        self.attention.take(waits)
    }

    /// It is about to enter its guest on this CPU. A full fence follows.
    pub(crate) fn enters(&self) {
        self.attention.enters(cpu::index());
    }

    /// It has left its guest.
    pub(crate) fn has_left(&self) {
        self.attention.has_left();
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
