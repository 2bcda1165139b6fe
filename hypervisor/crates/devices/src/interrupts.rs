//! All interrupt controllers of a guest, and the wires between them.
//!
//! ```text
//!  ISA IRQ n ─┬─► PIC input n ──► INT ─┬─► LINT0 of the local APICs (ExtINT)
//!             │                        └─► I/O APIC pin 0 (ExtINT)
//!             └─► I/O APIC pin n, pin 2 for IRQ 0 ──► messages to local APICs ◄──► IPIs
//! ```

use crate::ioapic::{self, IoApic};
use crate::lapic::{Action, LocalApic, NoRegister, Startup, error, register};
use crate::message::{Delivery, Message};
use crate::pic::Pic;
use crate::virtual_apic::Loan;
use crate::{GeneralProtection, Ticks, VcpuId};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

const IA32_APIC_BASE: u32 = 0x1b;
const IA32_TSC_DEADLINE: u32 = 0x6e0;
const X2APIC_FIRST: u32 = 0x800;
const X2APIC_LAST: u32 = 0x8ff;
const PAGE: u64 = 0x1000;
/// A guest cannot have more: each has a bit in a set.
const MAX_VCPUS: u32 = u64::BITS;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Interrupts {
    pub(crate) pic: Pic,
    ioapic: IoApic,
    apics: Vec<LocalApic>,
    /// The PIC had an interrupt when it was looked at last.
    pic_waited: bool,
}

impl Interrupts {
    pub(crate) fn new(vcpus: u32, shortest_period: u64) -> Self {
        let apic = |id| LocalApic::new(id, shortest_period);
        Self {
            pic: Pic::new(),
            ioapic: IoApic::new(),
            apics: (0..vcpus.clamp(1, MAX_VCPUS)).map(apic).collect(),
            pic_waited: false,
        }
    }

    /// Drives an ISA interrupt line.
    pub(crate) fn set_irq(&mut self, irq: u8, level: bool) {
        self.pic.set_line(irq, level);
        let pin = if irq == 0 { 2 } else { irq };
        let message = self.ioapic.set_line(pin, level);
        self.deliver(message);
    }

    fn apic(&self, vcpu: VcpuId) -> Option<&LocalApic> {
        self.apics.get(vcpu.0 as usize)
    }

    fn apic_mut(&mut self, vcpu: VcpuId) -> Option<&mut LocalApic> {
        self.apics.get_mut(vcpu.0 as usize)
    }

    fn deliver(&mut self, message: Option<Message>) {
        if let Some(message) = message {
            deliver(&mut self.apics, message);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::None => {}
            Action::Send(message) => deliver(&mut self.apics, message),
            Action::EndOfInterrupt(vector) => {
                let apics = &mut self.apics;
                self.ioapic.end_of_interrupt(vector, &mut |message| deliver(apics, message));
            }
        }
    }

    /// Reads the I/O APIC or the processor's own local APIC; `None` where neither is.
    pub(crate) fn mmio_read(&mut self, vcpu: VcpuId, gpa: u64, now: Ticks) -> Option<u32> {
        if let Some(offset) = offset_in(gpa, ioapic::BASE, ioapic::BYTES) {
            return Some(self.ioapic.read(offset));
        }
        let apic = self.apic_mut(vcpu)?;
        let offset = offset_in(gpa, apic.page()?, PAGE)?;
        if offset & 0xf != 0 {
            return Some(0);
        }
        Some(register_of(offset).and_then(|number| apic.read(number, now)).unwrap_or_else(|NoRegister| {
            apic.raise_error(error::REGISTER);
            0
        }))
    }

    /// Writes the I/O APIC or the processor's own local APIC; `None` where neither is.
    pub(crate) fn mmio_write(&mut self, vcpu: VcpuId, gpa: u64, value: u32, now: Ticks) -> Option<()> {
        if let Some(offset) = offset_in(gpa, ioapic::BASE, ioapic::BYTES) {
            let message = self.ioapic.write(offset, value);
            self.deliver(message);
            return Some(());
        }
        let apic = self.apic_mut(vcpu)?;
        let offset = offset_in(gpa, apic.page()?, PAGE)?;
        if offset & 0xf != 0 {
            return Some(());
        }
        match register_of(offset).and_then(|number| apic.write(number, value, now)) {
            Ok(action) => self.perform(action),
            Err(NoRegister) => apic.raise_error(error::REGISTER),
        }
        Some(())
    }

    pub(crate) fn msr_read(&self, vcpu: VcpuId, msr: u32, now: Ticks) -> Result<u64, GeneralProtection> {
        let apic = self.apic(vcpu).ok_or(GeneralProtection)?;
        match msr {
            IA32_APIC_BASE => Ok(apic.base()),
            IA32_TSC_DEADLINE => Ok(apic.timer().tsc_deadline()),
            X2APIC_FIRST..=X2APIC_LAST if apic.x2apic() => {
                let number = (msr - X2APIC_FIRST) as u8;
                let low = apic.read(number, now).map_err(|NoRegister| GeneralProtection)?;
                let high = if number == register::ICR_LOW { apic.icr_high() } else { 0 };
                Ok(u64::from(high) << 32 | u64::from(low))
            }
            _ => Err(GeneralProtection),
        }
    }

    pub(crate) fn msr_write(
        &mut self,
        vcpu: VcpuId,
        msr: u32,
        value: u64,
        now: Ticks,
    ) -> Result<(), GeneralProtection> {
        let apic = self.apic_mut(vcpu).ok_or(GeneralProtection)?;
        match msr {
            IA32_APIC_BASE => apic.set_base(value),
            IA32_TSC_DEADLINE => {
                apic.timer_mut().set_tsc_deadline(value);
                Ok(())
            }
            X2APIC_FIRST..=X2APIC_LAST if apic.x2apic() => {
                let number = (msr - X2APIC_FIRST) as u8;
                if value & !LocalApic::writable(number) != 0 || number == register::ICR_HIGH {
                    return Err(GeneralProtection);
                }
                if number == register::ICR_LOW {
                    apic.set_icr_high((value >> 32) as u32);
                }
                let action = apic.write(number, value as u32, now).map_err(|NoRegister| GeneralProtection)?;
                self.perform(action);
                Ok(())
            }
            _ => Err(GeneralProtection),
        }
    }

    /// CR8: the upper half of TPR.
    pub(crate) fn tpr(&self, vcpu: VcpuId) -> u8 {
        self.apic(vcpu).map_or(0, |apic| apic.tpr() >> 4)
    }

    pub(crate) fn set_tpr(&mut self, vcpu: VcpuId, cr8: u8) {
        if let Some(apic) = self.apic_mut(vcpu) {
            apic.set_tpr(cr8 << 4);
        }
    }

    pub(crate) fn lend(&mut self, vcpu: VcpuId) -> Option<Loan> {
        self.apic_mut(vcpu)?.lend()
    }

    pub(crate) fn ended(&mut self, vcpu: VcpuId, vector: u8) {
        let action = self.apic(vcpu).map_or(Action::None, |apic| apic.ended(vector));
        self.perform(action);
    }

    pub(crate) fn advance(&mut self, now: Ticks) {
        for apic in &mut self.apics {
            apic.advance(now);
        }
    }

    pub(crate) fn deadline(&self, vcpu: VcpuId) -> Option<Ticks> {
        self.apic(vcpu)?.timer().deadline()
    }

    /// The processors for which something has come since the last call, a bit each.
    pub(crate) fn take_news(&mut self) -> u64 {
        let pic_waits = self.pic.pending().is_some();
        let waited_before = core::mem::replace(&mut self.pic_waited, pic_waits);
        let pic_news = pic_waits && !waited_before;
        let mut news = 0;
        for index in 0..self.apics.len() {
            let own = self.apics[index].take_news();
            news |= u64::from(own || pic_news && self.takes_pic(VcpuId(index as u32))) << index;
        }
        news
    }

    fn takes_pic(&self, vcpu: VcpuId) -> bool {
        self.apic(vcpu).is_some_and(|apic| {
            apic.takes_pic() || self.ioapic.pic_destination().is_some_and(|set| apic.is_for(set))
        })
    }

    pub(crate) fn pending(&self, vcpu: VcpuId) -> Option<u8> {
        let own = self.apic(vcpu).and_then(LocalApic::pending);
        own.or_else(|| self.pic.pending().filter(|_| self.takes_pic(vcpu)))
    }

    pub(crate) fn acknowledge(&mut self, vcpu: VcpuId) -> Option<u8> {
        if let Some(vector) = self.apic_mut(vcpu).and_then(LocalApic::acknowledge) {
            return Some(vector);
        }
        if self.takes_pic(vcpu) { self.pic.acknowledge() } else { None }
    }

    pub(crate) fn has_nmi(&self, vcpu: VcpuId) -> bool {
        self.apic(vcpu).is_some_and(LocalApic::has_nmi)
    }

    pub(crate) fn take_nmi(&mut self, vcpu: VcpuId) -> bool {
        self.apic_mut(vcpu).is_some_and(LocalApic::take_nmi)
    }

    pub(crate) fn take_startup(&mut self, vcpu: VcpuId) -> Option<Startup> {
        self.apic_mut(vcpu)?.take_startup()
    }
}

/// Hands a message to the local APICs that it is for.
fn deliver(apics: &mut [LocalApic], message: Message) {
    let targets = apics.iter_mut().filter(|apic| apic.is_for(message.destination));
    if message.delivery == Delivery::LowestPriority {
        if let Some(apic) = targets.min_by_key(|apic| apic.ppr()) {
            apic.accept(message);
        }
    } else {
        targets.for_each(|apic| apic.accept(message));
    }
}

fn offset_in(gpa: u64, base: u64, bytes: u64) -> Option<u64> {
    gpa.checked_sub(base).filter(|offset| *offset < bytes)
}

/// The register at an offset of the xAPIC page, whose upper part is empty; x2APIC's own is not there.
fn register_of(offset: u64) -> Result<u8, NoRegister> {
    match u8::try_from(offset >> 4) {
        Ok(register::SELF_IPI) | Err(_) => Err(NoRegister),
        Ok(number) => Ok(number),
    }
}

#[cfg(test)]
#[path = "interrupts_tests.rs"]
mod tests;
