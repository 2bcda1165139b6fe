//! This CPU: descriptor tables, traps, timers, the serial line, translations of its own.

pub(crate) mod descriptors;
pub(crate) mod flush;
pub(crate) mod fpu;
pub(crate) mod interrupts;
pub(crate) mod local;
pub(crate) mod pages;
pub(crate) mod registers;
pub(crate) mod screen;
pub(crate) mod serial;
pub(crate) mod smp;
pub(crate) mod space;
pub(crate) mod stacks;
pub(crate) mod timer;
pub(crate) mod traps;
pub(crate) mod uaccess;

use core::arch::asm;
use raw_cpuid::CpuId;
use x86::controlregs::{Cr0, Cr4, cr0, cr0_write, cr4, cr4_write};

pub(crate) use interrupts::take_interrupts;
pub(crate) use local::index;

/// The time-stamp counter.
#[inline]
#[must_use]
pub(crate) fn tsc() -> u64 {
    // SAFETY: every processor with long mode has RDTSC, and CPL 0 may always use it.
    unsafe { x86::time::rdtsc() }
}

/// Makes another CPU look up: it leaves its guest, or its wait.
pub(crate) fn kick(cpu: usize) {
    timer::send(local::apic_id(cpu), timer::Message::Vector(interrupts::KICK));
}

/// Switches on what Herald relies on: write protection at CPL 0, caches, global pages, SMEP and XSAVE where
/// there are.
pub(crate) fn enable_features() {
    let cpuid = CpuId::new();
    // SAFETY: reading CR4 has no effect.
    let mut wanted = unsafe { cr4() } | Cr4::CR4_ENABLE_GLOBAL_PAGES;
    if cpuid.get_extended_feature_info().is_some_and(|features| features.has_smep()) {
        wanted |= Cr4::CR4_ENABLE_SMEP;
    }
    if cpuid.get_feature_info().is_some_and(|features| features.has_xsave()) {
        wanted |= Cr4::CR4_ENABLE_OS_XSAVE;
    }
    // SAFETY: CPUID has said that each bit exists; none changes what is mapped. WP makes Herald's own
    // read-only pages read-only for Herald.
    unsafe {
        cr4_write(wanted);
        // Some firmware leaves caches off, and VM entry does not load CD and NW: guests would have them off, too
        // (SDM vol. 3C 27.3.2.1).
        let uncached = Cr0::CR0_CACHE_DISABLE | Cr0::CR0_NOT_WRITE_THROUGH;
        cr0_write(cr0().difference(uncached) | Cr0::CR0_WRITE_PROTECT);
    }
}

/// Whether page tables may have 1 GiB leaves (SDM vol. 3A 4.1.4).
#[must_use]
pub(crate) fn has_gigantic_pages() -> bool {
    let features = CpuId::new().get_extended_processor_and_feature_identifiers();
    features.is_some_and(|features| features.has_1gib_pages())
}

/// Stops this processor, which nobody counts on.
pub(crate) fn halt() -> ! {
    loop {
        // SAFETY: nothing is to be done here any more.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// The value of RBP: the start of a back-trace.
#[inline(always)]
#[must_use]
pub(crate) fn frame_pointer() -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rbp", out(reg) value, options(nomem, nostack)) };
    value
}

/// The linear address of the last page fault. A guest has one, too, and the VMCS does not hold it.
#[must_use]
pub(crate) fn fault_address() -> u64 {
    // SAFETY: reading CR2 has no effect.
    unsafe { x86::controlregs::cr2() as u64 }
}

/// Sets the linear address of the last page fault, for the guest that is about to be entered.
pub(crate) fn set_fault_address(address: u64) {
    // SAFETY: nothing of Herald's reads CR2 before the next fault sets it.
    unsafe { x86::controlregs::cr2_write(address) };
}
