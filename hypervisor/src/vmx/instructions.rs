//! VMX instructions of our own, each with its flags read in the same asm block (SDM vol. 3C 31.2: VMfailInvalid sets
//! CF, VMfailValid sets ZF and leaves a number in the VMCS).

use core::arch::{asm, naked_asm};
use core::fmt;

/// How a VMX instruction failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum VmFail {
    /// There is no current VMCS.
    Invalid,
    /// The VM-instruction error field says why.
    Valid(u32),
}

impl fmt::Display for VmFail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid => f.write_str("VMfailInvalid: no current VMCS"),
            Self::Valid(number) => write!(f, "VM-instruction error {number}"),
        }
    }
}

/// VMCS field 0x4400: VM-instruction error.
const INSTRUCTION_ERROR: u32 = 0x4400;

/// CF and ZF after an instruction.
fn outcome(below: u8, equal: u8) -> Result<(), VmFail> {
    if below != 0 {
        return Err(VmFail::Invalid);
    }
    if equal != 0 {
        let number = vmread(INSTRUCTION_ERROR).unwrap_or(0);
        return Err(VmFail::Valid(number as u32));
    }
    Ok(())
}

/// Enters VMX operation.
///
/// # Safety
/// `region` is the physical address of a 4 KiB frame that nothing else uses, with the revision identifier in
/// it; CR0 and CR4 satisfy the fixed bits, and CR4.VMXE is set.
///
/// # Errors
/// [`VmFail`].
pub(super) unsafe fn vmxon(region: u64) -> Result<(), VmFail> {
    let (below, equal): (u8, u8);
    // SAFETY: the caller's promise; the instruction writes only the region.
    unsafe {
        asm!("vmxon [{}]", "setb {}", "setz {}", in(reg) &raw const region, out(reg_byte) below,
             out(reg_byte) equal);
    }
    // No VMCS is current yet: VMfailValid cannot tell more.
    if below != 0 || equal != 0 { Err(VmFail::Invalid) } else { Ok(()) }
}

/// Flushes a VMCS to memory and makes it inactive.
///
/// # Safety
/// `region` is the physical address of a VMCS frame that nothing else uses.
///
/// # Errors
/// [`VmFail`].
pub(super) unsafe fn vmclear(region: u64) -> Result<(), VmFail> {
    let (below, equal): (u8, u8);
    // SAFETY: the caller's promise.
    unsafe {
        asm!("vmclear [{}]", "setb {}", "setz {}", in(reg) &raw const region, out(reg_byte) below,
             out(reg_byte) equal);
    }
    outcome(below, equal)
}

/// Makes a VMCS current on this CPU.
///
/// # Safety
/// `region` is the physical address of a VMCS frame with the revision identifier in it, active on no other CPU.
///
/// # Errors
/// [`VmFail`].
pub(super) unsafe fn vmptrld(region: u64) -> Result<(), VmFail> {
    let (below, equal): (u8, u8);
    // SAFETY: the caller's promise.
    unsafe {
        asm!("vmptrld [{}]", "setb {}", "setz {}", in(reg) &raw const region, out(reg_byte) below,
             out(reg_byte) equal);
    }
    outcome(below, equal)
}

/// Reads a field of the current VMCS, which is there and has it.
#[inline(always)]
pub(super) fn vmread_present(field: u32) -> u64 {
    let value: u64;
    // SAFETY: as in `vmread`; a failure goes to a function that does not come back, with the stack aligned.
    unsafe {
        asm!("vmread {value}, rdi", "jbe {absent}", in("rdi") u64::from(field), value = lateout(reg) value,
             absent = sym absent, options(readonly));
    }
    value
}

/// Where [`vmread_present`] goes where there is no such field: its number is in RDI.
///
/// # Safety
/// Only that jumps here.
#[unsafe(naked)]
unsafe extern "sysv64" fn absent() {
    naked_asm!("call {panics}", panics = sym no_field)
}

extern "sysv64" fn no_field(field: u64) -> ! {
    panic!("VMREAD of field {field:#x} failed: {}", access_failure());
}

/// Reads a field of the current VMCS.
///
/// # Errors
/// [`VmFail`]: no current VMCS, or no such field.
pub(super) fn vmread(field: u32) -> Result<u64, VmFail> {
    let value: u64;
    let failed: u8;
    // SAFETY: reads the current VMCS, whatever it is; no memory is touched.
    unsafe {
        asm!("vmread {}, {}", "setbe {}", out(reg) value, in(reg) u64::from(field),
             out(reg_byte) failed, options(nomem, nostack));
    }
    if failed == 0 { Ok(value) } else { Err(access_failure()) }
}

/// Why VMREAD or VMWRITE has failed: where there is a current VMCS, it has no such field.
#[cold]
fn access_failure() -> VmFail {
    let below: u8;
    // SAFETY: as in `vmread`; no VMCS is without its error field.
    unsafe {
        asm!("vmread {}, {}", "setb {}", out(reg) _, in(reg) u64::from(INSTRUCTION_ERROR),
             out(reg_byte) below, options(nomem, nostack));
    }
    if below == 0 { VmFail::Valid(12) } else { VmFail::Invalid }
}

/// Writes a field of the current VMCS.
///
/// # Safety
/// The value is one that the next entry or exit may use: host state in particular must lead back to Herald.
///
/// # Errors
/// [`VmFail`]: no current VMCS, or no such field.
pub(super) unsafe fn vmwrite(field: u32, value: u64) -> Result<(), VmFail> {
    let failed: u8;
    // SAFETY: the caller's promise; no memory but the VMCS is touched.
    unsafe {
        asm!("vmwrite {}, {}", "setbe {}", in(reg) u64::from(field), in(reg) value,
             out(reg_byte) failed, options(nostack));
    }
    if failed == 0 { Ok(()) } else { Err(access_failure()) }
}

/// The operand of INVEPT and INVVPID (SDM vol. 3C 31.3).
#[repr(C)]
struct Descriptor {
    tag: u64,
    address: u64,
}

/// Type of INVEPT and of INVVPID: one context.
const SINGLE_CONTEXT: u64 = 1;

/// INVEPT, single-context: drops guest-physical and combined translations derived from this EPT pointer.
///
/// # Errors
/// [`VmFail`]: the processor has no such INVEPT.
pub(super) fn invept_single(ept_pointer: u64) -> Result<(), VmFail> {
    let descriptor = Descriptor { tag: ept_pointer, address: 0 };
    let (below, equal): (u8, u8);
    // SAFETY: dropping cached translations changes no meaning; the descriptor is only read.
    unsafe {
        asm!("invept {}, [{}]", "setb {}", "setz {}", in(reg) SINGLE_CONTEXT, in(reg) &raw const descriptor,
             out(reg_byte) below, out(reg_byte) equal, options(nostack));
    }
    outcome(below, equal)
}

/// INVVPID, single-context: drops linear and combined translations tagged with this VPID.
///
/// # Errors
/// [`VmFail`]: the processor has no such INVVPID.
pub(super) fn invvpid_single(vpid: u16) -> Result<(), VmFail> {
    let descriptor = Descriptor { tag: u64::from(vpid), address: 0 };
    let (below, equal): (u8, u8);
    // SAFETY: as for INVEPT.
    unsafe {
        asm!("invvpid {}, [{}]", "setb {}", "setz {}", in(reg) SINGLE_CONTEXT, in(reg) &raw const descriptor,
             out(reg_byte) below, out(reg_byte) equal, options(nostack));
    }
    outcome(below, equal)
}
