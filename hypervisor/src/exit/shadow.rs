//! Exits of a guest under a shadow that one under an EPT does not have: its page faults, INVLPG, all writes to the registers that decide
//! over its paging. Where a processor drops translations (SDM vol. 3A 4.10.4.1), the shadow is brought up to what the guest's tables say.

use super::{Flow, ept, misc};
use crate::cpu::tsc;
use crate::plat::{End, Vm};
use crate::vcpu::Vcpu;
use addr::Gpa;
use emulate::GuestMemory;
use mmu::{LinearAccess, LinearFault, PageFault};
use vmxdefs::event::Event;
use vmxdefs::exit::{CrAccess, EptViolation};
use vmxdefs::field::Field;
use vmxdefs::msr::{EFER, PAT, is_legal_pat};
use vmxdefs::registers::{Refused, Registers};

const CR0_PE: u64 = 1 << 0;
const RFLAGS_AC: u64 = 1 << 18;
/// Of interruption information: IRET had unblocked NMIs (SDM vol. 3C 28.2.3).
const NMI_UNBLOCKED: u64 = 1 << 12;
/// Of interruptibility: NMIs are blocked.
const BLOCKED_BY_NMI: u64 = 1 << 3;

/// A page fault: the host's, a device's, or the guest's own.
pub(super) fn page_fault(vcpu: &mut Vcpu, vm: &Vm, code: u32) -> Flow {
    let linear = vcpu.vmcs.read(Field::ExitQualification);
    let has = |bit| code & bit != 0;
    let user = has(PageFault::USER);
    // An access by CPL 3 with the rights of the supervisor is an implicit one, which SMAP stops in any case.
    let explicit = vcpu.privilege_level() < 3;
    let access = LinearAccess {
        write: has(PageFault::WRITE),
        fetch: has(PageFault::FETCH),
        user,
        passes_smap: explicit && vcpu.vmcs.read(Field::GuestRflags) & RFLAGS_AC != 0,
    };
    let since = tsc();
    let outcome = vm.memory.fault_linear(vcpu.processor(), &vcpu.guest_paging(), linear, access);
    match outcome {
        Ok(LinearFault::Mapped) => {
            block_nmis_again(vcpu);
            vcpu.counters.exits.page_fault += 1;
            vcpu.counters.memory_ticks += tsc() - since;
            vm.note_fault();
            Flow::Resume
        }
        Ok(LinearFault::Guest(PageFault { code })) => {
            vcpu.counters.exits.guest_fault += 1;
            vcpu.registers.cr2 = linear;
            if vcpu.raise_page_fault(code) { Flow::Resume } else { misc::triple_fault(vcpu) }
        }
        Ok(LinearFault::NotRam(gpa)) => {
            vcpu.counters.exits.mmio += 1;
            let LinearAccess { write, fetch, .. } = access;
            ept::device(vcpu, vm, &EptViolation { gpa, write, fetch, walking: false })
        }
        Err(error) => {
            block_nmis_again(vcpu);
            ept::failed(vcpu, vm, error)
        }
    }
}

/// IRET unblocks NMIs and then faults: it will be executed again, and NMIs are to wait until it has been. Where the fault is the
/// guest's own they stay unblocked, as on a processor.
fn block_nmis_again(vcpu: &mut Vcpu) {
    let delivers = vcpu.vmcs.read(Field::IdtVectoring) >> 31 & 1 != 0;
    if !delivers && vcpu.vmcs.read(Field::ExitInterruption) & NMI_UNBLOCKED != 0 {
        let blocking = vcpu.vmcs.read(Field::GuestInterruptibility);
        vcpu.vmcs.write(Field::GuestInterruptibility, blocking | BLOCKED_BY_NMI);
    }
}

/// INVLPG.
pub(super) fn invalidate(vcpu: &mut Vcpu, vm: &Vm, linear: u64) -> Flow {
    vm.memory.mmu().invalidate_linear(vcpu.processor(), linear);
    misc::skip(vcpu)
}

/// An access to CR0, CR3 or CR4; `None`: it is no matter of paging.
pub(super) fn control_register(vcpu: &mut Vcpu, vm: &Vm, access: CrAccess) -> Option<Flow> {
    let mut registers = vcpu.guest_registers();
    let circumstances = vcpu.circumstances();
    let written = match access {
        CrAccess::Read { cr: 3, register } => {
            vcpu.set_general(usize::from(register), registers.cr3);
            return Some(misc::skip(vcpu));
        }
        CrAccess::Write { cr, register } => {
            let value = vcpu.general(usize::from(register));
            // Outside 64-bit mode the operand has 32 bits, whatever was left above.
            let is_wide = registers.is_long() && circumstances.long_code;
            let value = if is_wide { value } else { value & 0xffff_ffff };
            let load = |at| load_pointers(vm, at);
            match cr {
                0 if value & CR0_PE == 0 => return Some(Flow::End(End::RealMode)),
                0 => registers.write_cr0(value, &circumstances, load),
                3 => {
                    let written = registers.write_cr3(value, &circumstances, load);
                    return Some(match written {
                        Ok(()) => {
                            vcpu.load_cr3(registers);
                            misc::skip(vcpu)
                        }
                        Err(Refused) => misc::refuse(vcpu, Event::GENERAL_PROTECTION),
                    });
                }
                4 => registers.write_cr4(value, &circumstances, load),
                _ => return None,
            }
        }
        CrAccess::Read { .. } | CrAccess::Clts | CrAccess::Lmsw(_) => return None,
    };
    Some(written_to(vcpu, registers, written))
}

/// WRMSR of what the guest does not have the processor's of; `None`: it is another one.
pub(super) fn write_msr(vcpu: &mut Vcpu, msr: u32) -> Option<Flow> {
    let value = vcpu.edx_eax();
    match msr {
        EFER => {
            let mut registers = vcpu.guest_registers();
            let written = registers.write_efer(value);
            Some(written_to(vcpu, registers, written))
        }
        PAT if is_legal_pat(value) => {
            vcpu.set_guest_pat(value);
            Some(misc::skip(vcpu))
        }
        PAT => Some(misc::refuse(vcpu, Event::GENERAL_PROTECTION)),
        _ => None,
    }
}

/// RDMSR of the same.
pub(super) fn read_msr(vcpu: &mut Vcpu, msr: u32) -> Option<Flow> {
    let value = match msr {
        EFER => vcpu.guest_registers().efer,
        PAT => vcpu.guest_pat(),
        _ => return None,
    };
    vcpu.set_edx_eax(value);
    Some(misc::skip(vcpu))
}

fn written_to(vcpu: &mut Vcpu, registers: Registers, written: Result<(), Refused>) -> Flow {
    match written {
        Ok(()) => {
            vcpu.load_shadow(registers);
            misc::skip(vcpu)
        }
        Err(Refused) => misc::refuse(vcpu, Event::GENERAL_PROTECTION),
    }
}

/// PAE's four pointers, from the guest's memory.
fn load_pointers(vm: &Vm, at: u64) -> Option<[u64; 4]> {
    let mut bytes = [0; 32];
    vm.memory.read(Gpa::try_new(at)?, &mut bytes).then_some(())?;
    let mut pointers = [0; 4];
    for (pointer, entry) in pointers.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *pointer = u64::from_le_bytes(*entry);
    }
    Some(pointers)
}
