//! Which CPU has a virtual processor.
//!
//! ```text
//!          take: VMPTRLD, extended registers; from another CPU also host state, and a flush of linear translations
//!   nowhere ────────────────────────────────────────────────────────────────────────────────────► on a CPU
//!      ▲                                                                                              │
//!      └──────────────────────────── leave: extended registers, VMCLEAR ─────────────────────────────┘
//! ```
//!
//! Between the two nothing of it is in any processor but cached translations: those of the EPT are the flush handshake's
//! concern, linear ones carry its VPID, and are dropped where it comes from another CPU.
//!
//! The run loop leaves before it waits. Whatever else waits on its thread, for a page from disk for instance, does not know
//! of virtual processors: the scheduler leaves and takes the CPU for it (as KVM's preempt notifiers do).

use super::Vcpu;
use super::extended::Extended;
use crate::sched::Resident;
use crate::vmx::Residence;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};

/// What a virtual processor has in a CPU.
pub(super) struct Place {
    vmcs: Rc<Residence>,
    /// What is not in the VMCS while another may have the CPU.
    pub(super) extended: RefCell<Extended>,
    taken: Cell<bool>,
    /// INVVPIDs that were not counted yet.
    flushes: Cell<u64>,
}

impl Place {
    /// On this CPU, which has the VMCS.
    pub(super) fn new(vmcs: Rc<Residence>) -> Self {
        let extended = Extended::new();
        extended.restore();
        Self { vmcs, extended: RefCell::new(extended), taken: Cell::new(true), flushes: Cell::new(0) }
    }
}

impl Place {
    /// On the CPU that has it: other registers from here on.
    pub(super) fn adopt(&self, extended: Extended) {
        extended.restore();
        self.extended.replace(extended);
    }
}

impl Resident for Place {
    fn leave(&self) -> bool {
        let taken = self.taken.replace(false);
        if taken {
            self.extended.borrow_mut().save();
            self.vmcs.unload();
        }
        taken
    }

    fn take(&self) {
        if self.taken.replace(true) {
            return;
        }
        if self.vmcs.load() {
            self.flushes.set(self.flushes.get() + u64::from(self.vmcs.flush_linear()));
        }
        self.extended.borrow().restore();
    }
}

impl Vcpu {
    /// Gets this CPU, unless it has it.
    pub(crate) fn take_cpu(&mut self) {
        self.place.take();
        self.counters.invvpid += self.place.flushes.take();
    }

    /// Leaves this CPU: to be called before another thread may run.
    pub(super) fn leave_cpu(&self) {
        self.place.leave();
    }

    /// For as long as the result lives, the scheduler leaves and takes the CPU for it. Called on its thread.
    pub(super) fn reside(&self) -> crate::sched::Residing {
        crate::sched::reside(Rc::clone(&self.place) as Rc<dyn Resident>)
    }
}
