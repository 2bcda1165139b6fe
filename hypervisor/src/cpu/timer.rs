//! The local APIC: its timer wakes Herald at a device's deadline. In x2APIC mode if firmware has left it so,
//! else through its registers in memory (SDM vol. 3A 11.4, 11.12).

use super::interrupts::{self, SPURIOUS, TIMER};
use super::tsc;
use crate::layout;
use addr::{Hpa, Hva};
use core::sync::atomic::{AtomicU64, Ordering};
use x86::msr::{IA32_APIC_BASE, rdmsr, wrmsr};

const X2APIC: u64 = 1 << 10;
const ENABLED: u64 = 1 << 11;
/// First x2APIC MSR: register at offset n of the page is MSR 0x800 + n / 16.
const X2APIC_MSRS: u32 = 0x800;

const EOI: u32 = 0xb0;
const SPURIOUS_VECTOR: u32 = 0xf0;
const LVT_TIMER: u32 = 0x320;
const LVT_LINT0: u32 = 0x350;
const LVT_ERROR: u32 = 0x370;
const INITIAL_COUNT: u32 = 0x380;
const CURRENT_COUNT: u32 = 0x390;
const DIVIDE: u32 = 0x3e0;
/// Divide by 1.
const BY_1: u32 = 0b1011;
const MASKED: u32 = 1 << 16;
/// Delivery mode ExtINT.
const EXT_INT: u32 = 7 << 8;
const SOFTWARE_ENABLE: u32 = 1 << 8;

/// TSC ticks over which the timer is measured.
const MEASURED: u64 = 20_000;

/// Timer counts in 2^32 TSC ticks.
static RATE: AtomicU64 = AtomicU64::new(0);

fn in_x2apic_mode() -> bool {
    // SAFETY: every processor with VMX has a local APIC and this MSR.
    unsafe { rdmsr(IA32_APIC_BASE) & X2APIC != 0 }
}

fn register(offset: u32) -> *mut u32 {
    layout::DEVICES.add(base().as_u64()).add(u64::from(offset)).as_u64() as *mut u32
}

/// Where the registers lie in memory.
#[must_use]
pub(crate) fn base() -> Hpa {
    // SAFETY: as above.
    Hpa::new(unsafe { rdmsr(IA32_APIC_BASE) } & 0x000f_ffff_ffff_f000)
}

/// Where they are mapped, not cached.
#[must_use]
pub(crate) fn mapped_at() -> Hva {
    layout::DEVICES.add(base().as_u64())
}

fn read(offset: u32) -> u32 {
    // SAFETY: a local APIC register, by whichever way it is there; `pages` maps it.
    unsafe {
        if in_x2apic_mode() {
            rdmsr(X2APIC_MSRS + offset / 16) as u32
        } else {
            register(offset).read_volatile()
        }
    }
}

fn write(offset: u32, value: u32) {
    // SAFETY: as above; the values written are those of this module.
    unsafe {
        if in_x2apic_mode() {
            wrmsr(X2APIC_MSRS + offset / 16, u64::from(value));
        } else {
            register(offset).write_volatile(value);
        }
    }
}

/// Does what some firmware does: leaves the local APIC in x2APIC mode. [`init`] comes after it (tests).
pub(crate) fn switch_to_x2apic_mode() {
    // SAFETY: this way between the modes is allowed, and before `init` nobody uses the registers in memory.
    unsafe { wrmsr(IA32_APIC_BASE, rdmsr(IA32_APIC_BASE) | ENABLED | X2APIC) };
}

/// Enables the local APIC, lets the PIC through, and measures the timer against the TSC.
pub(crate) fn init() {
    // SAFETY: sets the global enable bit; the mode stays as it is.
    unsafe { wrmsr(IA32_APIC_BASE, rdmsr(IA32_APIC_BASE) | ENABLED) };
    log::info!("local APIC in {} mode", if in_x2apic_mode() { "x2APIC" } else { "xAPIC" });
    write(SPURIOUS_VECTOR, SOFTWARE_ENABLE | u32::from(SPURIOUS));
    write(LVT_LINT0, EXT_INT);
    write(LVT_ERROR, MASKED);
    write(DIVIDE, BY_1);
    write(LVT_TIMER, MASKED | u32::from(TIMER));
    write(INITIAL_COUNT, u32::MAX);
    let start = tsc();
    while tsc() - start < MEASURED {
        core::hint::spin_loop();
    }
    let (counted, ticks) = (u64::from(u32::MAX - read(CURRENT_COUNT)), tsc() - start);
    write(INITIAL_COUNT, 0);
    write(LVT_TIMER, u32::from(TIMER));
    RATE.store(((counted << 32) / ticks).max(1), Ordering::Relaxed);
}

/// Tells the local APIC that its interrupt was handled.
pub(super) fn end_of_interrupt() {
    write(EOI, 0);
}

/// Makes the timer interrupt at TSC `deadline`; `None`: never.
pub(crate) fn arm(deadline: Option<u64>) {
    let count = deadline.map_or(0, |deadline| {
        let left = u128::from(deadline.saturating_sub(tsc()));
        // At least one count, so that a deadline in the past fires; at most what the register holds, after
        // which whoever waits looks again.
        ((left * u128::from(RATE.load(Ordering::Relaxed))) >> 32).clamp(1, u128::from(u32::MAX)) as u32
    });
    write(INITIAL_COUNT, count);
}

/// Waits for an interrupt, of whatever kind, until TSC `deadline`.
pub(crate) fn wait(deadline: Option<u64>) {
    arm(deadline);
    interrupts::wait();
    arm(None);
}
