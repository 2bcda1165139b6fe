//! Where the loader jumps to: long mode, interrupts off, RDI the hand-off's address.

use core::arch::naked_asm;

/// Takes Herald's own stack.
///
/// # Safety
/// Only the loader comes here, once.
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn _start() -> ! {
    naked_asm!(
        "cli",
        "cld",
        "lea rsp, [{stack} + {top}]",
        "xor ebp, ebp", // the end of every back-trace
        "call {start}",
        "ud2",
        stack = sym crate::cpu::descriptors::BOOT_STACK,
        top = const crate::cpu::descriptors::GUARD_BYTES + crate::cpu::descriptors::STACK_BYTES,
        start = sym super::start,
    )
}
