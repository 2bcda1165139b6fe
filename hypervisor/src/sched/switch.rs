//! From one stack to another.

use core::arch::naked_asm;

/// Saves the callee-saved registers and the stack pointer of the thread that runs, and goes on where another one has
/// saved its own.
///
/// # Safety
/// `next` is what an earlier call has stored through `saved`, or what [`prepare`] has returned, and is used once; its
/// stack is nobody else's. Interrupts are off, and no lock is held.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn switch(saved: *mut u64, next: u64) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi], rsp",
        "mov rsp, rsi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
    )
}

/// Lays out a new stack so that [`switch`] enters `entry` on it; what to switch to.
///
/// # Safety
/// `top` is the end of a mapped stack that nobody uses; `entry` never returns.
pub(super) unsafe fn prepare(top: u64, entry: extern "sysv64" fn() -> !) -> u64 {
    // As at a function's entry: the return address is at 8 modulo 16. RBP is 0, the end of every back-trace.
    let words: [u64; 8] = [0, 0, 0, 0, 0, 0, entry as *const () as u64, 0];
    let start = top - size_of_val(&words) as u64;
    // SAFETY: the caller's promise.
    unsafe { (start as *mut [u64; 8]).write(words) };
    start
}
