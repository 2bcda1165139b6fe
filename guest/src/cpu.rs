//! Instructions that have no name in Rust. The test guest runs at CPL 0 on one CPU with all RAM
//! identity-mapped, which is what makes most of them safe.

use core::arch::asm;

/// `IA32_APIC_BASE` (SDM 3, 11.4.4).
pub const APIC_BASE: u32 = 0x1b;
/// `IA32_TSC_DEADLINE` (SDM 3, 11.5.4.1).
pub const TSC_DEADLINE: u32 = 0x6e0;
/// `IA32_EFER` (SDM 3, 2.2.1).
pub const EFER: u32 = 0xc000_0080;

/// The time-stamp counter, in its own ticks.
#[must_use]
pub fn rdtsc() -> u64 {
    // SAFETY: reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Whoever watches an emulated machine from outside can stop here (`cargo xtask bench --counts`). Nothing else happens.
pub fn stand_still() {
    // SAFETY: a register is exchanged with itself.
    unsafe { asm!("xchg bx, bx", options(nostack, preserves_flags)) };
}

/// Nothing, and not the pause of a loop that waits, which a hypervisor may take for a chance.
pub fn do_nothing() {
    // SAFETY: there is nothing to it.
    unsafe { asm!("nop", options(nomem, nostack, preserves_flags)) };
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

/// CR0.
#[must_use]
pub fn cr0() -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr0", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Sets CR0.
///
/// # Safety
/// Paging and protection stay on.
pub unsafe fn set_cr0(value: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("mov cr0, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// CR3.
#[must_use]
pub fn cr3() -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Sets CR3, which drops all translations.
///
/// # Safety
/// The tables there map what the program uses, one to one.
pub unsafe fn set_cr3(value: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("mov cr3, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// CR4.
#[must_use]
pub fn cr4() -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr4", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Sets CR4.
///
/// # Safety
/// The processor has what is set, and the program can go on with it.
pub unsafe fn set_cr4(value: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("mov cr4, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// Drops what is cached of a linear address, and of all tables above page tables.
pub fn invalidate(linear: u64) {
    // SAFETY: translations are only read anew.
    unsafe { asm!("invlpg [{}]", in(reg) linear, options(nostack, preserves_flags)) };
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
