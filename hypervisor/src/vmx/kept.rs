//! Fields of the guest-state area that a processor may lack (SDM vol. 3C 25.4.1, "only on processors that support"): kept here then,
//! and done by hand what the processor would do with them.
//!
//! | field | exists with | without it |
//! |---|---|---|
//! | PDPTEs | EPT | under a shadow PAE's pointers are in memory |
//! | `IA32_PAT` | "load `IA32_PAT`" | guest and Herald have the same, whose first entry is write-back: shadows use no other |
//! | `IA32_EFER` | "load `IA32_EFER`" | LME and LMA follow "IA-32e mode guest" and NXE is on for both; SCE is set before an entry, and Herald never executes SYSCALL |

use core::cell::Cell;
use vmxdefs::capability::Capabilities;
use vmxdefs::controls::{EntryControls, Secondary};
use vmxdefs::field::Field;
use x86::msr::{IA32_EFER, rdmsr, wrmsr};

/// `IA32_EFER.SCE`.
const SYSCALL_ENABLE: u64 = 1 << 0;

/// Which of these fields a processor has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pointers: bool,
    pat: bool,
    efer: bool,
}

impl Extent {
    /// This processor's.
    pub(super) const fn of(capabilities: &Capabilities) -> Self {
        Self {
            pointers: capabilities.secondary.offers(Secondary::EPT.bits()),
            pat: capabilities.entry.offers(EntryControls::LOAD_PAT.bits()),
            efer: capabilities.entry.offers(EntryControls::LOAD_EFER.bits()),
        }
    }

    /// Whether a field is there.
    pub(super) const fn has(self, field: Field) -> bool {
        match field {
            Field::GuestPdpte0 | Field::GuestPdpte1 | Field::GuestPdpte2 | Field::GuestPdpte3 => {
                self.pointers
            }
            Field::GuestPat | Field::HostPat => self.pat,
            Field::GuestEfer | Field::HostEfer => self.efer,
            _ => true,
        }
    }
}

/// What stands for those that are not there.
#[derive(Debug)]
pub(super) struct Kept {
    extent: Extent,
    pointers: [Cell<u64>; 4],
    pat: Cell<u64>,
    efer: Cell<u64>,
}

impl Kept {
    /// All are 0.
    pub(super) fn new(extent: Extent) -> Self {
        Self { extent, pointers: Default::default(), pat: Cell::default(), efer: Cell::default() }
    }

    /// Where a field is kept, if the VMCS does not have it.
    pub(super) fn place(&self, field: Field) -> Option<&Cell<u64>> {
        if self.extent.has(field) {
            return None;
        }
        match field {
            Field::GuestPdpte0 => Some(&self.pointers[0]),
            Field::GuestPdpte1 => Some(&self.pointers[1]),
            Field::GuestPdpte2 => Some(&self.pointers[2]),
            Field::GuestPdpte3 => Some(&self.pointers[3]),
            Field::GuestPat => Some(&self.pat),
            Field::GuestEfer => Some(&self.efer),
            _ => None,
        }
    }

    /// Before an entry: what the processor does not load.
    pub(super) fn load(&self) {
        if self.extent.efer {
            return;
        }
        // SAFETY: every processor with long mode has it.
        let own = unsafe { rdmsr(IA32_EFER) };
        let wanted = own & !SYSCALL_ENABLE | self.efer.get() & SYSCALL_ENABLE;
        if wanted != own {
            // SAFETY: SCE alone changes, and Herald neither calls by SYSCALL nor returns by SYSRET.
            unsafe { wrmsr(IA32_EFER, wanted) };
        }
    }
}
