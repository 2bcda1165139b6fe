//! What a thread has in its CPU beside what a switch saves: it leaves before another thread runs, and comes back with the
//! thread, on whatever CPU (Linux: preempt notifiers).

use super::cpu;
use alloc::rc::Rc;
use core::cell::RefCell;
use core::marker::PhantomData;

/// Something of a thread in its CPU.
pub(crate) trait Resident {
    /// Leaves the CPU; whether it was there.
    fn leave(&self) -> bool;
    /// Comes to this CPU.
    fn take(&self);
}

/// A thread's own place for it.
#[derive(Default)]
pub(super) struct Slot(RefCell<Option<Rc<dyn Resident>>>);

// SAFETY: the thread itself alone looks at it, on whatever CPU it runs, and it is empty before the thread ends (`Residing`
// does not leave its thread).
unsafe impl Send for Slot {}
// SAFETY: as above.
unsafe impl Sync for Slot {}

impl Slot {
    /// Before the thread leaves its CPU: who has to come back with it.
    pub(super) fn leave(&self) -> Option<Rc<dyn Resident>> {
        let resident = self.0.borrow().clone();
        resident.filter(|resident| resident.leave())
    }
}

/// As long as it lives, the scheduler knows.
#[must_use]
pub(crate) struct Residing(PhantomData<*const ()>);

/// The calling thread has something in its CPU.
pub(crate) fn reside(resident: Rc<dyn Resident>) -> Residing {
    *cpu::current().resident.0.borrow_mut() = Some(resident);
    Residing(PhantomData)
}

impl Drop for Residing {
    fn drop(&mut self) {
        *cpu::current().resident.0.borrow_mut() = None;
    }
}
