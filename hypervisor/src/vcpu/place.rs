//! Which CPU has a virtual processor.
//!
//! ```text
//!          load: VMPTRLD, extended registers; from another CPU also host state, and a flush of linear translations
//!   nowhere ────────────────────────────────────────────────────────────────────────────────────► on a CPU
//!      ▲                                                                                              │
//!      └──────────────────────────── unload: extended registers, VMCLEAR ────────────────────────────┘
//! ```
//!
//! Between the two nothing of it is in any processor but cached translations: those of the EPT are the flush handshake's
//! concern, linear ones carry its VPID, and are dropped where it comes from another CPU.

use super::Vcpu;

impl Vcpu {
    /// Gets this CPU, unless it has it.
    pub(super) fn take_cpu(&mut self) {
        if self.loaded {
            return;
        }
        self.loaded = true;
        if self.vmcs.load() {
            self.flush_linear();
        }
        self.extended.restore();
    }

    /// Leaves this CPU: to be called before another thread may run.
    pub(super) fn leave_cpu(&mut self) {
        if self.loaded {
            self.loaded = false;
            self.extended.save();
            self.vmcs.unload();
        }
    }
}
