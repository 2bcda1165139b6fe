//! Exits of a guest under a shadow that one under an EPT does not have: its page faults, INVLPG (INVPCID: `invpcid.rs`), all writes to the registers that decide
//! over its paging. Where a processor drops translations (SDM vol. 3A 4.10.4.1), the shadow is brought up to what the guest's tables say.

use super::{Flow, ept, misc};
use crate::plat::Vm;
use crate::vcpu::Vcpu;
use addr::{Gpa, PAGE_SIZE};
use devices::GeneralProtection;
use emulate::GuestMemory;
use mm::Access;
use mmu::{Drops, FaultOutcome, LinearAccess, LinearFault, PageFault};
use vmxdefs::event::Event;
use vmxdefs::exit::{CrAccess, EptViolation};
use vmxdefs::field::Field;
use vmxdefs::msr::{EFER, PAT, is_legal_pat};
use vmxdefs::registers::Refused;

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
    let mut access = LinearAccess {
        write: has(PageFault::WRITE),
        fetch: has(PageFault::FETCH),
        user,
        passes_smap: explicit && passes_smap(vcpu),
    };
    // So is one that only SMAP can have stopped.
    if access.passes_smap && !user && has(PageFault::PRESENT) && !access.fetch {
        access.passes_smap = !vm.memory.mmu().is_implicit(vcpu.processor(), linear, access.write);
    }
    let outcome = vm.memory.fault_linear(vcpu.processor(), &vcpu.guest_paging(), linear, access);
    match outcome {
        Ok(LinearFault::Mapped) => {
            block_nmis_again(vcpu);
            vcpu.counters.exits.page_fault += 1;
            vm.note_fault();
            Flow::Again
        }
        Ok(LinearFault::Guest(PageFault { code })) => raise(vcpu, linear, code),
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

/// Whether RFLAGS.AC lets the supervisor past SMAP.
fn passes_smap(vcpu: &Vcpu) -> bool {
    vcpu.vmcs.read(Field::GuestRflags) & RFLAGS_AC != 0
}

/// A page fault that is the guest's.
fn raise(vcpu: &mut Vcpu, linear: u64, code: u32) -> Flow {
    vcpu.counters.exits.guest_fault += 1;
    vcpu.registers.cr2 = linear;
    if vcpu.raise_page_fault(code) { Flow::Resume } else { misc::triple_fault(vcpu) }
}

/// Reads bytes for an instruction of the supervisor's. Those behind the last one of 32 bits are the first ones, outside 64-bit
/// code (SDM vol. 1 3.3.7).
///
/// # Errors
/// What comes instead.
pub(super) fn read(vcpu: &mut Vcpu, vm: &Vm, linear: u64, bytes: &mut [u8]) -> Result<(), Flow> {
    let access = LinearAccess { write: false, fetch: false, user: false, passes_smap: passes_smap(vcpu) };
    let last = if vcpu.runs_64_bit_code() { u64::MAX } else { u32::MAX.into() };
    let mut done = 0;
    while done < bytes.len() {
        let linear = linear.wrapping_add(done as u64) & last;
        let left = (PAGE_SIZE - linear % PAGE_SIZE) as usize;
        let end = bytes.len().min(done + left);
        let way = vm.memory.walk_linear(&vcpu.guest_paging(), linear, access);
        let gpa = match way.map_err(|error| ept::failed(vcpu, vm, error))? {
            Ok(gpa) => gpa,
            Err(PageFault { code }) => return Err(raise(vcpu, linear, code)),
        };
        let part = &mut bytes[done..end];
        if !vm.memory.read(gpa, part) {
            // The fault says why.
            match vm.memory.fault(gpa, Access::Read) {
                Ok(FaultOutcome::NotRam) => part.fill(0xff),
                // It is there by now: once more, from the instruction on.
                Ok(FaultOutcome::Mapped) => return Err(Flow::Resume),
                Err(error) => return Err(ept::failed(vcpu, vm, error)),
            }
        }
        done = end;
    }
    Ok(())
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

/// An access to CR0, CR3 or CR4; `None`: it is no matter of a shadow.
pub(super) fn control_register(vcpu: &mut Vcpu, vm: &Vm, access: CrAccess) -> Option<Flow> {
    vcpu.is_shadowed().then_some(())?;
    match access {
        CrAccess::Read { cr: 3, register } => {
            let value = vcpu.guest_registers().cr3;
            vcpu.set_general(usize::from(register), value);
            Some(misc::skip(vcpu))
        }
        CrAccess::Write { cr: cr @ (0 | 3 | 4), register } => {
            let value = vcpu.general(usize::from(register));
            // Outside 64-bit mode the operand has 32 bits, whatever was left above.
            let value = if vcpu.runs_64_bit_code() { value } else { value & 0xffff_ffff };
            Some(match set_control(vcpu, vm, cr, value) {
                Ok(()) => misc::skip(vcpu),
                Err(Refused) => misc::refuse(vcpu, Event::GENERAL_PROTECTION),
            })
        }
        CrAccess::Write { .. } | CrAccess::Read { .. } | CrAccess::Clts | CrAccess::Lmsw(_) => None,
    }
}

/// The guest writes CR0, CR3 or CR4.
pub(super) fn set_control(vcpu: &mut Vcpu, vm: &Vm, cr: u8, value: u64) -> Result<(), Refused> {
    let (mut registers, circumstances) = (vcpu.guest_registers(), vcpu.circumstances());
    let load = |at| load_pointers(vm, at);
    let drops = if registers.keeps_translations(value) { Drops::Nothing } else { Drops::Pcid };
    match cr {
        0 => registers.write_cr0(value, &circumstances, load),
        3 => registers.write_cr3(value, &circumstances, load),
        _ => registers.write_cr4(value, &circumstances, load),
    }?;
    match cr {
        3 => vcpu.load_cr3(registers, drops),
        _ => vcpu.load_shadow(registers),
    }
    Ok(())
}

/// The guest writes an MSR that it does not have the processor's of; `None`: it is another one.
pub(super) fn set_msr(vcpu: &mut Vcpu, msr: u32, value: u64) -> Option<Result<(), GeneralProtection>> {
    vcpu.is_shadowed().then_some(())?;
    Some(match msr {
        EFER => {
            let mut registers = vcpu.guest_registers();
            let done = registers.write_efer(value).map_err(|Refused| GeneralProtection);
            done.map(|()| vcpu.load_shadow(registers))
        }
        PAT if is_legal_pat(value) => {
            vcpu.set_guest_pat(value);
            Ok(())
        }
        PAT => Err(GeneralProtection),
        _ => return None,
    })
}

/// What it reads of the same.
pub(super) fn msr(vcpu: &Vcpu, msr: u32) -> Option<u64> {
    match msr {
        _ if !vcpu.is_shadowed() => None,
        EFER => Some(vcpu.guest_registers().efer),
        PAT => Some(vcpu.guest_pat()),
        _ => None,
    }
}

/// PAE's four pointers, from the guest's memory.
pub(super) fn load_pointers(vm: &Vm, at: u64) -> Option<[u64; 4]> {
    let mut bytes = [0; 32];
    vm.memory.read(Gpa::try_new(at)?, &mut bytes).then_some(())?;
    let mut pointers = [0; 4];
    for (pointer, entry) in pointers.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *pointer = u64::from_le_bytes(*entry);
    }
    Some(pointers)
}
