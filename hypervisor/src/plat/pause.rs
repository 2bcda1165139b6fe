//! Pauses: the coherence oracle looks at a guest's memory while nobody works on it.
//!
//! ```text
//!   pause: paused = true, kick all ──► each: busy = false, parks ──► all idle: look ──► paused = false, kick all
//! ```
//!
//! A virtual processor that is busy runs on some CPU, or waits for a page, and comes to its loop's top soon; one that is not,
//! stays there. Who
//! wants a pause while another one lasts waits, and is not busy meanwhile.

use super::control::Control;
use crate::sched;
use core::sync::atomic::{AtomicBool, Ordering};
use spin::Mutex;

/// A guest's pauses.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    paused: AtomicBool,
    one: Mutex<()>,
}

impl Pauses {
    /// Whether virtual processors have to stay where they are.
    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    /// Runs `look` while none of these is busy but `caller`, which is one of them, or none. While another pause lasts
    /// it waits, unless it `gives_up`: then nothing has happened.
    pub(super) fn during<T>(
        &self,
        all: &[Control],
        caller: Option<usize>,
        gives_up: impl Fn() -> bool,
        look: impl FnOnce() -> T,
    ) -> Option<T> {
        let own = caller.and_then(|index| all.get(index));
        let was_busy = own.is_some_and(Control::is_busy);
        own.inspect(|own| own.set_busy(false));
        let guard = loop {
            match self.one.try_lock() {
                Some(guard) => break guard,
                None if gives_up() => {
                    own.inspect(|own| own.set_busy(was_busy));
                    return None;
                }
                None => sched::yield_now(),
            }
        };
        self.paused.store(true, Ordering::SeqCst);
        let others =
            || all.iter().enumerate().filter(|(index, _)| caller != Some(*index)).map(|(_, other)| other);
        others().for_each(Control::kick);
        while others().any(Control::is_busy) {
            // It may wait for a disk, and the disk for this CPU.
            sched::yield_now();
        }
        let result = look();
        // Busy again before the next pause can begin, so that it waits for this one.
        own.inspect(|own| own.set_busy(was_busy));
        self.paused.store(false, Ordering::SeqCst);
        drop(guard);
        others().for_each(Control::kick);
        Some(result)
    }
}
