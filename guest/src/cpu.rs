//! Instructions that have no name in Rust. The test guest runs at CPL 0 on one CPU with all RAM
//! identity-mapped, which is what makes most of them safe.

use core::arch::asm;

/// `IA32_APIC_BASE` (SDM 3, 11.4.4).
pub const APIC_BASE: u32 = 0x1b;
/// `IA32_TSC_DEADLINE` (SDM 3, 11.5.4.1).
pub const TSC_DEADLINE: u32 = 0x6e0;

/// The time-stamp counter, in its own ticks.
#[must_use]
pub fn rdtsc() -> u64 {
    // SAFETY: reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Reads a model-specific register. One that does not exist ends the test (#GP).
#[must_use]
pub fn rdmsr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading has no effect on memory.
    unsafe {
        asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high,
             options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register.
///
/// # Safety
/// The new value must not take away what running Rust code needs: EFER and the segment bases stay as they are.
pub unsafe fn wrmsr(register: u32, value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32,
             options(nostack, preserves_flags));
    }
}

/// Lets interrupts in.
pub fn enable_interrupts() {
    // SAFETY: `trap::install` ran first (main does), so that each vector has a handler.
    unsafe { asm!("sti", options(nostack)) };
}

/// Keeps interrupts out.
pub fn disable_interrupts() {
    // SAFETY: no memory is touched.
    unsafe { asm!("cli", options(nostack)) };
}

/// Sleeps until an interrupt has been handled; interrupts are off before and after. STI keeps
/// interrupts out until the instruction after it has begun (SDM 2, STI), so that none is missed.
pub fn wait_for_interrupt() {
    // SAFETY: as for `enable_interrupts`.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
}

/// Sleeps for ever: nothing wakes a CPU that halts with interrupts off, but an NMI.
pub fn halt_for_good() -> ! {
    loop {
        // SAFETY: no memory is touched.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// The address whose access raised the last page fault.
#[must_use]
pub fn cr2() -> u64 {
    let address;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr2", out(reg) address, options(nomem, nostack, preserves_flags)) };
    address
}

/// The upper half of the task priority, 0 to 15.
#[must_use]
pub fn cr8() -> u64 {
    let priority;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr8", out(reg) priority, options(nomem, nostack, preserves_flags)) };
    priority
}

/// Sets the upper half of the task priority.
pub fn set_cr8(priority: u64) {
    // SAFETY: interrupts are held back, or let in, and each finds its handler.
    unsafe { asm!("mov cr8, {}", in(reg) priority, options(nostack, preserves_flags)) };
}
