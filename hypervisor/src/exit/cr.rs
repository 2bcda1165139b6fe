//! Control registers. Herald owns CR0.NE and CR4.VMXE (SDM vol. 3C 26.1.3): a guest's MOV exits only if it
//! wants one of them changed. CR8 is the local APIC's task priority.
//!
//! A MOV that the processor would flush for (SDM vol. 3A 4.10.4.1) is followed by INVVPID: an entry with a VPID
//! flushes nothing. More than needed is flushed; these exits are rare.

use super::{Flow, misc, shadow};
use crate::plat::Vm;
use crate::vcpu::Vcpu;
use vmxdefs::controls::EntryControls;
use vmxdefs::event::Event;
use vmxdefs::exit::CrAccess;
use vmxdefs::field::Field;
use vmxdefs::registers::are_legal_pointers;

const CR0_PE: u64 = 1 << 0;
const CR0_PG: u64 = 1 << 31;
const CR0_CD: u64 = 1 << 30;
const CR0_NW: u64 = 1 << 29;
const CR4_PAE: u64 = 1 << 5;
const CR4_PCIDE: u64 = 1 << 17;
/// L of a code segment, in the format of access rights (SDM vol. 3C 25.4.1).
const SEGMENT_LONG: u64 = 1 << 13;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

pub(super) fn handle(vcpu: &mut Vcpu, vm: &Vm, access: CrAccess) -> Flow {
    if let Some(flow) = shadow::control_register(vcpu, vm, access) {
        return flow;
    }
    let done = match access {
        CrAccess::Write { cr: 0, register } => {
            let value = vcpu.general(usize::from(register));
            write_cr0(vcpu, vm, value)
        }
        CrAccess::Write { cr: 8, register } => {
            let value = vcpu.general(usize::from(register));
            let legal = value <= 15;
            if legal {
                vm.with_board(vcpu.id, |board| board.set_tpr(vcpu.id, value as u8));
            }
            legal
        }
        CrAccess::Read { cr: 8, register } => {
            let value = vm.with_board(vcpu.id, |board| board.tpr(vcpu.id));
            vcpu.set_general(usize::from(register), u64::from(value));
            true
        }
        CrAccess::Write { cr: 3, register } => {
            let value = vcpu.general(usize::from(register));
            vcpu.vmcs.write(Field::GuestCr3, value & !(1u64 << 63));
            vcpu.flush_linear();
            true
        }
        CrAccess::Read { cr: 3, register } => {
            let value = vcpu.vmcs.read(Field::GuestCr3);
            vcpu.set_general(usize::from(register), value);
            true
        }
        // CR4 only with VMXE set, which is reserved: the guest has no VMX.
        CrAccess::Write { .. } | CrAccess::Read { .. } | CrAccess::Clts | CrAccess::Lmsw(_) => false,
    };
    if done { misc::skip(vcpu) } else { misc::refuse(vcpu, Event::GENERAL_PROTECTION) }
}

/// MOV to CR0 with another NE: all that the processor does besides (SDM vol. 2B MOV—control registers).
fn write_cr0(vcpu: &mut Vcpu, vm: &Vm, value: u64) -> bool {
    let illegal = value >> 32 != 0
        || (value & CR0_PG != 0 && value & CR0_PE == 0)
        || (value & CR0_NW != 0 && value & CR0_CD == 0);
    if illegal {
        return false;
    }
    let old = vcpu.vmcs.read(Field::GuestCr0);
    let paging_starts = value & CR0_PG != 0 && old & CR0_PG == 0;
    let paging_ends = value & CR0_PG == 0 && old & CR0_PG != 0;
    if (paging_starts || paging_ends) && !may_change_paging(vcpu, paging_ends) {
        return false;
    }
    if paging_starts && !start_paging(vcpu, vm) {
        return false;
    }
    if paging_ends {
        set_long_mode(vcpu, false);
    }
    let ones = vcpu.vmcs.capabilities().cr0.ones & !(CR0_PE | CR0_PG);
    vcpu.vmcs.write(Field::GuestCr0, value | ones);
    vcpu.vmcs.write(Field::Cr0Shadow, value);
    vcpu.flush_linear();
    true
}

/// Not from 64-bit code, into it from a code segment that would become 64-bit, or out of it with CR4.PCIDE set.
fn may_change_paging(vcpu: &Vcpu, ends: bool) -> bool {
    let long = vcpu.vmcs.read(Field::GuestEfer) & EFER_LME != 0;
    let code = vcpu.vmcs.read(Field::GuestCsRights);
    let contexts = vcpu.vmcs.read(Field::GuestCr4) & CR4_PCIDE != 0;
    !(long && code & SEGMENT_LONG != 0 || ends && contexts)
}

/// CR0.PG goes to 1: long mode if EFER.LME, else PAE's four pointers are loaded.
fn start_paging(vcpu: &mut Vcpu, vm: &Vm) -> bool {
    let pae = vcpu.vmcs.read(Field::GuestCr4) & CR4_PAE != 0;
    if vcpu.vmcs.read(Field::GuestEfer) & EFER_LME != 0 {
        set_long_mode(vcpu, pae);
        return pae;
    }
    !pae || load_pdptes(vcpu, vm)
}

fn set_long_mode(vcpu: &mut Vcpu, on: bool) {
    let bit = u64::from(EntryControls::IA32E_GUEST.bits());
    let (efer, entry) = (vcpu.vmcs.read(Field::GuestEfer), vcpu.vmcs.read(Field::EntryControls));
    vcpu.vmcs.write(Field::GuestEfer, if on { efer | EFER_LMA } else { efer & !EFER_LMA });
    vcpu.vmcs.write(Field::EntryControls, if on { entry | bit } else { entry & !bit });
}

/// With EPT the processor takes PAE's pointers from the VMCS (SDM vol. 3C 27.3.2.4), and is not entered with what it would not load.
fn load_pdptes(vcpu: &mut Vcpu, vm: &Vm) -> bool {
    let table = vcpu.vmcs.read(Field::GuestCr3) & 0xffff_ffe0;
    let legal = |pointers: &[u64; 4]| are_legal_pointers(pointers, vcpu.circumstances().physical_bits);
    let Some(pointers) = shadow::load_pointers(vm, table).filter(legal) else { return false };
    let fields = [Field::GuestPdpte0, Field::GuestPdpte1, Field::GuestPdpte2, Field::GuestPdpte3];
    fields.into_iter().zip(pointers).for_each(|(field, pointer)| vcpu.vmcs.write(field, pointer));
    true
}
