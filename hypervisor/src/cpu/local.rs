//! Which CPU runs: GS leads to its number. Threads wander between CPUs, so the answer holds only until the next switch.

use core::arch::asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering};
use x86::msr::{IA32_GS_BASE, wrmsr};

/// CPUs that Herald can use.
pub(crate) const MAX_CPUS: usize = sync::MAX_CPUS;

/// A CPU's own data.
#[repr(C)]
pub(crate) struct Local {
    index: usize,
}

/// The CPU that firmware has started.
static BOOT: Local = Local { index: 0 };
/// Ids of local APICs, by CPU.
static APIC_IDS: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];

impl Local {
    /// Data of CPU `index`.
    #[must_use]
    pub(crate) const fn new(index: usize) -> Self {
        Self { index }
    }

    /// Lets GS lead here, on the CPU that runs.
    pub(crate) fn install(&'static self) {
        // SAFETY: Herald uses GS for nothing else.
        unsafe { wrmsr(IA32_GS_BASE, &raw const *self as u64) };
    }
}

/// Makes the CPU that runs CPU 0.
pub(crate) fn init_boot_cpu() {
    BOOT.install();
}

/// The index of the CPU that runs, dense from 0.
#[inline]
#[must_use]
pub(crate) fn index() -> usize {
    let index;
    // SAFETY: GS leads to a `Local` from the first instructions on; loads from it have no effect.
    unsafe {
        asm!("mov {}, gs:[{offset}]", out(reg) index, offset = const offset_of!(Local, index),
             options(nostack, readonly));
    }
    index
}

/// Tells the id of this CPU's local APIC: from now on others can interrupt it.
pub(crate) fn announce(apic_id: u32) {
    APIC_IDS[index()].store(apic_id, Ordering::Release);
}

/// The id of a CPU's local APIC.
#[must_use]
pub(crate) fn apic_id(cpu: usize) -> u32 {
    APIC_IDS[cpu].load(Ordering::Acquire)
}
