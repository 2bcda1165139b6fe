//! Exits without a file of their own: interrupts of the host, HLT, XSETBV, the end.

use super::Flow;
use crate::cpu;
use crate::plat::{End, Vm};
use crate::vcpu::{Activity, Vcpu, register};
use vmxdefs::event::Event;

/// The interrupt is still pending: it is taken through Herald's own IDT.
pub(super) fn host_interrupt(vm: &Vm) -> Flow {
    cpu::take_interrupts();
    vm.service_console();
    Flow::Resume
}

/// A device timer is due, or a turn is over: both are looked at before the next entry.
pub(super) fn timer(vm: &Vm) -> Flow {
    vm.service_console();
    Flow::Resume
}

/// An instruction that does nothing here.
pub(super) fn skip(vcpu: &mut Vcpu) -> Flow {
    vcpu.skip_instruction();
    Flow::Resume
}

/// The guest spins: for something that another virtual processor has to do, which may wait for this CPU.
pub(super) fn pause(vcpu: &mut Vcpu) -> Flow {
    vcpu.skip_instruction();
    vcpu.gives_way = true;
    Flow::Resume
}

/// An instruction that the guest's processor does not have, or not now.
pub(super) fn refuse(vcpu: &mut Vcpu, exception: Event) -> Flow {
    vcpu.raise(exception);
    Flow::Resume
}

/// HLT: waits for an interrupt, without a CPU.
pub(super) fn halt(vcpu: &mut Vcpu, vm: &Vm) -> Flow {
    vcpu.skip_instruction();
    vcpu.activity = Activity::Halted;
    // What waits already wakes it at once.
    vm.control(vcpu.id).note_own_news();
    Flow::Resume
}

/// An interrupt or NMI window has opened, and is used before the next entry.
pub(super) fn window(vcpu: &Vcpu, vm: &Vm) -> Flow {
    vm.control(vcpu.id).note_own_news();
    Flow::Resume
}

/// XSETBV: XCR0 on this processor becomes the guest's, since Herald uses no extended state of its own
/// (SDM vol. 2D XSETBV: what is refused here).
pub(super) fn xsetbv(vcpu: &mut Vcpu) -> Flow {
    const X87: u64 = 1 << 0;
    const SSE: u64 = 1 << 1;
    const AVX: u64 = 1 << 2;
    let value = vcpu.edx_eax();
    let index = vcpu.registers.general[register::RCX] as u32;
    let legal = index == 0
        && value & X87 != 0
        && value & !(X87 | SSE | AVX) == 0
        && (value & AVX == 0 || value & SSE != 0)
        && vcpu.privilege_level() == 0;
    if !legal || !vcpu.set_xcr0(value) {
        return refuse(vcpu, Event::GENERAL_PROTECTION);
    }
    skip(vcpu)
}

pub(super) fn triple_fault(vcpu: &Vcpu) -> Flow {
    log::error!("triple fault in the guest:");
    vcpu.log_registers();
    Flow::End(End::TripleFault)
}
