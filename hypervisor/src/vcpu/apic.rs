//! The local APIC between its model and the processor: where the processor can deliver interrupts by itself, and the guest
//! uses x2APIC mode, the model lends it out (`devices`, `virtual_apic`); else the model is asked before each entry.

use super::Vcpu;
use crate::vmx::VirtualApic;
use devices::{Board, RegisterPage, interrupt_status, interrupt_waits};
use vmxdefs::field::Field;

impl RegisterPage for VirtualApic {
    fn read(&self, number: u8) -> u32 {
        self.register(number)
    }

    fn write(&mut self, number: u8, value: u32) {
        self.set_register(number, value);
    }
}

impl Vcpu {
    /// Lends the local APIC to the processor, or moves what has come to it.
    pub(super) fn lend_apic(&mut self, board: &mut Board) {
        let Some(apic) = self.vmcs.virtual_apic() else { return };
        let loan = board.lend_apic(self.id);
        let status = loan.and_then(|loan| loan.move_to(apic).then(|| interrupt_status(apic)));
        self.vmcs.use_virtual_apic(loan.is_some());
        if let Some(status) = status {
            self.vmcs.write(Field::GuestInterruptStatus, u64::from(status));
        }
        if let Some(exits) = loan.map(|loan| loan.eoi_exits()).filter(|exits| *exits != self.eoi_exits) {
            self.eoi_exits = exits;
            self.vmcs.set_eoi_exits(exits);
        }
    }

    /// Whether the processor would deliver an interrupt of its own accord, with interrupts on.
    pub(super) fn virtual_interrupt_waits(&self) -> bool {
        self.vmcs.active_virtual_apic().is_some_and(interrupt_waits)
    }

    /// A register of the virtual-APIC page, by number; 0 where there is none.
    pub(crate) fn virtual_apic_register(&self, number: u8) -> u32 {
        self.vmcs.active_virtual_apic().map_or(0, |apic| apic.register(number))
    }
}
