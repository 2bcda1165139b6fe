//! Exits without a file of their own: interrupts of the host, HLT, XSETBV, the end.

use super::Flow;
use crate::cpu::{self, tsc};
use crate::plat::{End, Vm};
use crate::vcpu::{Vcpu, register};
use devices::Ticks;
use vmxdefs::event::Event;
use vmxdefs::field::Field;

const RFLAGS_IF: u64 = 1 << 9;

/// The interrupt is still pending: it is taken through Herald's own IDT.
pub(super) fn host_interrupt(vm: &mut Vm) -> Flow {
    cpu::take_interrupts();
    vm.service_console();
    Flow::Resume
}

/// A device timer is due: `prepare` fires it.
pub(super) fn timer(vm: &mut Vm) -> Flow {
    vm.service_console();
    Flow::Resume
}

/// An instruction that does nothing here.
pub(super) fn skip(vcpu: &mut Vcpu) -> Flow {
    vcpu.skip_instruction();
    Flow::Resume
}

/// An instruction that the guest's processor does not have, or not now.
pub(super) fn refuse(vcpu: &mut Vcpu, exception: Event) -> Flow {
    vcpu.raise(exception);
    Flow::Resume
}

/// HLT: waits for an interrupt. With interrupts off and one processor, nothing ever comes.
pub(super) fn halt(vcpu: &mut Vcpu, vm: &mut Vm) -> Flow {
    vcpu.skip_instruction();
    if vcpu.vmcs.read(Field::GuestRflags) & RFLAGS_IF == 0 {
        return Flow::End(End::Halted);
    }
    vm.service_console();
    let since = tsc();
    loop {
        vm.board.advance(Ticks(tsc()));
        if vm.board.pending_interrupt(vcpu.id).is_some() {
            break;
        }
        cpu::timer::wait(vm.board.next_deadline().map(|deadline| deadline.0));
        vm.service_console();
    }
    vm.ticks.idle(since, tsc());
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
    if !legal || !cpu::set_xcr0(value) {
        return refuse(vcpu, Event::GENERAL_PROTECTION);
    }
    skip(vcpu)
}

pub(super) fn triple_fault(vcpu: &Vcpu) -> Flow {
    log::error!("triple fault in the guest:");
    vcpu.log_registers();
    Flow::End(End::TripleFault)
}
