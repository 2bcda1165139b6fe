//! Hypercalls into Herald: VMCALL (SDM 3, 26.1.2: exits at any privilege level in VMX non-root operation,
//! #UD elsewhere), so each call first asks CPUID whether Herald is there.

use abi::hypercall::{
    CPUID_LEAF, DISCARD, HOST_OPERATION, HostOperation, MARK_INIT, PROTECT, SIGNATURE, STORM,
};
use core::arch::asm;
use core::arch::x86_64::__cpuid;

/// What the leaf says. On a CPU without such a leaf CPUID answers something else.
pub(crate) fn signature() -> [u8; 12] {
    let leaf = __cpuid(CPUID_LEAF);
    let mut found = [0u8; 12];
    found[..4].copy_from_slice(&leaf.ebx.to_le_bytes());
    found[4..8].copy_from_slice(&leaf.ecx.to_le_bytes());
    found[8..].copy_from_slice(&leaf.edx.to_le_bytes());
    found
}

/// Whether Herald runs this machine.
#[must_use]
pub fn present() -> bool {
    signature() == SIGNATURE
}

/// Tells Herald that /init has started; nothing where Herald is not. Any privilege level.
pub fn mark_init() {
    if present() {
        // SAFETY: Herald is there; this call touches no memory.
        let _ = unsafe { call(MARK_INIT, 0, 0) };
    }
}

/// Asks the host to drop the guest-physical range: it reads zero afterwards. Returns the call's RAX.
///
/// # Safety
/// Herald is [`present`], the caller runs at CPL 0, and nothing that Rust relies on lies in the range.
#[must_use]
pub unsafe fn discard(gpa: u64, len: u64) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { call(DISCARD, gpa, len) }
}

/// Asks the host to mprotect(NONE) the guest-physical range and back. Returns the call's RAX.
///
/// # Safety
/// Herald is [`present`] and the caller runs at CPL 0.
#[must_use]
pub unsafe fn protect(gpa: u64, len: u64) -> u64 {
    // SAFETY: the caller's promise; the call keeps all data.
    unsafe { call(PROTECT, gpa, len) }
}

/// Lets a storm of host operations drop the guest-physical range at any time; nothing where `len` is 0. Returns how many
/// operations the storm has done.
///
/// # Safety
/// Herald is [`present`], the caller runs at CPL 0, and nothing that Rust relies on lies in the range.
#[must_use]
pub unsafe fn storm(gpa: u64, len: u64) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { call(STORM, gpa, len) }
}

/// Asks the host for an operation on the guest-physical range. Returns the call's RAX.
///
/// # Safety
/// Herald is [`present`], the caller runs at CPL 0, and nothing that Rust relies on lies in the range where the
/// operation does not keep data.
#[must_use]
pub unsafe fn host_operation(operation: HostOperation, gpa: u64, len: u64) -> u64 {
    let result;
    // SAFETY: the caller's promise; RBX belongs to the compiler and is swapped around the call.
    unsafe {
        asm!(
            "xchg {gpa}, rbx",
            "vmcall",
            "xchg {gpa}, rbx",
            gpa = inout(reg) gpa => _,
            inout("rax") HOST_OPERATION => result,
            in("rcx") len,
            in("rdx") operation as u64,
            options(nostack),
        );
    }
    result
}

/// Makes the hypercall `number`. RBX belongs to the compiler: it is swapped around the call.
///
/// # Safety
/// Herald is [`present`], and what the call does to memory leaves Rust's objects alone.
#[must_use]
pub unsafe fn call(number: u64, first: u64, second: u64) -> u64 {
    let result;
    // SAFETY: the ABI of `abi::hypercall`; other registers are kept.
    unsafe {
        asm!(
            "xchg {first}, rbx",
            "vmcall",
            "xchg {first}, rbx",
            first = inout(reg) first => _,
            inout("rax") number => result,
            in("rcx") second,
            options(nostack),
        );
    }
    result
}
