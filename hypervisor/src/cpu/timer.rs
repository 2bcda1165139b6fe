//! The local APIC: its timer wakes a CPU at a deadline, its messages start and interrupt other CPUs. In x2APIC mode if
//! firmware has left it so, else through its registers in memory (SDM vol. 3A 11.4, 11.12). All CPUs are in one mode, with their
//! registers at one address.

use super::interrupts::{self, SPURIOUS, TIMER};
use super::tsc;
use crate::layout;
use addr::{Hpa, Hva};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use x86::msr::{IA32_APIC_BASE, rdmsr, wrmsr};

const X2APIC: u64 = 1 << 10;
const ENABLED: u64 = 1 << 11;
/// First x2APIC MSR: register at offset n of the page is MSR 0x800 + n / 16.
const X2APIC_MSRS: u32 = 0x800;

const ID: u32 = 0x20;
const EOI: u32 = 0xb0;
const SPURIOUS_VECTOR: u32 = 0xf0;
const ICR: u32 = 0x300;
const ICR_HIGH: u32 = 0x310;
/// ICR: the message is on its way.
const PENDING: u32 = 1 << 12;
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
/// Where the registers are mapped; 0: x2APIC mode. Only start-up changes it: the MSR that says so is not asked at each access.
static REGISTERS: AtomicU64 = AtomicU64::new(0);

fn in_x2apic_mode() -> bool {
    REGISTERS.load(Ordering::Relaxed) == 0
}

fn read_base() -> u64 {
    // SAFETY: every processor with VMX has a local APIC and this MSR.
    unsafe { rdmsr(IA32_APIC_BASE) }
}

/// Where a register is in memory; `None`: x2APIC mode.
fn register(offset: u32) -> Option<*mut u32> {
    let at = REGISTERS.load(Ordering::Relaxed);
    (at != 0).then(|| (at + u64::from(offset)) as *mut u32)
}

/// Where the registers lie in memory.
#[must_use]
pub(crate) fn base() -> Hpa {
    Hpa::new(read_base() & 0x000f_ffff_ffff_f000)
}

/// Where they are mapped, not cached.
#[must_use]
pub(crate) fn mapped_at() -> Hva {
    layout::DEVICES.add(base().as_u64())
}

fn read(offset: u32) -> u32 {
    // SAFETY: a local APIC register, by whichever way it is there; `pages` maps it.
    unsafe {
        match register(offset) {
            Some(register) => register.read_volatile(),
            None => rdmsr(X2APIC_MSRS + offset / 16) as u32,
        }
    }
}

fn write(offset: u32, value: u32) {
    // SAFETY: as above; the values written are those of this module.
    unsafe {
        match register(offset) {
            Some(register) => register.write_volatile(value),
            None => wrmsr(X2APIC_MSRS + offset / 16, u64::from(value)),
        }
    }
}

/// Does what some firmware does: leaves the local APIC in x2APIC mode. [`init`] comes after it (tests).
pub(crate) fn switch_to_x2apic_mode() {
    // SAFETY: this way between the modes is allowed, and before `init` nobody uses the registers in memory.
    unsafe { wrmsr(IA32_APIC_BASE, read_base() | ENABLED | X2APIC) };
}

/// Enables the boot CPU's local APIC, lets the PIC through, and measures the timer against the TSC.
pub(crate) fn init() {
    let is_in_memory = read_base() & X2APIC == 0;
    REGISTERS.store(if is_in_memory { mapped_at().as_u64() } else { 0 }, Ordering::Relaxed);
    enable();
    log::info!("local APIC in {} mode", if in_x2apic_mode() { "x2APIC" } else { "xAPIC" });
    write(LVT_LINT0, EXT_INT);
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

/// Enables another CPU's local APIC, in the boot CPU's mode.
pub(crate) fn init_another() {
    enable();
    write(LVT_LINT0, MASKED);
    write(LVT_TIMER, u32::from(TIMER));
}

fn enable() {
    let mode = if in_x2apic_mode() { X2APIC } else { 0 };
    // SAFETY: sets the global enable bit; the mode stays as it is, or goes from xAPIC to x2APIC.
    unsafe { wrmsr(IA32_APIC_BASE, read_base() | ENABLED | mode) };
    write(SPURIOUS_VECTOR, SOFTWARE_ENABLE | u32::from(SPURIOUS));
    write(LVT_ERROR, MASKED);
    write(DIVIDE, BY_1);
}

/// The id of this CPU's local APIC.
#[must_use]
pub(crate) fn id() -> u32 {
    if in_x2apic_mode() { read(ID) } else { read(ID) >> 24 }
}

/// A message to another CPU (SDM vol. 3A 11.6.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Message {
    /// Go to the state after reset, and wait.
    Init,
    /// Begin in real mode at this page.
    StartUp(u8),
    /// An interrupt.
    Vector(u8),
}

/// Sends a message to the CPU whose local APIC has this id.
pub(crate) fn send(apic_id: u32, message: Message) {
    /// Level "assert".
    const ASSERT: u32 = 1 << 14;
    let command = match message {
        Message::Init => 5 << 8 | ASSERT,
        Message::StartUp(page) => 6 << 8 | ASSERT | u32::from(page),
        Message::Vector(vector) => ASSERT | u32::from(vector),
    };
    if in_x2apic_mode() {
        // SAFETY: the interrupt command register; the vectors sent are Herald's. The write is no fence (11.12.3): what
        // the other CPU is to see must be there before.
        unsafe {
            asm!("mfence", "lfence", options(nostack));
            wrmsr(X2APIC_MSRS + ICR / 16, u64::from(apic_id) << 32 | u64::from(command));
        }
        return;
    }
    while read(ICR) & PENDING != 0 {
        core::hint::spin_loop();
    }
    write(ICR_HIGH, apic_id << 24);
    write(ICR, command);
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
